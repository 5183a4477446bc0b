"""Cuts between shots, by PySceneDetect's detectors, fed frame by frame from our own decode.

The detectors are pushed directly: `SceneManager` would pull, from a thread of its own. Frames go in at the size to
which it would bring them (long side 256 px), so its published thresholds hold.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Detector = Literal["adaptive", "content", "none"]
LONG_SIDE_PX = 256  # scenedetect.scene_manager.DEFAULT_MIN_WIDTH


def plane_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) of the planes that detectors and measures see; never larger than the frame."""
    factor = max(1.0, max(width, height) / LONG_SIDE_PX)
    return max(2, round(width / factor)), max(2, round(height / factor))


class ShotDetector:
    """Push frames, read cuts. A cut is the time of the first frame of a new shot."""

    def __init__(self, kind: Detector, min_shot_s: float, fps: float) -> None:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self._fps = Fraction(fps if fps > 0 else 25.0).limit_denominator(100_000)
        self._last = None
        self.cuts_s: list[float] = []
        if kind == "adaptive":
            self._detector = AdaptiveDetector(min_scene_len=float(min_shot_s))
        elif kind == "content":
            self._detector = ContentDetector(min_scene_len=float(min_shot_s))
        else:
            self._detector = None

    def push(self, time_s: float, plane_HWC: np.ndarray) -> bool:
        """The next frame (uint8 BGR), later than all before. True if a cut was found; it may lie 2 frames back."""
        if self._detector is None:
            return False
        from scenedetect.common import FrameTimecode, Timecode

        # Microseconds: fine enough for any frame rate, one time base for every container.
        stamp = Timecode(pts=round(time_s * 1e6), time_base=Fraction(1, 1_000_000))
        self._last = FrameTimecode(stamp, fps=self._fps)
        return self._take(self._detector.process_frame(self._last, plane_HWC))

    def finish(self) -> list[float]:
        """All cuts in seconds, ascending."""
        if self._detector is not None and self._last is not None:
            self._take(self._detector.post_process(self._last))
        return sorted(self.cuts_s)

    def _take(self, cuts: list) -> bool:
        new = [c.seconds for c in cuts if c.seconds not in self.cuts_s]
        self.cuts_s.extend(new)
        return bool(new)
