"""Sound frames held until the cuts are known, in bounded memory and spread over the clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2raap.video.choose import middles

if TYPE_CHECKING:
    import numpy as np

# Held decoded (cheap now, converted later) while all of them stay under this; else each is made small at once.
HELD_BYTES = 160 * 1024**2
# Candidates a pick: one each eighth of a second, within these bounds; the fewest where each has to be made small. A held
# frame costs the decoder fresh memory, a sixth of a decode.
EVERY_S = 0.125
FEWEST, MOST = 4, 12
AFTER_CUT_S = 0.3  # a new shot is sampled this long after its cut


@dataclass
class Held:
    time_s: float
    until_s: float  # when the next frame is shown
    plane_HWC: np.ndarray  # uint8 BGR
    is_key: bool
    is_middle: bool  # seen in the middle of one of k equal segments
    picture: Any  # av.VideoFrame or a small PIL image


class FramePool:
    """At most `capacity` frames of a clip.

    The first k always enter, later ones if they are seen at a point of a time grid (the middles of k equal segments lie
    on it). When full, the frame whose loss leaves the shortest gap goes, but none of those middles; the only frame of a
    shot stays while it can.
    """

    def __init__(
        self, k: int, window_s: float, frame_bytes: int, shrink: Callable[[Any], Any], keep_keys: bool = False
    ) -> None:
        """`window_s`: announced length of the clip, 0 if unknown. `shrink`: decoded frame -> small picture. `keep_keys`:
        I-frames always enter, and stay longest."""
        self._k, self._keep_keys = k, keep_keys
        per_pick = MOST
        if window_s > 0:
            per_pick = min(
                MOST, max(FEWEST, 2 * round(window_s / k / EVERY_S / 2))
            )  # even: the middles lie on the grid
        held_decoded = per_pick * k * frame_bytes <= HELD_BYTES
        self.capacity = (per_pick if held_decoded else FEWEST) * k
        self._step_s = window_s / self.capacity
        self._next_s = 0.0
        self._middles_s = middles(window_s, k)
        self._shrink = None if held_decoded else shrink
        self._shot_starts_s: list[float] = [0.0]
        self._wanted_at_s: list[float] = []
        self.frames: list[Held] = []

    def cut_at(self, cuts_s: list[float]) -> None:
        """Tells all cuts known so far: each new shot gets a frame soon."""
        for cut_s in cuts_s:
            if cut_s not in self._shot_starts_s:
                self._shot_starts_s.append(cut_s)
                self._wanted_at_s.append(cut_s + AFTER_CUT_S)
        self._shot_starts_s.sort()

    def offer(self, time_s: float, until_s: float, plane_HWC: np.ndarray, picture: Any, is_key: bool = False) -> None:
        """A frame that is seen from `time_s` until `until_s`, when the next one is."""
        due = any(wanted_s < until_s for wanted_s in self._wanted_at_s)
        on_grid = self._next_s < until_s - 1e-6
        if not (due or on_grid or len(self.frames) < self._k or (is_key and self._keep_keys)):
            return
        if on_grid and self._step_s > 0:
            self._next_s = math.ceil((until_s - 1e-6) / self._step_s) * self._step_s
        if due:
            self._wanted_at_s = [w for w in self._wanted_at_s if w >= until_s]
        shrunk = self._shrink(picture) if self._shrink else picture
        is_middle = any(time_s <= middle_s < until_s for middle_s in self._middles_s)
        self.frames.append(Held(time_s, until_s, plane_HWC, is_key, is_middle, shrunk))
        if len(self.frames) > self.capacity:
            del self.frames[self._most_dispensable()]

    def _most_dispensable(self) -> int:
        from bisect import bisect_right

        times = [f.time_s for f in self.frames]
        shots = [bisect_right(self._shot_starts_s, t) for t in times]

        def loss(i: int) -> tuple[bool, bool, bool, float]:
            alone = shots[i] not in (shots[i - 1], shots[i + 1])
            key = self._keep_keys and self.frames[i].is_key
            return (key, self.frames[i].is_middle, alone, times[i + 1] - times[i - 1])

        # Never the first or last: they hold the ends of the clip.
        return min(range(1, len(times) - 1), key=loss)
