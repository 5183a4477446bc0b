import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2raap.adapt.augment import ASPECT_RATIOS, Augmentation, random_box
from m2raap.adapt.captions import caption_table
from m2raap.adapt.config import AdaptConfig, AugmentConfig
from m2raap.adapt.loop import adapt
from m2raap.adapt.loss_config import LossConfig, TermConfig
from m2raap.adapt.pixels import Decoding, JpegFrames
from m2raap.core.config import build
from m2raap.core.errors import UsageError
from m2raap.models.backbone import Backbone
from m2raap.models.config import AcgConfig, BackboneConfig, MeanConfig, StanConfig
from m2raap.models.images import images_from_pictures
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import ordered, words_of

BOTH = AugmentConfig(random_resized_crop=(0.08, 1.0), frame_jitter=True)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 99))
def test_a_box_lies_in_the_picture(width: int, height: int, a: float, b: float, seed: int) -> None:
    low, high = sorted((a, b))
    left, top, right, bottom = random_box(width, height, (low, high), np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    w, h = right - left, bottom - top
    in_the_middle = w == h == min(width, height) and left == (width - w) // 2 and top == (height - h) // 2
    slack = (w + 1) * (h + 1) - w * h  # a side is rounded by up to half a pixel
    assert in_the_middle or low * width * height - slack <= w * h <= high * width * height + slack


CAPTIONS = LossConfig(frame_caption=TermConfig(weight=0.5))


def test_boxes_are_spread_over_areas_ratios_and_places() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(1000, 1000, (0.25, 0.64), rng) for _ in range(3000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.quantile(w * h / 1e6, [0.02, 0.5, 0.98]) == pytest.approx([0.258, 0.445, 0.632], abs=0.02)
    assert np.log(w / h).mean() == pytest.approx(0, abs=0.02)
    assert (w / h).min() > ASPECT_RATIOS[0] - 0.01 and (w / h).max() < ASPECT_RATIOS[1] + 0.01
    middle = (boxes[:, 0] + boxes[:, 2]) / 2
    assert middle.mean() == pytest.approx(500, abs=15) and middle.std() > 60


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5))
def test_a_frame_of_each_segment_in_training_and_the_middle_elsewhere(stored: int, frames: int, epoch: int) -> None:
    augment = Augmentation(BOTH, seed=0)
    drawn, fixed = (augment.frames("a", now, stored, frames) for now in (epoch, None))
    assert drawn == augment.frames("a", epoch, stored, frames) and len(drawn) == len(fixed) == min(stored, frames)
    if stored <= frames:
        assert drawn == fixed == list(range(stored))
    else:
        edges = [i * stored // frames for i in range(frames + 1)]
        assert all(lo <= i < hi for lo, i, hi in zip(edges, drawn, edges[1:], strict=False))
    assert fixed == Augmentation(AugmentConfig(), seed=0).frames("a", epoch, stored, frames)


def test_every_frame_is_drawn_sometime_and_draws_differ() -> None:
    augment = Augmentation(BOTH, seed=0)
    seen = {frame for epoch in range(40) for frame in augment.frames("a", epoch, 8, 4)}
    assert seen == set(range(8))
    crops = [
        Augmentation(BOTH, seed).crop(clip_id, epoch)
        for seed, clip_id, epoch in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))
    ]
    assert len({crop(320, 240) for crop in crops if crop}) == 4
    assert augment.crop("a", None) is None and Augmentation(AugmentConfig(), 0).crop("a", 0) is None


def test_all_frames_of_a_clip_show_the_same_part_and_it_is_the_named_one(backbone: Backbone) -> None:
    columns, rows = np.meshgrid(np.arange(60), np.arange(40))
    picture = Image.fromarray(np.stack([columns * 4, rows * 6, columns * 0], -1).astype(np.uint8))
    crop = Augmentation(BOTH, 0).crop("a", 2)
    assert crop is not None
    images = images_from_pictures([picture, picture], backbone.preprocess, crop)
    assert torch.equal(images[0], images[1])
    left, top, right, bottom = crop(60, 40)
    mean, std = (torch.tensor(getattr(backbone.preprocess, name))[:, None, None] for name in ("mean", "std"))
    pixels = (images[0] * std + mean) * 255
    assert pixels[0, 0, 0] / 4 == pytest.approx(left, abs=1.5) and pixels[0, 0, -1] / 4 == pytest.approx(right, abs=1.5)
    assert pixels[1, 0, 0] / 6 == pytest.approx(top, abs=1.5) and pixels[1, -1, 0] / 6 == pytest.approx(bottom, abs=1.5)


def test_a_clip_is_drawn_alike_whatever_stands_beside_it(backbone: Backbone) -> None:
    source = ordered(4, 0, frames=9)
    frames = JpegFrames(source, backbone.preprocess, 3, Decoding(), Augmentation(BOTH, 0))
    images, mask = frames.batch(np.array([2, 0]), epoch=1)
    assert images.shape == (2, 3, 32, 32, 3) and mask.all()
    assert torch.equal(frames.batch(np.array([1, 3, 2]), epoch=1)[0][2], images[0])
    assert not torch.equal(frames.batch(np.array([2]), epoch=2)[0][0], images[0])
    plain = JpegFrames(source, backbone.preprocess, 3, Decoding())
    assert torch.equal(frames.batch(np.array([2, 0]))[0], plain.batch(np.array([2, 0]), epoch=1)[0])


def test_captions_are_those_of_the_drawn_frames(backbone: Backbone) -> None:
    source = ordered(3, 0, frames=9)
    source.frame_captions = [[f"{clip} {frame}" for frame in range(9)] for clip in range(3)]
    augment = Augmentation(BOTH, 0)
    table = caption_table(source, VideoCLIP(backbone, MeanConfig(), AcgConfig()), 3, augment)
    for epoch in (None, 0, 1, 2):
        words = words_of(table, np.array([2, 0]), epoch)
        expected = [augment.frames(f"clip{clip}", epoch, 9, 3) for clip in (2, 0)]
        assert words == [[f"{clip} {f}" for f in row] for clip, row in zip((2, 0), expected, strict=True)]


def settings(tiny_dir: Path, **changes: object) -> AdaptConfig:
    tree = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "temporal": StanConfig(layers=2),
        "num_frames": 4, "steps": 6, "batch_size": 4, "threads": 1, "val_every_steps": 3, "checkpoint_every_steps": 4,
        "keep": "last", "augment": BOTH,
    }  # fmt: skip
    return AdaptConfig.model_validate(tree | changes)


def test_a_killed_augmented_run_ends_as_the_undisturbed_one_and_chunks_agree(tiny_dir: Path, tmp_path: Path) -> None:
    cfg, source, val = (
        settings(tiny_dir, acg=AcgConfig(), loss=CAPTIONS),
        ordered(9, 0, frames=8),
        ordered(4, 1),
    )
    whole = adapt(cfg, source, val, tmp_path / "whole")
    adapt(cfg, source, val, tmp_path / "killed", stop_after=5)
    again = adapt(cfg, source, val, tmp_path / "killed")
    assert (again.model_dir / "model.safetensors").read_bytes() == (whole.model_dir / "model.safetensors").read_bytes()
    assert whole.cache_bytes == 0, "frames that change cannot be cached"
    adapt(
        settings(tiny_dir, acg=AcgConfig(), loss=CAPTIONS, micro_batch=2),
        source,
        val,
        tmp_path / "chunks",
    )
    adapt(
        settings(tiny_dir, acg=AcgConfig(), loss=CAPTIONS, augment={}),
        source,
        val,
        tmp_path / "fixed",
    )
    losses = {
        name: [row["loss"] for row in log(tmp_path / name) if "loss" in row] for name in ("whole", "chunks", "fixed")
    }
    assert losses["chunks"] == pytest.approx(losses["whole"], abs=1e-4)
    assert losses["fixed"] != pytest.approx(losses["whole"], abs=1e-3)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]


def test_jitter_without_frames_to_choose_from_is_a_warning(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for frames in (4, 5):
        adapt(settings(tiny_dir), ordered(5, 0, frames=frames), None, tmp_path / str(frames), stop_after=0)
        assert ("frame_jitter changes nothing" in capsys.readouterr().err) is (frames == 4)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"cache": "prefix", "augment": {"frame_jitter": True}}, r"adapt\.cache=prefix.*adapt\.augment"),
        ({"cache": "levels", "augment": {"random_resized_crop": [0.5, 1]}}, r"adapt\.cache=levels.*adapt\.augment"),
        ({"augment": {"random_resized_crop": [1, 0.5]}}, r"random_resized_crop.*\[0\.08, 1\.0\]"),
        ({"augment": {"random_resized_crop": [0.0, 0.5]}}, r"random_resized_crop.*\[0\.08, 1\.0\]"),
    ],
)
def test_what_cannot_be_is_named(tree: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(AdaptConfig, tree, "recipe.yaml")
