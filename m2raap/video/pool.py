"""Holds candidates for key-frames until the cuts are known, in bounded memory and spread over the clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m2raap.video.choose import middles

if TYPE_CHECKING:
    import numpy as np

# Frames are held as decoded, and converted only if picked, while all of them need at most this much memory; otherwise each
# is made small at once.
HELD_BYTES = 160 * 1024**2
# Candidates per pick: one each CANDIDATE_STEP_S seconds, within these bounds; the minimum where frames are made small at once.
# For each held frame the decoder allocates a new one, which takes a sixth of the time of decoding it.
CANDIDATE_STEP_S = 0.125
MIN_PER_PICK, MAX_PER_PICK = 4, 12
AFTER_CUT_S = 0.3  # a new shot gets a candidate this long after its cut


@dataclass
class HeldFrame:
    """A candidate for a key-frame, displayed in [time_s, until_s) since the start of the clip."""

    time_s: float
    until_s: float
    plane_HWC: np.ndarray  # uint8 BGR
    is_key: bool  # an I-frame
    is_middle: bool  # displayed at the middle of one of k equal segments
    picture: Any  # av.VideoFrame or a small PIL image


class FramePool:
    """At most `capacity` frames of a clip.

    The first k frames are always held; later ones if they are displayed at a point of a time grid, on which the middles of
    k equal segments lie, or soon after a cut. When the pool is full, the frame whose removal leaves the shortest gap is
    removed; frames at the middles, and the only frame of a shot, are removed last.
    """

    def __init__(
        self, k: int, window_s: float, frame_bytes: int, shrink: Callable[[Any], Any], keep_keys: bool = False
    ) -> None:
        """`window_s`: length of the clip by the header, 0 if unknown. `frame_bytes`: size of a decoded frame. `shrink`: makes
        a small picture of a decoded frame. `keep_keys`: I-frames are always held, and removed last."""
        self._k, self._keep_keys = k, keep_keys
        per_pick = MAX_PER_PICK
        if window_s > 0:  # an even number, so that the middles lie on the grid
            per_pick = min(MAX_PER_PICK, max(MIN_PER_PICK, 2 * round(window_s / k / CANDIDATE_STEP_S / 2)))
        held_decoded = per_pick * k * frame_bytes <= HELD_BYTES
        self.capacity = (per_pick if held_decoded else MIN_PER_PICK) * k
        self._step_s = window_s / self.capacity
        self._next_s = 0.0
        self._middles_s = middles(window_s, k)
        self._shrink = None if held_decoded else shrink
        self._shot_starts_s: list[float] = [0.0]
        self._due_times_s: list[float] = []  # times after new cuts at which a frame is to be held
        self.frames: list[HeldFrame] = []

    def cut_at(self, cuts_s: list[float]) -> None:
        """Adds cuts (seconds since the start of the clip); each new shot gets a frame soon after its cut."""
        for cut_s in cuts_s:
            if cut_s not in self._shot_starts_s:
                self._shot_starts_s.append(cut_s)
                self._due_times_s.append(cut_s + AFTER_CUT_S)
        self._shot_starts_s.sort()

    def offer(self, time_s: float, until_s: float, plane_HWC: np.ndarray, picture: Any, is_key: bool = False) -> None:
        """Offers a frame that is displayed in [time_s, until_s); it is held if the rules of the class say so."""
        due = bool(self._due_times_s) and min(self._due_times_s) < until_s
        on_grid = self._next_s < until_s - 1e-6
        if not (due or on_grid or len(self.frames) < self._k or (is_key and self._keep_keys)):
            return
        if on_grid and self._step_s > 0:
            self._next_s = math.ceil((until_s - 1e-6) / self._step_s) * self._step_s
        if due:
            self._due_times_s = [due_s for due_s in self._due_times_s if due_s >= until_s]
        shrunk = self._shrink(picture) if self._shrink else picture
        is_middle = any(time_s <= middle_s < until_s for middle_s in self._middles_s)
        self.frames.append(HeldFrame(time_s, until_s, plane_HWC, is_key, is_middle, shrunk))
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

        # The first and the last frame are never removed: they are the ends of the clip.
        return min(range(1, len(times) - 1), key=loss)
