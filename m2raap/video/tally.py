"""What came out of a decode against what the header announces, and the class that follows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from m2raap.video.container import OpenVideo
from m2raap.video.decode import DecodedFrame
from m2raap.video.limits import Refused, VideoConfig

_CUT_SPOILS = 16  # frames: a cut inside one spoils it and the B-frames that lean on it


class Tally:
    """Counts over the window [start_s, end_s) of a video (end None: to its end). Give it every item of `decode`."""

    def __init__(self, opened: OpenVideo, start_s: float = 0.0, end_s: float | None = None) -> None:
        self._opened, self._start_s, self._end_s = opened, start_s, end_s
        self._tick_s, self._base = 1 / (opened.fps or 25.0), float(opened.time_base)
        self.window_s = end_s - start_s if end_s is not None else max(0.0, opened.duration_s - start_s)
        self.decoded = 0  # frames that came out, damaged or not
        self.lost = 0  # packets that gave none
        self.damaged = 0  # frames marked corrupt
        self.covered_s = 0.0  # from the start of the window to the end of its last frame
        self._bad_at_the_end = 0  # lost packets and damaged frames since the last sound frame

    def add(self, item: DecodedFrame) -> None:
        frame = item.frame
        self._bad_at_the_end = self._bad_at_the_end + 1 if item.corrupt else 0
        if frame is None:
            self.lost += 1
            return
        self.decoded += 1
        self.damaged += item.corrupt
        lasts_s = (frame.duration or 0) * self._base
        self.covered_s = max(self.covered_s, item.time_s - self._start_s + max(lasts_s, self._tick_s))

    @cached_property
    def _table(self) -> int | None:
        return announced_frames(self._opened, self._start_s, float("inf") if self._end_s is None else self._end_s)

    @property
    def expected_frames(self) -> int:
        """By the sample table (MP4), else the announced length at the rate of the frames that came; just these where no
        length is known, or where the file is whole and only its sound is longer."""
        if self._table is not None:
            return self._table
        if self._only_sound_is_longer:
            return self.decoded + self.lost
        if self.covered_s <= 0:
            return round(self.window_s * self._opened.fps) or self.lost
        return round((self.decoded + self.lost) * max(1.0, self.window_s / self.covered_s))

    @property
    def corrupt_share(self) -> float:
        """Lost packets and damaged frames among all."""
        return (self.lost + self.damaged) / max(1, self.decoded + self.lost)

    @property
    def decoded_share(self) -> tuple[float, str]:
        """How much of the announced window came out, 0..1, and the figures behind it."""
        by_time = min(1.0, self.covered_s / self.window_s) if self.window_s > 0 else 1.0
        if self._table is not None:
            by_table = min(1.0, self.decoded / max(1, self._table))
            # An annotated end past the end of the video is missing video too; a header's length is not worth the table.
            if self._end_s is None or by_table < by_time:
                return by_table, f"{self.decoded} of {self._table} frames"
        return by_time, f"{self.covered_s:.2f} of {self.window_s:.2f} s"

    @property
    def _only_sound_is_longer(self) -> bool:
        """The file is whole, and the length in its header is that of its longest stream."""
        return self._end_s is None and self._opened.tail == "whole" and not self._opened.length_is_of_video

    def judge(self, limits: VideoConfig) -> None:
        """Raises Refused (truncated, corrupt) for a window that lost too much."""
        to_the_end = self._end_s is None
        tail = self._opened.tail if to_the_end else "unknown"
        if self.decoded == 0:
            if to_the_end or self.lost:
                raise self._opened.nothing_decoded(self.lost > 0)
            raise Refused("truncated", f"no frame between {self._start_s:g} s and {self._end_s:g} s")
        share, how = self.decoded_share
        if share < limits.min_decoded_share and not self._only_sound_is_longer:
            if tail == "whole":
                raise Refused("corrupt", f"{how} came out of a file that is all there")
            raise Refused("truncated", f"{share:.1%} of the clip is there ({how})")
        if to_the_end and not self._opened.length_is_stated:
            # Transport and program streams state no length: only how they end tells.
            if tail == "cut":
                raise Refused("truncated", f"the file ends inside a packet; {self.covered_s:.2f} s are there")
            only_the_end = self._bad_at_the_end == self.lost + self.damaged <= _CUT_SPOILS
            if tail == "unknown" and self._bad_at_the_end and only_the_end:
                raise Refused("truncated", f"the file ends inside a frame; {self.covered_s:.2f} s are there")
        if self.corrupt_share > limits.max_corrupt_share:
            raise Refused("corrupt", f"{self.corrupt_share:.1%} of the frames are damaged")
        if self.damaged == self.decoded:
            raise Refused("corrupt", "no frame is without damage")


def announced_frames(opened: OpenVideo, start_s: float, end_s: float) -> int | None:
    """Frames that an MP4's sample table puts into the window; None for containers without such a table.

    Entries that an edit list discards are not announced. Decode order is close enough: a clip is judged by a share.
    """
    if not opened.stream.frames or opened.format_name != "mov":
        return None
    base = float(opened.time_base)
    entries = [e for e in _index(opened) if not e.is_discard]
    if len(entries) < opened.stream.frames * 0.5:
        return None  # not the table of the whole file
    first = entries[0].timestamp
    return sum(1 for e in entries if start_s - 1e-6 <= (e.timestamp - first) * base < end_s - 1e-6)


def share_beyond_file(opened: OpenVideo) -> float:
    """Share of the frames in an MP4's sample table that lie past the end of the file. Costs no decoding."""
    entries = _index(opened)
    return sum(1 for e in entries if e.pos + e.size > opened.num_bytes) / len(entries) if entries else 0.0


def _index(opened: OpenVideo) -> list[Any]:
    return list(opened.stream.index_entries or ())


def varies(times_s: Sequence[float]) -> bool:
    """Whether frames come at a variable rate: more than 2 % of the steps are a fifth off the median one."""
    import numpy as np

    steps_s = np.diff(np.asarray(times_s))
    if not len(steps_s):
        return False
    typical_s = np.median(steps_s)
    return bool((np.abs(steps_s - typical_s) > 0.2 * typical_s).mean() > 0.02)
