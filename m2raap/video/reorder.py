"""Gives the frames of an AVI their time of display. The container stores the time at which a packet is decoded, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from m2raap.video.trust import MAX_RUN

if TYPE_CHECKING:
    from av import Packet, VideoFrame

_NEAR = 16  # entries of an index on either side of the time at which a packet is looked for


def late_by(entries: Any, packet: Packet) -> int:
    """By how much the time of the first packet of an AVI after a seek is later than by the file's index (`index_entries`).

    Of a file with empty chunks between frames FFmpeg counts on from a wrong chunk after a seek, when it also reads sound. In
    units of the stream's time base; 0 where the index does not tell.
    """
    if packet.pos is None or packet.dts is None or not entries:
        return 0
    near = entries.search_timestamp(packet.dts, any_frame=True)
    for entry in (entries[i] for i in range(max(0, near - _NEAR), min(len(entries), near + _NEAR + 1))):
        if entry.pos in (packet.pos, packet.pos - 8):  # of the data, or of the chunk's head
            return packet.dts - entry.timestamp
    return 0


def in_display_order(frames: Iterator[tuple[VideoFrame | None, bool]]) -> Iterator[tuple[VideoFrame | None, bool]]:
    """The frames of a decoder, whose `pts` is the decoding time of their packet, with the time of display as `pts`.

    B-frames are decoded after the frame that follows them in display. So the times of B-frames and of that frame are exchanged
    so that they ascend. A packet without frame, such as a skipped one, leaves its time unused.
    Each frame keeps its flag of `Losses`.

    After a seek, the decoder drops the B-frames between the I-frame and the frames before it, and nothing tells how many they
    are: the first I-frame comes up to MAX_RUN frames too early, and all others at their time.
    """
    from av.video.frame import PictureType

    run: list[tuple[VideoFrame | None, bool]] = []  # B-frames and lost packets that are held back
    for frame, tainted in frames:
        run.append((frame, tainted))
        if frame is None or (frame.pict_type == PictureType.B and len(run) <= MAX_RUN):
            continue
        yield from _ascending(run)
        run = []
    yield from _ascending(run)


def _ascending(run: list[tuple[VideoFrame | None, bool]]) -> list[tuple[VideoFrame | None, bool]]:
    timed = [frame for frame, _ in run if frame is not None and frame.pts is not None]
    for frame, stamp in zip(timed, sorted(frame.pts for frame in timed if frame.pts is not None), strict=True):
        frame.pts = stamp
    return run
