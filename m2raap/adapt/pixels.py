"""The pixels of clips, decoded from their stored frames by threads or processes.

B clips, T frames, S side of the pictures that the backbone takes.
"""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.augment import NO_AUGMENTATION, Augmentation
from m2raap.adapt.decode import decode_clips
from m2raap.adapt.sources import PairSource
from m2raap.core.engine import LocalEngine, available_cores
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Preprocess
from m2raap.models.images import normalised
from m2raap.models.video_clip import VideoCLIP

PIECE_CLIPS = 4  # clips of one task of a decoder
THREADS = 4  # at most, and one a core; Pillow and OpenCV decode outside of Python's lock


class Decoding:
    """Decodes pieces of batches: in `processes` processes or, where that is 0, in threads of this one."""

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes
        self._engine: LocalEngine | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def executor(self) -> Executor:
        with self._lock:  # two threads read ahead
            if self._is_closed:
                raise RuntimeError("the decoders are closed")  # to a thread that nobody waits for any more
            if self.processes:
                self._engine = self._engine or LocalEngine(self.processes)
                return self._engine.pool()
            self._threads = self._threads or ThreadPoolExecutor(min(THREADS, available_cores()))
            return self._threads

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        if self._engine is not None:
            self._engine.close()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)


def decoder_processes(stated: int, on_gpu: bool, local_world_size: int) -> int:
    """Number of decoder processes of one of `local_world_size` processes that train on this machine.

    `stated`: the setting; 0: the cores over the processes where a GPU trains, and none on the CPU, which the decoders would take
    from the training.
    """
    if stated:
        return stated
    return max(1, available_cores() // local_world_size - 1) if on_gpu else 0


@dataclass(frozen=True)
class JpegFrames:
    """The pixels of clips, decoded again each time: for vision layers that learn, or whose cache would be too large.

    `decode`: exact is Pillow's arithmetic, as the transforms of open_clip; fast is OpenCV's (m2raap.models.pictures).
    `pinned`: whether batches lie in memory from which a GPU copies by itself.
    """

    source: PairSource
    preprocess: Preprocess
    num_frames: int
    decoding: Decoding
    augment: Augmentation = NO_AUGMENTATION
    decode: Literal["exact", "fast"] = "exact"
    pinned: bool = False
    spare: list[Tensor] = field(default_factory=list, compare=False)  # batches that were given back
    time_dim: ClassVar[int] = 1
    reads_ahead: ClassVar[int] = 2  # steps that the prefetcher reads ahead

    def batch(self, clips: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """Pixels (B, T, S, S, 3) in uint8, black where a clip has fewer frames, and the mask (B, T) of those that it has.

        Of more than T frames, the middles of T equal segments are taken, or what `augment` draws in `epoch`. Raises M2raapError
        naming a clip that has no frames, or a frame that cannot be decoded.
        """
        batch = self._empty(len(clips))
        pixels = batch.numpy()
        mask_BT = np.zeros((len(clips), self.num_frames), bool)
        args = (self.preprocess.resize, self.augment, epoch, self.decode == "fast")
        executor, pending = self.decoding.executor, []
        try:
            for start in range(0, len(clips), PIECE_CLIPS):
                items = [self._stored(int(clip), epoch) for clip in clips[start : start + PIECE_CLIPS]]
                places = [pixels[start + place, : len(jpegs)] for place, (_, jpegs) in enumerate(items)]
                for place, (_, jpegs) in enumerate(items, start):
                    mask_BT[place, : len(jpegs)] = True
                    pixels[place, len(jpegs) :] = 0
                # Threads write into the batch; processes send what they decoded.
                into = None if self.decoding.processes else places
                pending.append((places, executor.submit(decode_clips, items, *args, into)))
            for places, future in pending:
                for place, decoded in zip(places, future.result(), strict=True):
                    if decoded is not place:
                        place[:] = decoded
        except BrokenProcessPool:
            raise M2raapError(
                "a decoder process was killed, often because memory ran out; the same command resumes. Fewer of them "
                "(adapt.decoders) need less memory"
            ) from None
        finally:
            for _, future in pending:
                future.cancel()
        return batch, torch.from_numpy(mask_BT)

    def _empty(self, num_clips: int) -> Tensor:
        """Memory for a batch: one that was given back where it fits, because new memory costs as much as decoding a frame."""
        size = self.preprocess.image_size
        shape = (num_clips, self.num_frames, size, size, 3)
        try:
            batch = self.spare.pop()
        except IndexError:
            batch = torch.empty(0, dtype=torch.uint8)
        return batch if batch.shape == shape else torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)

    def give_back(self, batch: Tensor) -> None:
        """The pixels of a batch that nobody reads any more. Pinned memory goes back to torch, which knows when copies end."""
        if not self.pinned and len(self.spare) < self.reads_ahead + 1:
            self.spare.append(batch)

    def _stored(self, clip: int, epoch: int | None) -> tuple[str, list[bytes]]:
        """The id of a clip, and the JPEGs of the frames that are read of it."""
        clip_id, jpegs = self.source.clip_ids[clip], self.source.frames(clip)
        if not jpegs:
            raise M2raapError(f"clip '{clip_id}' has no frames: drop it in a stage before adapt")
        return clip_id, [jpegs[place] for place in self.augment.frames(clip_id, epoch, len(jpegs), self.num_frames)]

    def levels(self, model: VideoCLIP, pixels_BTHWC: Tensor, mask_BT: Tensor) -> list[Tensor]:
        """What the model reads of the last vision layers (`VideoCLIP.levels_of_prefix`)."""
        return model.levels_of_images(images_of(pixels_BTHWC, mask_BT, self.preprocess), mask_BT)


def images_of(pixels_BTHWC: Tensor, mask_BT: Tensor, preprocess: Preprocess) -> Tensor:
    """Images (B, T, 3, S, S) as the backbone takes them, on the device of the pixels; zeros for padding."""
    images = normalised(pixels_BTHWC.flatten(0, 1), preprocess).unflatten(0, pixels_BTHWC.shape[:2])
    return images.masked_fill_(~mask_BT[..., None, None, None], 0.0)
