"""Cuts between shots, by PySceneDetect's SceneManager over frames of our own decode.

`SceneManager` pulls frames from a `VideoStream`; ours hands it planes that are small already (`planes.py`), which it leaves
as they are. It reads in a thread of its own, which takes turns with the caller's: a frame is read when the one before it has
been detected and seen. So what the caller keeps never depends on timing, and a process uses one core; the others belong to
other clips. The caller sees each frame again, in order and with the cuts known by then.

Repeated frames (24 a second stored as 30, a recorder that stalls) are not shown to the detector: Adaptive takes the first
change after a repeat for a cut, and a copy of variable frame rate, which lacks the repeats, would have other shots. A picture
that stands for long is shown two times more, whether the file repeats it or not.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import chain
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from scenedetect import SceneDetector

# `transnetv2` is a network that runs in the parent (m2raap.stages.transnet): its cuts come in from there.
Detector = Literal["adaptive", "content", "hash", "histogram", "transnetv2", "none"]


@cache
def _quick(base: Any) -> Any:
    """`base` (a ContentDetector) with the same scores, summed by OpenCV: numpy needs longer for them than we for the plane.

    The score is the mean of three channels' mean differences: that of all their bytes.
    """
    import cv2

    class Quick(base):
        def _calculate_frame_score(self, timecode: Any, frame_img: np.ndarray) -> float:
            hsv_HWC = cv2.cvtColor(frame_img, cv2.COLOR_BGR2HSV)
            last_HWC, self._last_frame = self._last_frame, hsv_HWC
            return 0.0 if last_HWC is None else cv2.norm(hsv_HWC, last_HWC, cv2.NORM_L1) / hsv_HWC.size

    return Quick


def _adaptive(min_shot_s: float) -> SceneDetector:
    from scenedetect import AdaptiveDetector

    return _quick(AdaptiveDetector)(min_scene_len=min_shot_s)


def _content(min_shot_s: float) -> SceneDetector:
    from scenedetect import ContentDetector

    return _quick(ContentDetector)(min_scene_len=min_shot_s)


def _hash(min_shot_s: float) -> SceneDetector:
    from scenedetect import HashDetector

    return HashDetector(min_scene_len=min_shot_s)


def _histogram(min_shot_s: float) -> SceneDetector:
    from scenedetect import HistogramDetector

    return HistogramDetector(min_scene_len=min_shot_s)


# A plane repeats the one before, coded anew, if they differ by less than this (mean of 0..255), or than this share of what
# the latest changes came to.
REPEAT_DIFFERENCE, REPEAT_SHARE = 0.3, 0.1
STANDS_S = 0.5  # what stands longer is a still; what stands shorter is a low frame rate
STILLS = 2  # repeats of a still that are shown: Adaptive looks at two frames on either side

# Shortest shot in seconds -> PySceneDetect's detector with its own defaults otherwise.
DETECTORS: dict[str, Callable[[float], SceneDetector]] = {
    "adaptive": _adaptive,
    "content": _content,
    "hash": _hash,
    "histogram": _histogram,
}

# (time_s, plane uint8 BGR [H, W, 3], the caller's decoded frame); times ascend strictly, planes have one size.
TimedPlane = tuple[float, "np.ndarray", Any]
# Called for each frame, in order, with the cuts found at it; a cut may lie before the frame at which it is found.
OnFrame = Callable[[TimedPlane, list[float]], None]


def find_cuts(
    frames: Iterator[TimedPlane],
    kind: Detector,
    min_shot_s: float,
    fps: float,
    on_frame: OnFrame,
    known_s: Sequence[float] | None,
) -> list[float]:
    """Times of the first frames of all shots but the first, ascending. `fps`: average by the header, 0 if unknown.

    `on_frame` is called before the next of `frames` is read. With `known_s` (ascending) nothing is detected, and `on_frame`
    receives each of these cuts at the first frame not before it.
    """
    first = next(frames, None)
    if first is None:
        return []
    if known_s is not None or kind == "none":
        cuts_s = list(known_s or ())
        num_passed = 0
        for item in chain([first], frames):
            now = bisect_right(cuts_s, item[0] + 1e-6)
            on_frame(item, cuts_s[num_passed:now])
            num_passed = now
        return cuts_s
    from scenedetect import SceneManager

    stream = _stream(first, frames, fps, on_frame)
    manager = SceneManager()
    manager.add_detector(_watched(DETECTORS[kind](float(min_shot_s)), stream, on_frame))
    manager.detect_scenes(stream)
    if stream.error is not None:
        raise stream.error
    return [start.seconds for start, _ in manager.get_scene_list()[1:]]


def _watched(detector: SceneDetector, stream: Any, on_frame: OnFrame) -> SceneDetector:
    """`detector`, and `on_frame` after each of its frames."""
    import scenedetect

    untold_s: list[float] = []  # found at a still shown again, which is nobody's frame

    class Watched(scenedetect.SceneDetector):
        def process_frame(self, timecode: Any, frame_img: np.ndarray) -> list[Any]:
            try:
                cuts = detector.process_frame(timecode, frame_img)
                untold_s.extend(cut.seconds for cut in cuts)
                if stream.last is not None:
                    on_frame(stream.last, untold_s[:])
                    untold_s.clear()
                return cuts
            finally:
                stream.turn.release()

        def post_process(self, timecode: Any) -> list[Any]:
            return detector.post_process(timecode)

        @property
        def event_buffer_length(self) -> int:
            return 0  # frames that SceneManager would hold for a callback; there is none

    return Watched()


def _stream(first: TimedPlane, frames: Iterator[TimedPlane], fps: float, on_frame: OnFrame) -> Any:
    """A VideoStream of what `_changes` lets through; `last` is the item that it gave last, None for a still shown again."""
    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.video_stream import SeekError, VideoStream

    class PlaneStream(VideoStream):
        BACKEND_NAME = "m2raap"
        path: Any = ""
        name: Any = ""
        is_seekable: Any = False
        aspect_ratio: Any = 1.0
        duration: Any = None
        frame_rate: Any = Fraction(fps if fps > 0 else 25.0).limit_denominator(100_000)
        frame_size: Any = (first[1].shape[1], first[1].shape[0])

        def __init__(self) -> None:
            self.last: TimedPlane | None = None
            self.error: BaseException | None = None
            self.turn = Lock()  # held from a frame's reading to the end of its detection
            self._changes = _changes(first, frames, on_frame)
            self._time_s = first[0]
            self._num_read = 0
            self._position: FrameTimecode | None = None

        @property
        def position(self) -> FrameTimecode:
            if self._position is None:
                # Microseconds: fine enough for any frame rate, one time base for every container.
                stamp = Timecode(pts=round(self._time_s * 1e6), time_base=Fraction(1, 1_000_000))
                self._position = FrameTimecode(stamp, fps=self.frame_rate)
            return self._position

        @property
        def position_ms(self) -> float:
            return self._time_s * 1000

        @property
        def frame_number(self) -> int:
            return self._num_read

        def read(self, decode: bool = True) -> np.ndarray | bool:
            self.turn.acquire()
            try:
                item = next(self._changes, None)
            except BaseException as error:  # this is the manager's thread: told to the caller's
                self.error, item = error, None
            if item is None:
                return False
            self._time_s, plane_HWC, self.last = item
            self._position = None
            self._num_read += 1
            return plane_HWC

        def reset(self) -> None:
            raise SeekError

        def seek(self, target: Any) -> None:
            raise SeekError

    return PlaneStream()


def _changes(
    first: TimedPlane, frames: Iterator[TimedPlane], on_frame: OnFrame
) -> Iterator[tuple[float, np.ndarray, TimedPlane | None]]:
    """(time, plane, item) of the items that are no repeats, and of two repeats of what stands longer than STANDS_S; where the
    file has none, these come without an item. `on_frame` is called here for all other repeats."""
    import cv2

    last, given_s, stills = first, first[0], 0
    latest: deque[float] = deque(maxlen=5)
    yield first[0], first[1], first
    for item in frames:
        time_s, plane_HWC, _ = item
        stands = time_s - last[0] > STANDS_S
        difference = cv2.norm(plane_HWC, last[1], cv2.NORM_L1) / plane_HWC.size
        if difference <= max(REPEAT_DIFFERENCE, REPEAT_SHARE * median(latest or [0.0])):
            if stands and stills < STILLS:
                stills, given_s = stills + 1, time_s
                yield time_s, last[1], item
            else:
                on_frame(item, [])
            continue
        if stands:
            missing = STILLS - stills
            for n in range(missing):
                yield given_s + (time_s - given_s) * (n + 1) / (missing + 1), last[1], None
        latest.append(difference)
        last, given_s, stills = item, time_s, 0
        yield time_s, plane_HWC, item
