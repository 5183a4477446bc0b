"""Finds the cuts between shots with PySceneDetect's detectors, over frames that m2raap decodes.

The detectors get planes that are small already (m2raap.video.planes), one after the other, from the thread that decodes:
SceneManager decodes in a second thread, and to hand a frame over takes as long as to look for a cut. The caller gets each frame
in order, with the cuts found by then.

Repeated frames (24 per second stored as 30, or a recorder that stalls) are not given to the detector, because Adaptive takes the
first change after a repeat for a cut, and because a copy with variable frame rate, which leaves out the repeats, would have
other shots. A still, which is a picture displayed for long, is given two more times, whether the file repeats it or not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from scenedetect import SceneDetector

# The network transnetv2 runs in the parent process (m2raap.stages.transnet), which passes the cuts.
Detector = Literal["adaptive", "content", "hash", "histogram", "transnetv2", "none"]


@cache
def _faster(base: Any) -> Any:
    """`base` (a ContentDetector) with the same scores, summed by OpenCV, because numpy takes longer than making the plane.

    PySceneDetect's score is the mean of the mean differences of three channels, which equals the mean over all bytes.
    """
    import cv2

    class Faster(base):
        def _calculate_frame_score(self, timecode: Any, frame_img: np.ndarray) -> float:
            hsv_HWC = cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV)
            last_HWC, self._last_frame = self._last_frame, hsv_HWC
            return 0.0 if last_HWC is None else cv2.norm(hsv_HWC, last_HWC, cv2.NORM_L1) / hsv_HWC.size

    return Faster


def _adaptive(min_shot_s: float) -> SceneDetector:
    from scenedetect import AdaptiveDetector

    return _faster(AdaptiveDetector)(min_scene_len=min_shot_s)


def _content(min_shot_s: float) -> SceneDetector:
    from scenedetect import ContentDetector

    return _faster(ContentDetector)(min_scene_len=min_shot_s)


def _hash(min_shot_s: float) -> SceneDetector:
    from scenedetect import HashDetector

    return HashDetector(min_scene_len=min_shot_s)


def _histogram(min_shot_s: float) -> SceneDetector:
    from scenedetect import HistogramDetector

    return HistogramDetector(min_scene_len=min_shot_s)


# A plane repeats the one before, encoded again, where their mean absolute difference (0..255) is at most REPEAT_DIFFERENCE, or
# at most REPEAT_SHARE of the median of the latest changes.
REPEAT_DIFFERENCE, REPEAT_SHARE = 0.3, 0.1
STILL_FROM_S = 0.5  # a picture displayed for longer is a still; below, the frame rate is low
STILL_REPEATS = 2  # repeats of a still that the detector gets, because Adaptive compares two frames on either side

# A cut is a flash where the picture before it comes back within FLASH_S: where the difference to it falls to FLASH_SHARE of its
# peak. A fade has its peak at the end, and after a flash that leads to another shot the difference stays larger.
FLASH_S, FLASH_SHARE = 0.2, 0.2

# Name -> function of the shortest shot in seconds that makes PySceneDetect's detector with its default settings.
DETECTORS: dict[str, Callable[[float], SceneDetector]] = {
    "adaptive": _adaptive,
    "content": _content,
    "hash": _hash,
    "histogram": _histogram,
}

# (time_s, plane uint8 BGR [H, W, 3], the caller's decoded frame); times are strictly increasing, planes have one size.
TimedPlane = tuple[float, "np.ndarray", Any]
# Called for each frame, in order, with the cuts found since the frame before; their times may be earlier.
OnFrame = Callable[[TimedPlane, list[float]], None]


def find_cuts(
    frames: Iterator[TimedPlane],
    kind: Detector,
    min_shot_s: float,
    on_frame: OnFrame,
    known_s: Sequence[float] | None,
) -> list[float]:
    """The cuts: times in seconds of the first frames of all shots but the first, ascending.

    `min_shot_s`: length of the shortest shot. `on_frame` is called for each frame before the next one is read. With `known_s`
    (ascending cuts in seconds) nothing is detected, and `on_frame` gets each of these cuts at the first frame not before it.
    Raises what `frames` and `on_frame` raise.
    """
    first = next(frames, None)
    if first is None:
        return []
    if known_s is not None or kind == "none":
        cuts_s = list(known_s or ())
        num_reported = 0
        for item in chain([first], frames):
            num_until_frame = bisect_right(cuts_s, item[0] + 1e-6)
            on_frame(item, cuts_s[num_reported:num_until_frame])
            num_reported = num_until_frame
        return cuts_s
    detector, without_flashes = DETECTORS[kind](float(min_shot_s)), _Flashes()
    timecode: Any = None
    cuts: list[_Timecode] = []
    unreported_s: list[float] = []  # cuts at an added repeat of a still, which is no frame of the file
    for time_s, plane_HWC, item in _without_repeats(first, frames, on_frame):
        timecode = _Timecode(time_s)
        new_cuts = without_flashes.process(time_s, plane_HWC, detector.process_frame(timecode, plane_HWC))
        if new_cuts:
            cuts += new_cuts
            unreported_s += [cut.seconds for cut in new_cuts]
        if item is not None:
            on_frame(item, unreported_s)
            unreported_s = []
    cuts += without_flashes.waiting + detector.post_process(timecode)
    return sorted({cut.seconds for cut in cuts})


class _Timecode:
    """What the detectors use of PySceneDetect's FrameTimecode: its time, and a difference to compare with seconds.

    FrameTimecode computes with fractions and takes longer than the detector. Whole microseconds, which are exact enough for any
    frame rate, give the same results.
    """

    __slots__ = ("_microseconds", "seconds")
    frame_rate = 0.0  # PySceneDetect's FlashFilter only checks that there is one

    def __init__(self, time_s: float) -> None:
        self._microseconds = round(time_s * 1e6)
        self.seconds = self._microseconds / 1_000_000

    def __sub__(self, other: _Timecode) -> float:
        return max(0, self._microseconds - other._microseconds) / 1_000_000


class _Flashes:
    """Holds each cut back for FLASH_S, and then passes it on unless it is a flash."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []
        self._latest: deque[tuple[float, np.ndarray]] = deque()  # the planes of the last second, and the one before

    def process(self, time_s: float, plane_HWC: np.ndarray, cuts: Sequence[Any]) -> list[Any]:
        """The cuts that are to be passed on at the frame of `time_s`; `cuts` are those that the detector finds at it."""
        latest = self._latest
        latest.append((time_s, plane_HWC))
        while len(latest) > 2 and latest[1][0] < time_s - 1.0:
            latest.popleft()
        self.waiting += cuts
        if not self.waiting:
            return []
        due = [cut for cut in self.waiting if time_s >= cut.seconds + FLASH_S - 1e-6]
        self.waiting = [cut for cut in self.waiting if cut not in due]
        return [cut for cut in due if not self._is_flash(cut.seconds)]

    def _is_flash(self, cut_s: float) -> bool:
        import cv2

        before = [plane for time_s, plane in self._latest if time_s < cut_s - 1e-6]
        after = [plane for time_s, plane in self._latest if cut_s - 1e-6 <= time_s]
        if not before or len(after) < 2:
            return False
        changes = [cv2.norm(plane, before[-1], cv2.NORM_L1) for plane in after]
        peak = max(changes)
        return min(changes[changes.index(peak) :]) <= FLASH_SHARE * peak


def _without_repeats(
    first: TimedPlane, frames: Iterator[TimedPlane], on_frame: OnFrame
) -> Iterator[tuple[float, np.ndarray, TimedPlane | None]]:
    """(time_s, plane, item) of each item that repeats no other, and of STILL_REPEATS repeats of each still.

    Where the file does not repeat a still, repeats are added, with None as item. For all other repeats in the file `on_frame`
    is called here.
    """
    import cv2

    last, yielded_s, num_repeats = first, first[0], 0
    latest: deque[float] = deque(maxlen=5)
    yield first[0], first[1], first
    for item in frames:
        time_s, plane_HWC, _ = item
        is_still = time_s - last[0] > STILL_FROM_S
        difference = cv2.norm(plane_HWC, last[1], cv2.NORM_L1) / plane_HWC.size
        # The median takes long for every frame, and is no more than the maximum.
        most = max(REPEAT_DIFFERENCE, REPEAT_SHARE * max(latest, default=0.0))
        if difference <= most and difference <= max(REPEAT_DIFFERENCE, REPEAT_SHARE * median(latest or [0.0])):
            if is_still and num_repeats < STILL_REPEATS:
                num_repeats, yielded_s = num_repeats + 1, time_s
                yield time_s, last[1], item
            else:
                on_frame(item, [])
            continue
        if is_still:
            missing = STILL_REPEATS - num_repeats
            for n in range(missing):
                yield yielded_s + (time_s - yielded_s) * (n + 1) / (missing + 1), last[1], None
        latest.append(difference)
        last, yielded_s, num_repeats = item, time_s, 0
        yield time_s, plane_HWC, item
