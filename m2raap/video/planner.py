"""Plans the sparse reading of a clip (I-frames and a few seeks to exact frames) where it decodes far fewer frames.

The times and key-frame flags of all packets are read first, by demuxing alone, which takes about 1/200 of the time of a
decode. I-frames are recognised by the flag of their packet, because the decoders of VP9 and AV1 ignore `skip_frame=NONKEY`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from m2raap.video.choose import middles
from m2raap.video.decode import seek_before
from m2raap.video.tally import STEP_BACK_S

if TYPE_CHECKING:
    from av import Packet

    from m2raap.video.clip import KeyframeConfig
    from m2raap.video.container import OpenVideo

IFRAMES_PER_PICK = 3  # I-frames decoded for each pick, so that a black or blurred one can be avoided
DECODER_DELAY_FRAMES = 4  # frames that a decoder takes in before its first output, because it reorders B-frames


@dataclass
class Packets:
    """Video packets of a clip in decoding order, from the I-frame at or before its start. Times count from its start.

    A packet is named by its index in this order.
    """

    times_s: array[float] = field(default_factory=lambda: array("d"))
    keys: list[int] = field(default_factory=list)  # indices of the packets with the key-frame flag, ascending
    stamps: dict[int, tuple[int, int]] = field(default_factory=dict)  # index of a key packet -> (pts, dts) in the file
    end_s: float = 0.0  # end of the last frame
    stepped_back: int = 0  # packets whose decoding time lies before those of earlier ones: see m2raap.video.tally
    presentation: list[tuple[float, int]] = field(default_factory=list)  # (time_s, index) in presentation order

    def add(self, time_s: float, lasts_s: float, key: tuple[int, int] | None) -> None:
        """Appends a packet. `key`: (pts, dts) of a packet with the key-frame flag, None for all others."""
        if key is not None:
            self.keys.append(len(self.times_s))
            self.stamps[len(self.times_s)] = key
        self.times_s.append(time_s)
        self.end_s = max(self.end_s, time_s + lasts_s)

    def close(self, length_s: float) -> Packets:
        """Sorts the packets whose frames lie in [0, `length_s`) by presentation; call it after the last `add`."""
        self.presentation = sorted((t, i) for i, t in enumerate(self.times_s) if -1e-6 <= t < length_s - 1e-6)
        return self

    def seen_at(self, time_s: float) -> int:
        """Index of the packet whose frame is displayed at `time_s`."""
        return self.presentation[max(0, bisect_right(self.presentation, (time_s + 1e-6, len(self.times_s))) - 1)][1]

    def key_before(self, packet: int) -> int | None:
        """Index of the I-frame from which `packet` can be decoded; None where the clip has none.

        That is the last one both stored and displayed no later than `packet`: a frame displayed before the I-frame that is
        stored ahead of it (an open group of pictures) also needs the I-frame before that.
        """
        count = bisect_right(self.keys, packet)
        while count and self.times_s[self.keys[count - 1]] > self.times_s[packet] + 1e-6:
            count -= 1
        return self.keys[count - 1] if count else None


@dataclass(frozen=True)
class SeekRead:
    """One seek: packets are decoded from the I-frame `key` until the frames of all `targets` (ascending) have come out."""

    key: int
    targets: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Number of frames to decode; 1 where the I-frame itself is the only target."""
        return 1 if self.targets == (self.key,) else self.targets[-1] - self.key + 1 + DECODER_DELAY_FRAMES


@dataclass(frozen=True)
class SparsePlan:
    """The seeks of a sparse reading, ascending in time."""

    packets: Packets
    seeks: tuple[SeekRead, ...]
    start_s: float
    length_s: float
    full_frames: int  # number of frames that the full reading decodes

    @property
    def frames(self) -> int:
        """Number of frames that the sparse reading decodes."""
        return sum(seek.frames for seek in self.seeks)


def plan_sparse(opened: OpenVideo, start_s: float, end_s: float | None, cfg: KeyframeConfig) -> SparsePlan | None:
    """The plan of a sparse reading of [start_s, end_s); None where the clip is to be decoded in full.

    With `cfg.reading` auto or referenced, there is none where the header states a length below `sparse_from_s`, or none, and
    where the sparse reading does not decode `sparse_gain` times fewer frames. An AVI with B-frames is always decoded in
    full: its packets do not tell when their frames are displayed.
    """
    if opened.format_name == "avi" and opened.stream.codec_context.has_b_frames:
        return None
    announced_s = (opened.stated_end_s if end_s is None else end_s) - start_s
    if cfg.reading == "full" or (cfg.reading != "sparse" and announced_s < cfg.sparse_from_s):
        return None
    packets = read_packets(opened, start_s, end_s)
    length_s = min(packets.end_s, end_s - start_s) if end_s is not None else packets.end_s
    packets.close(length_s)
    seeks = seek_reads(packets, cfg, length_s)
    if not seeks:
        return None
    candidate = SparsePlan(packets, seeks, start_s, length_s, len(packets.times_s))
    if cfg.reading != "sparse" and candidate.frames * cfg.sparse_gain > candidate.full_frames:
        return None
    return candidate


def read_packets(opened: OpenVideo, start_s: float, end_s: float | None) -> Packets:
    """Reads packets without decoding, from the I-frame at or before `start_s` until the decoding time reaches `end_s`.

    Of a damaged file it returns the packets before the damage; the clip's length then shows how many are missing.
    """
    import av.error

    tick_s, base = 1 / (opened.fps or 25.0), float(opened.time_base)
    if start_s > opened.first_s or opened.was_read:
        seek_before(opened, start_s)
    opened.was_read = True
    clip_packets = Packets()
    latest_s = -float("inf")
    try:
        for packet in opened.packets():
            stamps = stamps_of(packet)
            if stamps is None:
                continue
            if end_s is not None and opened.seconds(stamps[1]) >= end_s:
                if clip_packets.times_s and opened.format_name not in ("mpegts", "mpeg"):  # see Tally.close
                    clip_packets.end_s = max(clip_packets.end_s, end_s - start_s)
                break
            if packet.dts is not None:  # times of display step back at every B-frame
                clip_packets.stepped_back += opened.seconds(stamps[1]) < latest_s - STEP_BACK_S
                latest_s = max(latest_s, opened.seconds(stamps[1]))
            lasts_s = (packet.duration or 0) * base or tick_s
            clip_packets.add(opened.seconds(stamps[0]) - start_s, lasts_s, stamps if packet.is_keyframe else None)
    except MemoryError as error:
        raise MemoryError(str(error)) from None
    except av.error.FFmpegError:
        return clip_packets
    return clip_packets


def stamps_of(packet: Packet) -> tuple[int, int] | None:
    """(pts, dts) of a packet in units of the stream's time base; None for a packet without frame or without time stamp."""
    pts, dts = packet.pts, packet.dts
    pts = dts if pts is None else pts
    if pts is None or not packet.size:
        return None
    return pts, pts if dts is None else dts


def seek_reads(packets: Packets, cfg: KeyframeConfig, length_s: float) -> tuple[SeekRead, ...]:
    """The seeks that `cfg.strategy` needs, ascending in time; () where the clip has no I-frame to decode from."""
    if not packets.presentation or not packets.keys:
        return ()
    targets = {"keyframe": _for_keyframe, "uniform": _for_uniform, "iframe": _for_iframe}[cfg.strategy](
        packets, cfg, length_s
    )
    by_key: dict[int, list[int]] = {}
    for packet in sorted(targets):
        key = packets.key_before(packet)
        if key is None:
            return ()
        by_key.setdefault(key, []).append(packet)
    return tuple(SeekRead(key, tuple(packets_of_key)) for key, packets_of_key in sorted(by_key.items()))


def _for_uniform(packets: Packets, cfg: KeyframeConfig, length_s: float) -> set[int]:
    targets = {packets.seen_at(middle_s) for middle_s in middles(length_s, cfg.k)}
    return _filled(packets, targets, cfg.k)


def _for_keyframe(packets: Packets, cfg: KeyframeConfig, length_s: float) -> set[int]:
    """In each of k equal segments the I-frames nearest to its middle; without I-frames, the frame displayed at its middle."""
    keys = _keys_shown(packets)
    times_s = [time_s for time_s, _ in keys]
    targets: set[int] = set()
    for j, middle_s in enumerate(middles(length_s, cfg.k)):
        low, high = (bisect_left(times_s, length_s * edge / cfg.k) for edge in (j, j + 1))
        near = sorted(keys[low:high], key=lambda key: (abs(key[0] - middle_s), key))[:IFRAMES_PER_PICK]
        targets.update([packet for _, packet in near] or [packets.seen_at(middle_s)])
    return _filled(packets, targets, cfg.k)


def _for_iframe(packets: Packets, cfg: KeyframeConfig, length_s: float) -> set[int]:
    keys = _keys_shown(packets)
    if len(keys) > cfg.k:
        times_s = [time_s for time_s, _ in keys]
        places, first = [], 0
        for j, middle_s in enumerate(middles(length_s, cfg.k)):
            last = len(keys) - (cfg.k - j - 1)
            first = min(range(first, last), key=lambda n: (abs(times_s[n] - middle_s), n)) + 1
            places.append(first - 1)
        return {keys[place][1] for place in places}
    targets = {packet for _, packet in keys}
    return _filled(packets, targets, cfg.k) if cfg.fill else targets


def _keys_shown(packets: Packets) -> list[tuple[float, int]]:
    keys = set(packets.keys)
    return [(time_s, packet) for time_s, packet in packets.presentation if packet in keys]


def _filled(packets: Packets, targets: set[int], k: int) -> set[int]:
    """`targets`, filled up to min(k, number of frames) with frames from the middles of the longest gaps between targets."""
    targets = set(targets)
    while len(targets) < min(k, len(packets.presentation)):
        places = sorted(place for place, (_, packet) in enumerate(packets.presentation) if packet in targets)
        edges = [-1, *places, len(packets.presentation)]
        before, after = max(pairwise(edges), key=lambda gap: (gap[1] - gap[0], -gap[0]))
        targets.add(packets.presentation[(before + after) // 2][1])
    return targets
