"""What training draws anew in every epoch from a clip's frames: which of them, and which part of the picture.

Every draw is a function of (seed, epoch, clip id), so that a resumed run, the chunks of gradient caching and several
processes read the same pixels. Validation and embedding draw nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from m2raap.adapt.config import AugmentConfig
from m2raap.core.spread import spread

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels
ASPECT_RATIOS = (3 / 4, 4 / 3)  # of width to height, in mmaction's and torchvision's RandomResizedCrop
ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """The draws of a run. `epoch` is None outside of training: then nothing is drawn."""

    cfg: AugmentConfig
    seed: int

    def frames(self, clip_id: str, epoch: int | None, num_stored: int, num_frames: int) -> list[int]:
        """Indices of `num_frames` of the stored frames, ascending; all of them where fewer are stored."""
        if epoch is None or not self.cfg.frame_jitter or num_stored <= num_frames:
            return spread(num_stored, num_frames)
        return frame_of_each_segment(num_stored, num_frames, self._rng(3, epoch, clip_id))

    def crop(self, clip_id: str, epoch: int | None) -> Callable[[int, int], Box] | None:
        """The part that is kept of a picture of (width, height): the same for all frames of a clip. None: no random crop."""
        if epoch is None or self.cfg.random_resized_crop is None:
            return None
        return partial(self._box, clip_id, epoch)

    def _box(self, clip_id: str, epoch: int, width: int, height: int) -> Box:
        assert self.cfg.random_resized_crop is not None
        return random_box(width, height, self.cfg.random_resized_crop, self._rng(5, epoch, clip_id))

    def _rng(self, purpose: int, epoch: int, clip_id: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, epoch, *clip_id.encode()])


NO_AUGMENTATION = Augmentation(AugmentConfig(), seed=0)


def frame_of_each_segment(num_stored: int, num_frames: int, rng: np.random.Generator) -> list[int]:
    """A random index of each of `num_frames` equal segments of the stored frames (STAN's UniformSample). Ascending."""
    edges = [place * num_stored // num_frames for place in range(num_frames + 1)]
    return [int(rng.integers(start, stop)) for start, stop in pairwise(edges)]


def random_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A random part of a picture: an area from `scale` (shares of the picture), a ratio of the sides from 3/4 to 4/3.

    The rule of RandomResizedCrop in mmaction and torchvision, whose generators are global: the same draws could not be
    made again in several threads. Where no attempt fits the picture, its largest square in the middle.
    """
    areas = rng.uniform(*scale, ATTEMPTS) * width * height
    ratios = np.exp(rng.uniform(math.log(ASPECT_RATIOS[0]), math.log(ASPECT_RATIOS[1]), ATTEMPTS))
    for area, ratio in zip(areas, ratios, strict=True):
        w, h = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if w <= width and h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
