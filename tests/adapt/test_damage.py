"""Files of a training that were damaged, exchanged or lost between two of its commands: noticed, never learnt from."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.adapt.checkpoint import checkpoints, load_tree, save_tree
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loop import adapt
from m2raap.core.errors import M2raapError
from m2raap.models.config import StanConfig
from tests.adapt.test_gradcache import but
from tests.adapt.world import ordered


@pytest.fixture
def cfg(tiny_dir: Path) -> AdaptConfig:
    return but(tiny_dir, temporal=StanConfig(layers=1), steps=3, checkpoint_every_steps=1, cache="off", batch_size=4)


@pytest.fixture
def begun(cfg: AdaptConfig, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    assert not adapt(cfg, ordered(6, 0), None, out, stop_after=2).finished
    return out


def test_a_flipped_bit_in_a_checkpoint_is_noticed(cfg: AdaptConfig, begun: Path) -> None:
    path = checkpoints(begun / "scratch")[-1]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 8
    path.write_bytes(data)
    with pytest.raises(M2raapError, match="checksum"):
        adapt(cfg, ordered(6, 0), None, begun)
    path.write_bytes(b"")
    with pytest.raises(M2raapError, match="it is empty"):
        adapt(cfg, ordered(6, 0), None, begun)


@pytest.mark.parametrize("damage", ["reversed", "floats", "flat", "other ids"])
def test_tokens_that_changed_are_made_again(damage: str, cfg: AdaptConfig, begun: Path, tmp_path: Path) -> None:
    path = begun / "scratch" / "tokens" / "train-texts.npy"
    ids = np.load(path)
    changes = {"reversed": ids[::-1], "floats": ids.astype(np.float32), "flat": ids.ravel(), "other ids": ids + 10**6}
    np.save(path, changes[damage])
    whole = adapt(cfg, ordered(6, 0), None, tmp_path / "whole")
    again = adapt(cfg, ordered(6, 0), None, begun)
    weights = [(result.model_dir / "model.safetensors").read_bytes() for result in (whole, again)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("damage", ["absent", "short", "other"])
def test_a_lost_log_is_named_before_anything_is_trained(damage: str, cfg: AdaptConfig, begun: Path) -> None:
    path = begun / "train.jsonl"
    data = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(data[:50] if damage == "short" else b"\0" * len(data))
    with pytest.raises(M2raapError, match="not the log of the checkpoints"):
        adapt(cfg, ordered(6, 0), None, begun)
    path.write_bytes(data)
    assert adapt(cfg, ordered(6, 0), None, begun).finished


def test_a_cache_whose_state_names_no_digests_is_made_again(tiny_dir: Path, tmp_path: Path) -> None:
    cfg = but(tiny_dir, temporal=StanConfig(layers=1), steps=2, cache="levels", batch_size=4)
    caches = tmp_path / "caches"
    whole = adapt(cfg, ordered(6, 0), None, tmp_path / "whole", caches=caches)
    (folder,) = (path for path in caches.iterdir() if path.is_dir())
    tokens = np.load(folder / "tokens.npy")
    np.save(folder / "tokens.npy", -tokens)
    np.save(folder / "mask.npy", np.ones((6, 9), bool))
    (folder / "state.json").write_text(json.dumps({"done": 6}))
    again = adapt(cfg, ordered(6, 0), None, tmp_path / "again", caches=caches)
    weights = [(result.model_dir / "model.safetensors").read_bytes() for result in (whole, again)]
    assert weights[0] == weights[1]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    tree = {"weights": torch.zeros(100_000)}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(M2raapError, match="the disk is full"):
            save_tree(tmp_path / "checkpoint.pt", tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    save_tree(tmp_path / "checkpoint.pt", tree)
    assert torch.equal(load_tree(tmp_path / "checkpoint.pt")["weights"], tree["weights"])
