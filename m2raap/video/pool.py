"""Sound frames held until the cuts are known, in bounded memory and spread over the clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Held decoded (cheap now, converted later) while all of them stay under this; else each is made small at once.
HELD_BYTES = 160 * 1024**2
PER_PICK = 12  # candidates a pick while frames are held decoded
PER_PICK_LARGE = 4  # and where each costs a conversion
AFTER_CUT_S = 0.3  # a new shot is sampled this long after its cut


@dataclass
class Held:
    time_s: float
    luma_HW: np.ndarray
    picture: Any  # av.VideoFrame or a small PIL image


class FramePool:
    """At most `capacity` frames of a clip.

    The first k always enter, later ones where a step of a time grid is passed (the middles of k equal segments lie on
    it). When full, the frame whose loss leaves the shortest gap goes; the only frame of a shot stays while it can.
    """

    def __init__(self, k: int, window_s: float, frame_bytes: int, shrink: Callable[[Any], Any]) -> None:
        """`window_s`: announced length of the clip, 0 if unknown. `shrink`: decoded frame -> small picture."""
        self._k = k
        held_decoded = PER_PICK * k * frame_bytes <= HELD_BYTES
        self.capacity = (PER_PICK if held_decoded else PER_PICK_LARGE) * k
        self._step_s = window_s / self.capacity
        self._next_s = 0.0
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

    def offer(self, time_s: float, luma_HW: np.ndarray, picture: Any) -> None:
        due = [w for w in self._wanted_at_s if w <= time_s]
        on_grid = time_s >= self._next_s - 1e-6
        if not (due or on_grid or len(self.frames) < self._k):
            return
        if self._step_s > 0:
            self._next_s = (int(time_s / self._step_s + 1e-6) + 1) * self._step_s
        self._wanted_at_s = [w for w in self._wanted_at_s if w > time_s]
        self.frames.append(Held(time_s, luma_HW, self._shrink(picture) if self._shrink else picture))
        if len(self.frames) > self.capacity:
            del self.frames[self._most_dispensable()]

    def _most_dispensable(self) -> int:
        from bisect import bisect_right

        times = [f.time_s for f in self.frames]
        shots = [bisect_right(self._shot_starts_s, t) for t in times]

        def loss(i: int) -> tuple[bool, float]:
            alone = shots[i] not in (shots[i - 1], shots[i + 1])
            return (alone, times[i + 1] - times[i - 1])

        # Never the first or last: they hold the ends of the clip.
        return min(range(1, len(times) - 1), key=loss)
