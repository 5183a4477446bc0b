"""Model files that are damaged or impossible, and disks that are full, end in one sentence."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from m2raap.adapt.checkpoint import load_checkpoint
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import MeanConfig
from m2raap.models.open_clip_config import read_model_config
from m2raap.models.video_clip import VideoCLIP


@pytest.fixture
def saved(backbone: Backbone, tmp_path: Path) -> Path:
    VideoCLIP(backbone, MeanConfig()).save(tmp_path / "m")
    return tmp_path / "m"


def test_weights_with_a_flipped_bit_are_not_loaded(saved: Path):
    VideoCLIP.load(saved)
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(M2raapError, match=f"{saved}: .*digest of model.json"):
        VideoCLIP.load(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temporal", {"name": "seqtransf", "layers": -1}), ("temporal", {"name": "seqtransf", "max_frames": 2_000_000_000}),
        ("temporal", []), ("acg", 3), ("format", None), ("made_from", None), ("digest", 1),
    ],
)  # fmt: skip
def test_impossible_settings_of_a_model_are_refused(saved: Path, key: str, value: object):
    tree = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps(tree | {key: value}))
    with pytest.raises(M2raapError, match=str(saved)):
        VideoCLIP.load(saved)


@pytest.mark.parametrize("layers", [-1, 1 << 40])
def test_impossible_sizes_in_a_configuration_of_open_clip_are_refused(saved: Path, layers: int):
    path = saved / "backbone" / "open_clip_config.json"
    tree = json.loads(path.read_text())
    tree["model_cfg"]["vision_cfg"]["layers"] = layers
    path.write_text(json.dumps(tree))
    with pytest.raises(M2raapError, match=rf"{path}: .*vision_cfg.layers.*{layers}"):
        read_model_config(f"local-dir:{path.parent}")


def test_a_tokenizer_of_another_model_is_refused(backbone: Backbone, monkeypatch: pytest.MonkeyPatch):
    num_ids = backbone.text.num_ids
    assert num_ids
    monkeypatch.setattr(backbone.text, "words", lambda texts, size: torch.full((1, 8), num_ids))
    with pytest.raises(M2raapError, match=f"{num_ids}, .* {num_ids} tokens"):
        backbone.tokenize(["a"])


@pytest.mark.parametrize(
    "content", [[1, 2], {"trained": {}}, {"key": 3}, {"key": "k"}, {"key": "k", "trained": {"x": 1}}]
)
def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, content: object):
    torch.save(content, tmp_path / "checkpoint-00000004.pt")
    model = torch.nn.Linear(2, 2)
    with pytest.raises(M2raapError, match="checkpoint-00000004.pt: cannot be read .*remove it"):
        load_checkpoint(tmp_path, "k", model, torch.optim.SGD(model.parameters()))


def test_a_full_disk_is_named(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import safetensors.torch

    model = VideoCLIP.load(saved)

    def full(weights: dict[str, torch.Tensor], path: Path) -> None:
        raise safetensors.SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(M2raapError, match=r"full/model.safetensors: the disk is full"):
        model.save(tmp_path / "full")
