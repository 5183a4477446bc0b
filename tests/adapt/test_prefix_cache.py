import fcntl
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.adapt import prefix_cache
from m2raap.adapt.pixels import Decoding, JpegFrames, images_of
from m2raap.adapt.prefix_cache import PrefixCache, PrefixLayout, drop_caches, open_prefix_cache
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import StanConfig
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import ordered

LAYOUT = PrefixLayout("prefix", 2, 4)


def make(root: Path, backbone: Backbone, frames: str = "k", **hooks: object) -> PrefixCache:
    progress = hooks.get("progress", lambda *_: None)
    model = VideoCLIP(backbone, StanConfig(layers=2, patch_pool=hooks.get("patch_pool", 2)))
    layout, limit = hooks.get("layout", LAYOUT), hooks.get("limit", math.inf)
    return open_prefix_cache(root, frames, ordered(20, 0, 3), model, layout, progress, limit)  # type: ignore[arg-type]


def test_holds_the_prefix_tokens(backbone: Backbone, tmp_path: Path) -> None:
    cache = make(tmp_path, backbone)
    clips = np.array([7, 0, 19])
    tokens, mask = cache.batch(clips)
    pixels, there = JpegFrames(ordered(20, 0, 3), backbone.preprocess, 4, Decoding()).batch(clips)
    images = images_of(pixels, there, backbone.preprocess)
    with torch.no_grad():
        expected = backbone.prefix_tokens(images.flatten(0, 1), 2).unflatten(0, (3, 4))
    assert torch.equal(mask, there) and mask.sum() == 9
    torch.testing.assert_close(tokens[:, 0], expected.half(), atol=1e-3, rtol=1e-3)


def vectors(model: VideoCLIP, data: PrefixCache | JpegFrames, clips: np.ndarray) -> torch.Tensor:
    inputs, mask = data.batch(clips)
    return model.frame_vectors(data.levels(model, inputs, mask), mask)


@pytest.mark.parametrize("kind", ["prefix", "levels"])
def test_encodes_as_the_pixels_do(backbone: Backbone, tmp_path: Path, kind: str) -> None:
    layout = PrefixLayout(kind, 3, 4)  # type: ignore[arg-type]
    cache, live = (
        make(tmp_path, backbone, layout=layout),
        JpegFrames(ordered(20, 0, 3), backbone.preprocess, 4, Decoding()),
    )
    model = VideoCLIP(backbone, StanConfig(layers=2, patch_pool=2, start="open"))
    with torch.no_grad():
        cached, lively = (vectors(model, data, np.array([3, 11])) for data in (cache, live))
    torch.testing.assert_close(cached, lively, atol=1e-3, rtol=0)
    assert cache.tokens_BVTSD.nbytes == layout.num_bytes(model, 20)
    assert cache.tokens_BVTSD.shape == ((20, 1, 4, 17, 64) if kind == "prefix" else (20, 2, 4, 5, 64))


def test_goes_on_where_it_was_stopped(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "SAVE_EVERY_CHUNKS", 1)
    whole = make(tmp_path / "whole", backbone)
    done_counts: list[int] = []

    def stop_at_16(what: str, done: int, total: int) -> None:
        done_counts.append(done)
        if len(done_counts) == 4:
            raise KeyboardInterrupt

    for name, resumed in (("", True), ("tokens.part", False), ("mask.npy", False)):
        done_counts.clear()
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / f"cut{name}", backbone, progress=stop_at_16)
        if name:  # damaged, or cut off when the process was killed
            (path,) = tmp_path.glob(f"cut{name}/*/{name}")
            path.write_bytes(path.read_bytes()[:200])
        done_counts.clear()
        again = make(tmp_path / f"cut{name}", backbone, progress=lambda what, done, total: done_counts.append(done))
        assert done_counts == ([0, 20] if resumed else [0, 8, 16, 20])
        assert np.array_equal(again.tokens_BVTSD, whole.tokens_BVTSD) and np.array_equal(again.mask_BT, whole.mask_BT)


def test_a_damaged_cache_is_made_again(backbone: Backbone, tmp_path: Path) -> None:
    whole = make(tmp_path, backbone)
    (folder,) = tmp_path.glob("*/")
    tokens = (folder / "tokens.npy").read_bytes()
    for name, data in (
        ("tokens.npy", tokens[:-1] + bytes([tokens[-1] ^ 1])),
        ("tokens.npy", tokens[:200]),
        ("mask.npy", b""),
        ("state.json", b'{"done": []}'),
        ("state.json", None),
    ):
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)
        again = make(tmp_path, backbone)
        assert np.array_equal(again.tokens_BVTSD, whole.tokens_BVTSD) and np.array_equal(again.mask_BT, whole.mask_BT)
        assert (folder / "tokens.npy").read_bytes() == tokens


def test_is_made_once_and_anew_for_other_content(backbone: Backbone, tmp_path: Path) -> None:
    levels = PrefixLayout("levels", 2, 4)
    done_counts: list[int] = []
    for frames, layout, patch_pool in (
        ("a", LAYOUT, 2), ("a", LAYOUT, 1), ("b", LAYOUT, 2), ("a", levels, 2), ("a", levels, 1), ("a", levels, 2),
        ("a", LAYOUT, 2),
    ):  # fmt: skip
        progress = lambda what, done, total: done_counts.append(done)  # noqa: E731
        make(tmp_path, backbone, frames, layout=layout, patch_pool=patch_pool, progress=progress)
    assert done_counts == [0, 8, 16, 20] * 4, "the prefix does not depend on the branch, its levels do"
    drop_caches(tmp_path)
    assert not tmp_path.exists()


def test_the_least_used_goes_where_room_is_short(backbone: Backbone, tmp_path: Path) -> None:
    one = make(tmp_path, backbone, "a")
    before = one.tokens_BVTSD.copy()
    make(tmp_path, backbone, "b")
    size = LAYOUT.num_bytes(VideoCLIP(backbone, StanConfig(layers=2)), 20)
    make(tmp_path, backbone, "c", limit=2.5 * size)
    assert len(list(tmp_path.glob("*/tokens.npy"))) == 2
    assert np.array_equal(one.tokens_BVTSD, before), "what is open stays readable"


def test_who_comes_while_it_is_made_waits_and_finds_it(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, second_at_lock, done_counts = threading.Event(), threading.Event(), []
    flock = fcntl.flock

    def announced_flock(file: object, operation: int) -> None:
        if began.is_set():
            second_at_lock.set()
        flock(file, operation)  # type: ignore[arg-type]

    def until_the_second_waits(what: str, done: int, total: int) -> None:
        began.set()
        assert second_at_lock.wait(60)

    monkeypatch.setattr(prefix_cache.fcntl, "flock", announced_flock)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(make, tmp_path, backbone, progress=until_the_second_waits)
        assert began.wait(60)
        second = make(tmp_path, backbone, progress=lambda what, done, total: done_counts.append(done))
        assert done_counts == [] and np.array_equal(second.tokens_BVTSD, first.result().tokens_BVTSD)


def test_a_full_disk_is_told_before(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(prefix_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(M2raapError, match=r"adapt\.cache=off"):
        make(tmp_path, backbone)
