"""Compares the frames that were decoded with those that the header states, and refuses a clip that lost too many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from m2raap.video.container import OpenVideo
from m2raap.video.decode import DecodedFrame
from m2raap.video.fragments import num_fragment_frames
from m2raap.video.limits import Refused, VideoConfig

# A frame whose time is so much earlier than that of a frame before it is never displayed. Recordings that were joined byte by
# byte have such frames; a smaller step back is a matter of B-frames.
STEP_BACK_S = 0.5
_MAX_DAMAGED_BY_CUT = 16  # frames that the end of a cut-off file can damage: one, and the B-frames predicted from it


class Tally:
    """Counts of the frames in the window [start_s, end_s) of a video; an `end_s` of None is the end of the video.

    Every item of `decode` is passed to `add`.
    """

    def __init__(self, opened: OpenVideo, start_s: float = 0.0, end_s: float | None = None) -> None:
        start_s = max(start_s, opened.first_s)
        self._opened, self._start_s, self._end_s = opened, start_s, end_s
        self._tick_s, self._base = 1 / (opened.fps or 25.0), float(opened.time_base)
        self.window_s = max(0.0, (opened.stated_end_s if end_s is None else end_s) - start_s)
        self.decoded = 0  # number of decoded frames, damaged or not
        self.lost = 0  # number of packets that could not be decoded
        self.damaged = 0  # number of frames marked corrupt, or never displayed
        self.stepped_back = 0  # number of frames that are never displayed for their times
        self.covered_s = 0.0  # from the start of the window to the end of its last frame
        self._latest_s = 0.0  # latest time of an undamaged frame
        self._bad_at_the_end = 0  # number of lost packets and damaged frames since the last undamaged frame

    def add(self, item: DecodedFrame) -> None:
        frame = item.frame
        self._bad_at_the_end = self._bad_at_the_end + 1 if item.corrupt else 0
        if frame is None:
            self.lost += 1
            return
        self.decoded += 1
        steps_back = not item.corrupt and item.time_s < self._latest_s - STEP_BACK_S
        self.stepped_back += steps_back
        self.damaged += item.corrupt or steps_back
        if not item.corrupt:
            self._latest_s = max(self._latest_s, item.time_s)
        # At a variable rate the average step may be many times that of the last frame.
        lasts_s = (frame.duration or 0) * self._base or self._tick_s
        self.covered_s = max(self.covered_s, item.time_s - self._start_s + lasts_s)

    def close(self) -> None:
        """To be called at the end of a decode: where frames follow the window, its last frame is displayed until its end.

        A transport or program stream loses frames unnoticed, so that there the last frame is taken to last as long as it says.
        """
        is_broadcast = self._opened.format_name in ("mpegts", "mpeg")
        if self._end_s is not None and self.decoded and self._opened.frames_follow and not is_broadcast:
            self.covered_s = max(self.covered_s, self.window_s)

    @cached_property
    def _table(self) -> int | None:
        return announced_frames(self._opened, self._start_s, float("inf") if self._end_s is None else self._end_s)

    @property
    def expected_frames(self) -> int:
        """Number of frames that the window should have.

        It is taken from the sample table (MP4), else from the length in the header at the rate of the decoded frames. Where no
        length is known, or where the file is whole and only its audio is longer, it is the number of packets.
        """
        if self._table is not None:
            return self._table
        if self._only_audio_is_longer:
            return self.decoded + self.lost
        if self.covered_s <= 0:
            return round(self.window_s * self._opened.fps) or self.lost
        return round((self.decoded + self.lost) * max(1.0, self.window_s / self.covered_s))

    @property
    def corrupt_share(self) -> float:
        """Share of lost packets and damaged frames among all, 0..1."""
        return (self.lost + self.damaged) / max(1, self.decoded + self.lost)

    @property
    def decoded_share(self) -> tuple[float, str]:
        """Share of the window that was decoded, 0..1, and the figures behind it in words."""
        by_time = min(1.0, self.covered_s / self.window_s) if self.window_s > 0 else 1.0
        if self._table is not None:
            # The table goes by decoding times: at the edges of a window a few of its frames are displayed outside.
            outside = 0 if self._end_s is None else self._opened.stream.codec_context.has_b_frames
            by_table = min(1.0, (self.decoded + outside) / max(1, self._table))
            # Where the caller gives an end, video missing before it counts; the table is more reliable than a header's length.
            if self._end_s is None or by_table < by_time:
                return by_table, f"{self.decoded} of {self._table} frames"
        return by_time, f"{self.covered_s:.2f} of {self.window_s:.2f} s"

    @property
    def _only_audio_is_longer(self) -> bool:
        """Whether the length may be that of a longer audio stream, in a file that is whole, or whose header states no length."""
        opened = self._opened
        may_be = opened.tail == "whole" or not opened.length_is_stated
        return self._end_s is None and may_be and not opened.length_is_of_video

    def judge(self, limits: VideoConfig) -> None:
        """Raises Refused (truncated, corrupt, too_large) for a window that lost more than `limits` allow."""
        to_the_end = self._end_s is None
        tail = self._opened.tail if to_the_end else "unknown"
        if self.decoded == 0:
            if to_the_end or self.lost:
                raise self._opened.nothing_decoded(self.lost > 0)
            raise Refused("truncated", f"the video has no frame from {self._start_s:g} s to {self._end_s:g} s")
        share, how = self.decoded_share
        if share < limits.min_decoded_share and not self._only_audio_is_longer:
            if tail == "whole":
                raise Refused("corrupt", f"only {how} could be decoded, though the file is complete")
            raise Refused("truncated", f"only {share:.1%} of the clip could be decoded ({how})")
        if to_the_end and not self._opened.length_is_stated:
            # Transport and program streams state no length, so only their end can show a cut.
            if tail == "cut":
                raise Refused("truncated", f"the file ends inside a packet, after {self.covered_s:.2f} s")
            only_the_end = self._bad_at_the_end == self.lost + self.damaged <= _MAX_DAMAGED_BY_CUT
            if tail == "unknown" and self._bad_at_the_end and only_the_end:
                raise Refused("truncated", f"the file ends inside a frame, after {self.covered_s:.2f} s")
        if self.corrupt_share > limits.max_corrupt_share and self.stepped_back > (self.lost + self.damaged) / 2:
            raise Refused(
                "corrupt",
                f"the times of {self.stepped_back} of {self.decoded} frames lie before those of earlier frames, as in files that "
                "were joined without new times; join them again, for example with the concat demuxer of ffmpeg",
            )
        if self.corrupt_share > limits.max_corrupt_share:
            raise Refused("corrupt", f"{self.corrupt_share:.1%} of the frames are damaged")
        if self.damaged == self.decoded:
            raise Refused("corrupt", "all frames are damaged")


def announced_frames(opened: OpenVideo, start_s: float, end_s: float) -> int | None:
    """Number of frames in [start_s, end_s) by an MP4's sample table; None for a container without such a table.

    Of a fragmented MP4, whose fragments are such tables, only the frames of the whole file are counted.
    Entries that an edit list discards are not counted. Decoding times are used, which are close enough for a share.
    """
    if opened.format_name != "mov":
        return None
    if not opened.stream.frames:
        if start_s > opened.first_s or end_s != float("inf"):
            return None
        return num_fragment_frames(opened.file, opened.num_bytes, opened.stream.id)
    base = float(opened.time_base)
    entries = [e for e in _index(opened) if not e.is_discard]
    if len(entries) < opened.stream.frames * 0.5:
        return None  # the table does not cover the whole file
    first, first_s = entries[0].timestamp, opened.first_s
    return sum(1 for e in entries if start_s - 1e-6 <= first_s + (e.timestamp - first) * base < end_s - 1e-6)


def share_beyond_file(opened: OpenVideo) -> float:
    """Share of the frames in an MP4's sample table that lie past the end of the file, 0..1. Decodes nothing."""
    entries = _index(opened)
    return sum(1 for e in entries if e.pos + e.size > opened.num_bytes) / len(entries) if entries else 0.0


def _index(opened: OpenVideo) -> list[Any]:
    return list(opened.stream.index_entries or ())


def varies(times_s: Sequence[float]) -> bool:
    """Whether the frame rate is variable: more than 2 % of the steps differ from the median step by more than a fifth."""
    import numpy as np

    steps_s = np.diff(np.asarray(times_s))
    if not len(steps_s):
        return False
    typical_s = np.median(steps_s)
    return bool((np.abs(steps_s - typical_s) > 0.2 * typical_s).mean() > 0.02)
