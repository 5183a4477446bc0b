"""The choice of the clips of a step, and the pixels of a clip. Nothing in this file knows the folders of a corpus.

The choice is a function of (seed, step): a resumed run draws what the undisturbed run would have drawn.
B clips, T frames.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.augment import NO_AUGMENTATION, Augmentation
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess
from m2raap.models.images import images_from_jpegs
from m2raap.models.video_clip import VideoCLIP

GROUPING_CHUNK = 4096  # clips among which similar ones are searched for, so that memory and time stay bounded


class PairSource(Protocol):
    """Clips with their frames and texts, wherever these are stored."""

    @property
    def num_clips(self) -> int: ...

    @property
    def clip_ids(self) -> Sequence[str]: ...

    def frames(self, clip: int) -> list[bytes]:
        """The clip's key-frames as JPEG bytes, in order of time."""
        ...

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        """(lang, text, origin) of the clip's active texts, in a fixed order."""
        ...


@dataclass
class ListSource:
    """A PairSource in memory: of every clip its id, frames, (lang, text, origin) triples and captions of frames."""

    clip_ids: list[str]
    jpegs: list[list[bytes]]
    pairs: list[list[tuple[str, str, str]]]
    frame_captions: list[list[str | None]] = field(default_factory=list)

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)

    def frames(self, clip: int) -> list[bytes]:
        return self.jpegs[clip]

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        return self.pairs[clip]

    def captions(self, clip: int) -> list[str | None]:
        return self.frame_captions[clip] if self.frame_captions else [None] * len(self.jpegs[clip])


def frames_digest(source: PairSource) -> str:
    """32 hex digits of SHA-256 over the ids and the frames of all clips."""
    state = hashlib.sha256()
    for clip, clip_id in enumerate(source.clip_ids):
        state.update(repr(clip_id).encode())
        for jpeg in source.frames(clip):
            state.update(hashlib.sha256(jpeg).digest())
    return state.hexdigest()[:32]


def clip_images(
    source: PairSource,
    clip: int,
    num_frames: int,
    preprocess: Preprocess,
    augment: Augmentation = NO_AUGMENTATION,
    epoch: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Images (T, 3, S, S) of a clip, and the mask (T,) of those that are no padding.

    Of more than T frames, the middles of T equal segments are taken, or what `augment` draws in `epoch`; fewer are padded.
    Raises M2raapError naming a clip that has no frames, or a frame that cannot be decoded.
    """
    jpegs = source.frames(clip)
    if not jpegs:
        raise M2raapError(f"clip '{source.clip_ids[clip]}' has no frames: drop it in a stage before adapt")
    clip_id = source.clip_ids[clip]
    jpegs = [jpegs[place] for place in augment.frames(clip_id, epoch, len(jpegs), num_frames)]
    try:
        images = images_from_jpegs(jpegs, preprocess, augment.crop(clip_id, epoch))
    except M2raapError as error:
        raise M2raapError(f"clip '{clip_id}': {error}") from None
    return padded(images, num_frames)


def padded(images_KCHW: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Images (T, 3, S, S): K <= T images, then zeros; and the mask (T,), False for the zeros."""
    count = len(images_KCHW)
    filled = torch.cat([images_KCHW, images_KCHW.new_zeros(num_frames - count, *images_KCHW.shape[1:])])
    return filled, torch.arange(num_frames) < count


def reverse_frames(inputs: Tensor, mask_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` (B, ..., T at `time_dim`, ...) with the frames of each clip in reversed order; padding stays behind them."""
    count_B1 = mask_BT.sum(1, keepdim=True)
    return _in_order(inputs, mask_BT, count_B1 - 1 - _places(mask_BT), time_dim)


def swap_halves(inputs: Tensor, mask_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` (B, ..., T at `time_dim`, ...) with the second half of each clip's frames before the first one.

    The middle one of an odd number of frames belongs to the second half; padding stays behind them.
    """
    count_B1 = mask_BT.sum(1, keepdim=True)
    return _in_order(inputs, mask_BT, (_places(mask_BT) + count_B1 // 2) % count_B1.clamp(min=1), time_dim)


def _places(mask_BT: Tensor) -> Tensor:
    return torch.arange(mask_BT.shape[1], device=mask_BT.device).expand_as(mask_BT)


def _in_order(inputs: Tensor, mask_BT: Tensor, source_BT: Tensor, time_dim: int) -> Tensor:
    """`inputs` with frame `source_BT` at each place that is no padding."""
    source_BT = torch.where(mask_BT, source_BT, _places(mask_BT))
    shape = [1] * inputs.dim()
    shape[0], shape[time_dim] = source_BT.shape
    return inputs.gather(time_dim, source_BT.reshape(shape).expand_as(inputs))


@dataclass(frozen=True)
class JpegFrames:
    """The pixels of clips, decoded again each time: for vision layers that learn, or whose cache would be too large."""

    source: PairSource
    preprocess: Preprocess
    num_frames: int
    decoders: int = 4
    augment: Augmentation = NO_AUGMENTATION
    time_dim: ClassVar[int] = 1

    def batch(self, clips: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, T, 3, S, S) and mask (B, T); of an epoch of training as `augment` draws them."""

        def load(clip: int) -> tuple[Tensor, Tensor]:
            return clip_images(self.source, int(clip), self.num_frames, self.preprocess, self.augment, epoch)

        with ThreadPoolExecutor(self.decoders) as pool:  # Pillow decodes outside Python's lock
            loaded = list(pool.map(load, clips))
        return torch.stack([images for images, _ in loaded]), torch.stack([mask for _, mask in loaded])

    def levels(self, model: VideoCLIP, images_BTCHW: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """What the model reads of the last vision layers (`VideoCLIP.levels_of_prefix`)."""
        return model.levels_of_images(images_BTCHW, mask_BT)


Place = tuple[int, int, int]  # a step, and the start and stop of a run of clips in its batch


class Prefetcher:
    """Reads the next clips in a thread while the model learns from the current ones."""

    def __init__(self, read: Callable[[Place], tuple[Tensor, Tensor]]) -> None:
        self.read = read
        self.pool = ThreadPoolExecutor(1)
        self.pending: dict[Place, Future[tuple[Tensor, Tensor]]] = {}
        self.data_wait_s = 0.0

    def get(self, place: Place, then: Place | None) -> tuple[Tensor, Tensor]:
        """The inputs and mask of `place`; starts to read `then`. Adds the seconds spent waiting to `data_wait_s`."""
        started = time.perf_counter()
        batch = self.pending.pop(place).result() if place in self.pending else self.read(place)
        self.data_wait_s += time.perf_counter() - started
        self.pending = {} if then is None else {then: self.pool.submit(self.read, then)}
        return batch

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class BatchSampler:
    """The clips of every step. Each epoch is a new seeded permutation of all clips, cut into whole batches.

    The clips that are left over at the end of an epoch are not trained on in it. With `group_size` > 1 a batch consists of
    groups of clips whose `looks_NE` (unit vectors) are similar, so that the model has to learn what distinguishes clips of
    similar looks: what happens in them, and in which order.
    """

    num_clips: int
    batch_size: int
    seed: int
    group_size: int = 1
    looks_NE: np.ndarray | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return min(self.batch_size, self.num_clips)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_clips // self.size

    def epoch(self, step: int) -> int:
        """The epoch (from 0) of a step (from 1)."""
        return (step - 1) // self.steps_per_epoch

    def clips(self, step: int) -> np.ndarray:
        """(B,) the clips of a step (from 1)."""
        epoch, place = self.epoch(step), (step - 1) % self.steps_per_epoch
        order = self._orders.get(epoch)
        if order is None:  # the prefetcher reads the next epoch's order while this epoch's is still in use
            order = self._orders[epoch] = self._order(epoch)
            self._orders.pop(epoch - 2, None)
        return order[place * self.size : (place + 1) * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0, epoch])
        order = rng.permutation(self.num_clips)
        if self.group_size == 1 or self.looks_NE is None:
            return order
        groups = []
        for start in range(0, self.num_clips, GROUPING_CHUNK):
            groups += _groups_of_alike(order[start : start + GROUPING_CHUNK], self.looks_NE, self.group_size)
        return np.concatenate([groups[place] for place in rng.permutation(len(groups))])


def _groups_of_alike(clips: np.ndarray, looks_NE: np.ndarray, size: int) -> list[np.ndarray]:
    """Greedy groups: the first clip without a group takes the nearest `size` - 1 others without a group, and so on."""
    similarity = looks_NE[clips] @ looks_NE[clips].T
    np.fill_diagonal(similarity, np.inf)
    ungrouped = np.ones(len(clips), bool)
    groups = []
    for place in range(len(clips)):
        if ungrouped[place]:
            similarity_to_ungrouped = np.where(ungrouped, similarity[place], -np.inf)
            group = np.argsort(-similarity_to_ungrouped, kind="stable")[: min(size, int(ungrouped.sum()))]
            ungrouped[group] = False
            groups.append(clips[group])
    return groups
