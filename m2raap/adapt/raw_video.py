"""Frames decoded from the video files again in every epoch: the input that stored key-frames are compared with.

A training epoch takes a random frame of each of T equal segments of a clip, as STAN does on WebVid; validation takes their
midpoints. What is drawn is a function of (seed, epoch, clip id). B clips, T frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.augment import NO_AUGMENTATION, Augmentation
from m2raap.adapt.pixels import images_of
from m2raap.adapt.sources import PairSource
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess
from m2raap.models.pictures import pixels_from_pictures
from m2raap.models.video_clip import VideoCLIP
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.sample import ClipFile
from m2raap.video.worker import VideoWorker


@runtime_checkable
class VideoSource(PairSource, Protocol):
    """A PairSource that also knows the video files."""

    @property
    def limits(self) -> VideoConfig: ...

    def video(self, clip: int) -> ClipFile:
        """The video file and the times of the clip in it. Raises M2raapError where the file does not exist any more."""
        ...

    def video_digest(self, clip: int) -> str:
        """A digest of the bytes of the clip's video file."""
        ...


def videos_digest(source: VideoSource) -> str:
    """32 hex digits of SHA-256 over ids, texts, times and the bytes of every video."""
    state = hashlib.sha256()
    for clip, clip_id in enumerate(source.clip_ids):
        file = source.video(clip)
        state.update(repr((clip_id, source.texts(clip), file.start_s, file.end_s, source.video_digest(clip))).encode())
    return state.hexdigest()[:32]


def places(num_frames: int, seed: int, epoch: int | None, clip_id: str) -> list[float]:
    """Times of the frames as shares (0..1) of the clip, ascending: random in each segment, or the middles for epoch None."""
    within = np.full(num_frames, 0.5)
    if epoch is not None:
        within = np.random.default_rng([seed, 3, epoch, *clip_id.encode()]).random(num_frames)
    return ((np.arange(num_frames) + within) / num_frames).tolist()


class Decoders:
    """`count` killable decoder processes, each driven by a thread; they decode the next batch during a step."""

    def __init__(self, count: int, limits: VideoConfig) -> None:
        self.count = count
        self.threads = ThreadPoolExecutor(count)
        self._workers = [VideoWorker(limits) for _ in range(count)]
        self._idle: SimpleQueue[VideoWorker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    @contextmanager
    def worker(self) -> Iterator[VideoWorker]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Finishes the clips that are being decoded, and starts no others."""
        self.threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()


@dataclass(frozen=True)
class RawVideos:
    """The pixels of clips, decoded from their video files batch by batch."""

    source: VideoSource
    preprocess: Preprocess
    num_frames: int
    seed: int
    decoders: Decoders
    augment: Augmentation = NO_AUGMENTATION
    time_dim: ClassVar[int] = 1
    reads_ahead: ClassVar[int] = 1

    def batch(self, clips: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, T, S, S, 3) in uint8 and mask (B, T). Raises M2raapError naming a clip that can no longer be decoded."""
        loaded = list(self.decoders.threads.map(lambda clip: self._load(int(clip), epoch), clips))
        size = self.preprocess.image_size
        pixels = np.zeros((len(clips), self.num_frames, size, size, 3), np.uint8)
        mask_BT = np.zeros((len(clips), self.num_frames), bool)
        for place, pixels_THWC in enumerate(loaded):
            pixels[place, : len(pixels_THWC)] = pixels_THWC
            mask_BT[place, : len(pixels_THWC)] = True
        return torch.from_numpy(pixels), torch.from_numpy(mask_BT)

    def give_back(self, batch: Tensor) -> None:
        """Nothing is read into the same memory again."""

    def levels(self, model: VideoCLIP, pixels_BTHWC: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """What the model reads of the last vision layers (`VideoCLIP.levels_of_prefix`)."""
        return model.levels_of_images(images_of(pixels_BTHWC, mask_BT, self.preprocess), mask_BT)

    def _load(self, clip: int, epoch: int | None) -> np.ndarray:
        from PIL import Image

        clip_id, file = self.source.clip_ids[clip], self.source.video(clip)
        frame_places = places(self.num_frames, self.seed, epoch, clip_id)
        crop, short_side_px = self.augment.crop(clip_id, epoch), self.preprocess.image_size
        if crop is not None:  # as STAN: a part of frames of 256 px becomes 224 px
            short_side_px = short_side_px * 8 // 7
        try:
            with self.decoders.worker() as worker:
                frames = worker.sample(file.path, file.start_s, file.end_s, frame_places, short_side_px)
        except Refused as refused:
            raise M2raapError(
                f"clip '{clip_id}': {file.path} gave no frames during training ({refused}), although the stage keyframes could "
                "read it: the file has changed, or the machine is too busy. Run keyframes again with --force, raise "
                "keyframes.decode.timeout_s, or train on stored frames (adapt.input=keyframes)"
            ) from None
        pictures = [Image.frombytes("RGB", (frames.width, frames.height), data) for data in frames.pixels]
        return pixels_from_pictures(pictures, self.preprocess.resize, crop)
