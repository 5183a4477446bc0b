"""Steps on all clips: exact whatever the chunks, downhill, and not what averages over shards give."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.loop import adapt
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.prepare import prepare
from m2raap.adapt.step import gradients
from m2raap.models.config import BackboneConfig, StanConfig
from tests.adapt.world import ordered

NUM_CLIPS = 24


def config(tiny_dir: Path, **changes: Any) -> AdaptConfig:
    backbone = BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True)
    values = {
        "temporal": StanConfig(layers=1),
        "num_frames": 4,
        "steps": 12,
        "temperature": 0.1,
        "threads": 1,
        "keep": "last",
    }
    return AdaptConfig(**{"backbone": backbone, "full_batch": True, "train_text": False, **values, **changes})


def trained(cfg: AdaptConfig, out: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    adapt(cfg, ordered(NUM_CLIPS, 0), None, out)
    log = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [line["loss"] for line in log if "loss" in line], load_file(out / "model" / "model.safetensors")


def test_chunks_change_nothing_and_the_loss_falls(tiny_dir: Path, tmp_path: Path):
    whole_losses, whole = trained(config(tiny_dir, batch_size=64), tmp_path / "whole")
    losses, weights = trained(config(tiny_dir, batch_size=5), tmp_path / "chunks")
    assert len(losses) == 12 and losses[-1] < 0.98 * losses[0]
    assert sum(after > before for before, after in pairwise(losses)) <= 2
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(whole_losses), atol=1e-5, rtol=1e-5)
    # The first step is as long as the rate for every weight; where a gradient is 0 but for rounding, its sign is chance.
    moved = {name: (weights[name] - whole[name]).abs().max() for name in whole}
    assert max(moved.values()) < 0.05


def gradient(cfg: AdaptConfig, num_clips: slice, out: Path) -> list[torch.Tensor]:
    """Of step 1 on some of the clips."""
    source = ordered(NUM_CLIPS, 0)
    for name in ("clip_ids", "jpegs", "pairs", "frame_captions"):
        setattr(source, name, getattr(source, name)[num_clips])
    state = prepare(cfg, source, None, out, lambda *_: None, DistContext(), Decoding())
    try:
        gradients(state, state.prefetcher.get(1))
        return [p.grad.clone() for p in state.model.temporal.parameters() if p.grad is not None]
    finally:
        state.close()


def test_the_average_over_shards_is_not_the_gradient(tiny_dir: Path, tmp_path: Path):
    """The other clips of a contrastive loss are those of all shards: gradient caching is exact, averaging is not."""
    start = {"temporal": StanConfig(layers=1, start="open")}
    whole = torch.cat([g.flatten() for g in gradient(config(tiny_dir, **start), slice(None), tmp_path / "whole")])
    chunked = torch.cat(
        [g.flatten() for g in gradient(config(tiny_dir, **start, batch_size=6), slice(None), tmp_path / "c")]
    )
    shards = [
        gradient(config(tiny_dir, **start), slice(at, at + 6), tmp_path / f"shard{at}") for at in range(0, NUM_CLIPS, 6)
    ]
    naive = torch.stack([torch.cat([g.flatten() for g in shard]) for shard in shards]).mean(0)
    assert (chunked - whole).abs().max() < 1e-6 * max(1.0, float(whole.abs().max()))
    cosine = torch.nn.functional.cosine_similarity(naive, whole, dim=0)
    assert cosine < 0.97 and (naive - whole).abs().max() > 0.05 * whole.abs().max()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train_text": True}, "adapt.train_text"),
        ({"precision": "bf16"}, "adapt.precision"),
        ({"augment": {"random_resized_crop": [0.5, 1.0]}}, "adapt.augment"),
        ({"augment": {"frame_jitter": True}}, "adapt.augment"),
    ],
)
def test_what_changes_between_steps_is_refused(tiny_dir: Path, changes: dict[str, Any], key: str):
    with pytest.raises(ValueError, match=key):
        config(tiny_dir, **changes)
