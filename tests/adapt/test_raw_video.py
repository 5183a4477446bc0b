from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.augment import NO_AUGMENTATION, Augmentation
from m2raap.adapt.config import AdaptConfig, AugmentConfig
from m2raap.adapt.loop import adapt
from m2raap.adapt.raw_video import Decoders, RawVideos, VideoSource, places, videos_digest
from m2raap.adapt.sources import ListSource
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig, StanConfig
from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg
from m2raap.video.limits import VideoConfig
from m2raap.video.sample import ClipFile

COLOURS = ("red", "lime", "blue", "yellow", "white", "magenta", "cyan", "gray")


class Films(ListSource):
    """Clips whose frames are in files: eight pairs of colours, a second each."""

    limits = VideoConfig()

    def __init__(self, folder: Path) -> None:
        names = [f"{a} {b}" for a, b in zip(COLOURS, COLOURS[1:] + COLOURS[:1], strict=True)]
        super().__init__(names, [[] for _ in names], [[("en", f"{name} it is", "raw")] for name in names])
        self.folder = folder

    def video(self, clip: int) -> ClipFile:
        return ClipFile(self.folder / f"{clip}.mp4", 0.0, None if clip % 2 else 2.0)

    def video_digest(self, clip: int) -> str:
        return str(len(self.video(clip).path.read_bytes()))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    films = Films(tmp_path_factory.mktemp("films"))
    for number, name in enumerate(films.clip_ids):
        halves = [ffmpeg.input(f"color={c}:s=64x48:r=10:d=1", f="lavfi") for c in name.split()]
        path = str(films.folder / f"{number}.mp4")
        options = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv420p", "threads": 1}
        run_ffmpeg(ffmpeg.output(ffmpeg.concat(*halves), path, **options).compile(cmd=ffmpeg_exe()))
    return films


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(2, VideoConfig())
    yield decoders
    decoders.close()


@given(st.integers(1, 40), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 99)), st.text(max_size=9))
def test_a_frame_of_each_segment(num_frames: int, seed: int, epoch: int | None, clip_id: str) -> None:
    actual = places(num_frames, seed, epoch, clip_id)
    assert actual == places(num_frames, seed, epoch, clip_id)
    assert [int(place * num_frames + 1e-9) for place in actual] == list(range(num_frames))
    assert all(a < b for a, b in pairwise([*actual, 1.0]))
    if epoch is None:
        assert actual == pytest.approx([(t + 0.5) / num_frames for t in range(num_frames)])


def test_draws_differ_by_epoch_seed_and_clip() -> None:
    drawn = [(0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b")]
    assert len({tuple(places(4, *one)) for one in drawn}) == 4


def test_shows_the_clip_whatever_stands_beside_it(films: Films, backbone: Backbone, decoders: Decoders) -> None:
    assert isinstance(films, VideoSource)
    data = RawVideos(films, backbone.preprocess, 4, 0, decoders)
    images, mask = data.batch(np.array([1, 0]))
    assert images.shape == (2, 4, 32, 32, 3) and mask.all()
    strongest = images.float().mean((2, 3)).argmax(2)
    assert strongest.tolist() == [[1, 1, 2, 2], [0, 0, 1, 1]], "lime then blue, red then lime"
    other, _ = data.batch(np.array([5, 1, 7]))
    assert torch.equal(other[1], images[0])
    alone = Decoders(1, VideoConfig())
    with pytest.raises(M2raapError, match=r"clip 'red lime': .*gone.0\.mp4 .*\(missing_file"):
        RawVideos(Films(films.folder / "gone"), backbone.preprocess, 4, 0, alone).batch(np.array([0]))
    again, _ = RawVideos(films, backbone.preprocess, 4, 0, alone).batch(np.array([1, 0]))
    alone.close()
    assert torch.equal(again, images)
    drawn = [data.batch(np.array([1]), epoch)[0] for epoch in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    many = RawVideos(films, backbone.preprocess, 32, 0, decoders)
    images, mask = many.batch(np.array([1]))
    assert mask[0].tolist() == [True] * 19 + [False] * 13 and not images[0, 19:].any(), (
        "20 frames, one before all middles"
    )


def test_a_random_crop_is_one_for_the_clip_and_only_in_training(
    backbone: Backbone, decoders: Decoders, tmp_path: Path
) -> None:
    """A film that does not move and whose pixels all differ: after the crop its frames are still alike."""
    film = ffmpeg.input("nullsrc=s=64x48:r=20:d=2,geq=r=4*X:g=5*Y:b=128", f="lavfi")
    options = {"vcodec": "libx264", "preset": "ultrafast", "pix_fmt": "yuv444p", "crf": 1, "threads": 1}
    run_ffmpeg(ffmpeg.output(film, str(tmp_path / "0.mp4"), **options).compile(cmd=ffmpeg_exe()))
    augment = Augmentation(AugmentConfig(random_resized_crop=(0.1, 0.3)), seed=0)
    plain, cropped = (
        RawVideos(Films(tmp_path), backbone.preprocess, 4, 0, decoders, augment)
        for augment in (NO_AUGMENTATION, augment)
    )
    clip = np.array([0])
    assert torch.equal(cropped.batch(clip)[0], plain.batch(clip)[0])
    whole, part, later = (
        frames.batch(clip, epoch)[0][0].float() / 64 for frames, epoch in ((plain, 0), (cropped, 0), (cropped, 1))
    )
    assert torch.equal(cropped.batch(clip, 0)[0][0].float() / 64, part) and (part - later).abs().mean() > 0.1
    width = [(images[0, :, -1, 0] - images[0, :, 0, 0]).mean() for images in (whole, part)]
    assert 0.2 < width[1] / width[0] < 0.9, "the part spans less of the red that rises from left to right"
    assert (part - part[0]).abs().max() < 0.2 and (whole - whole[0]).abs().max() < 0.2


def test_training_is_resumed_to_the_same_weights(films: Films, tiny_dir: Path, tmp_path: Path) -> None:
    cfg = AdaptConfig(
        input="video", decoders=2, backbone=BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True),
        temporal=StanConfig(layers=1), num_frames=4, steps=5, batch_size=4, group_size=2, langs=("en",),
        val_every_steps=2, checkpoint_every_steps=2, threads=1,
    )  # fmt: skip
    whole = adapt(cfg, films, films, tmp_path / "whole")
    assert not adapt(cfg, films, films, tmp_path / "killed", stop_after=3).finished
    again = adapt(cfg.model_copy(), films, films, tmp_path / "killed")
    for name in ("train.jsonl", "model/model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert again.cache_bytes == whole.cache_bytes == 0


def test_the_digest_knows_the_bytes(films: Films, tmp_path: Path) -> None:
    other = Films(tmp_path)
    for clip in range(films.num_clips):
        other.video(clip).path.write_bytes(films.video(clip).path.read_bytes())
    assert videos_digest(other) == videos_digest(films)
    other.video(3).path.write_bytes(b"else")
    assert videos_digest(other) != videos_digest(films)


def test_a_kept_prefix_of_other_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"adapt\.cache=levels.*adapt\.input=video"):
        AdaptConfig(input="video", cache="levels")


def test_closing_does_not_wait_for_clips_that_were_not_begun(films: Films, backbone: Backbone) -> None:
    decoders = Decoders(1, VideoConfig())
    data = RawVideos(films, backbone.preprocess, 4, 0, decoders)
    data.batch(np.array([0]))
    with ThreadPoolExecutor(1) as reader:
        batch = reader.submit(data.batch, np.zeros(5000, int))
        began = time.monotonic()
        decoders.close()
        with pytest.raises((CancelledError, RuntimeError)):
            batch.result(timeout=5)
        assert time.monotonic() - began < 5
