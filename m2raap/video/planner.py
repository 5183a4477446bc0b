"""Whether a clip is decoded in full, or I-frames and few exact seeks are enough. Decided by frames decoded.

The list of packets is read first: their times and key flags, by demuxing alone, which takes about a two-hundredth of a
decode. The flag of the packet is what counts: `skip_frame=NONKEY` is not heeded by the decoders of VP9 and AV1.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from m2raap.video.choose import middles
from m2raap.video.decode import seek_before

if TYPE_CHECKING:
    from av import Packet

    from m2raap.video.clip import KeyframeConfig
    from m2raap.video.container import Opened

KEYS_A_PICK = 3  # I-frames that are decoded a pick, so that a black or blurred one can be avoided
LATE_FRAMES = 4  # frames that a decoder takes in before it gives the first one out: B-frames wait


@dataclass
class Packets:
    """Video packets of a clip in order of decoding, from the key-frame at or before its start. Times since its start."""

    times_s: array[float] = field(default_factory=lambda: array("d"))
    keys: list[int] = field(default_factory=list)  # indices of packets that carry the key flag
    stamps: dict[int, tuple[int, int]] = field(default_factory=dict)  # key packet -> (pts, dts) as in the file
    end_s: float = 0.0  # when the last frame ends
    presentation: list[tuple[float, int]] = field(default_factory=list)  # (time, index) in order of presentation

    def add(self, time_s: float, lasts_s: float, key: tuple[int, int] | None) -> None:
        """`key`: pts and dts of a packet that carries the key flag."""
        if key is not None:
            self.keys.append(len(self.times_s))
            self.stamps[len(self.times_s)] = key
        self.times_s.append(time_s)
        self.end_s = max(self.end_s, time_s + lasts_s)

    def close(self, length_s: float) -> Packets:
        """Sorts what lies inside the clip; call it after the last `add`."""
        self.presentation = sorted((t, i) for i, t in enumerate(self.times_s) if -1e-6 <= t < length_s - 1e-6)
        return self

    def seen_at(self, time_s: float) -> int:
        """The packet whose frame is on the screen at `time_s`."""
        return self.presentation[max(0, bisect_right(self.presentation, (time_s + 1e-6, len(self.times_s))) - 1)][1]

    def key_before(self, packet: int) -> int | None:
        """The last key packet stored and shown no later: what is shown before its key-frame needs the one before, too."""
        place = bisect_right(self.keys, packet)
        while place and self.times_s[self.keys[place - 1]] > self.times_s[packet] + 1e-6:
            place -= 1
        return self.keys[place - 1] if place else None


@dataclass(frozen=True)
class SeekRead:
    """One seek: decoding from the key packet `key` until the frames of all packets `targets` (ascending) are out."""

    key: int
    targets: tuple[int, ...]

    @property
    def frames(self) -> int:
        """Number of frames that are decoded: one where the I-frame itself is the only target."""
        return 1 if self.targets == (self.key,) else self.targets[-1] - self.key + 1 + LATE_FRAMES


@dataclass(frozen=True)
class SparsePlan:
    """How a clip is read sparsely: seeks ascending in time, and what both ways cost in frames decoded."""

    packets: Packets
    seeks: tuple[SeekRead, ...]
    start_s: float
    length_s: float
    full_frames: int

    @property
    def frames(self) -> int:
        return sum(seek.frames for seek in self.seeks)


def plan_sparse(opened: Opened, start_s: float, end_s: float | None, cfg: KeyframeConfig) -> SparsePlan | None:
    """None: the clip is to be decoded in full.

    `auto` reads in full what is shorter than `sparse_from_s` (or of unknown length, which is looked for only where the
    header says that it may pay), and what the sparse way would not make `sparse_gain` times cheaper. An AVI with B-frames is
    always read in full: which frame is shown when is known only by counting from its start.
    """
    if opened.format_name == "avi" and opened.stream.codec_context.has_b_frames:
        return None
    announced_s = (opened.duration_s if end_s is None else end_s) - start_s
    if cfg.reading == "full" or (cfg.reading == "auto" and announced_s < cfg.sparse_from_s):
        return None
    packets = read_packets(opened, start_s, end_s)
    length_s = min(packets.end_s, end_s - start_s) if end_s is not None else packets.end_s
    packets.close(length_s)
    seeks = seek_reads(packets, cfg, length_s)
    if not seeks:
        return None
    candidate = SparsePlan(packets, seeks, start_s, length_s, len(packets.times_s))
    if cfg.reading == "auto" and candidate.frames * cfg.sparse_gain > candidate.full_frames:
        return None
    return candidate


@dataclass(frozen=True)
class Outlook:
    """What reading a clip will take, by its header and, where it may pay, its packets. Nothing is decoded."""

    reading: str  # full | sparse
    frames: int  # number of frames that will be decoded
    full_frames: int  # number of frames in the whole clip
    pixels: int  # number of pixels in one frame


def outlook(opened: Opened, start_s: float, end_s: float | None, cfg: KeyframeConfig) -> Outlook:
    context = opened.stream.codec_context
    pixels = context.width * context.height
    sparse = plan_sparse(opened, start_s, end_s, cfg)
    if sparse is not None:
        return Outlook("sparse", sparse.frames, sparse.full_frames, pixels)
    length_s = (opened.duration_s if end_s is None else end_s) - start_s
    frames = max(1, round(length_s * (opened.fps or 25.0)))
    return Outlook("full", frames, frames, pixels)


def read_packets(opened: Opened, start_s: float, end_s: float | None) -> Packets:
    """By demuxing alone, from the key-frame at or before `start_s` until decoding time reaches `end_s`."""
    import av.error

    base, origin = float(opened.time_base), opened.stream.start_time or 0
    tick_s = 1 / (opened.fps or 25.0)
    if start_s > 0 or opened.was_read:
        seek_before(opened, start_s)
    opened.was_read = True
    clip_packets = Packets()
    try:
        for packet in opened.packets():
            stamps = stamps_of(packet, opened)
            if stamps is None:
                continue
            if end_s is not None and (stamps[1] - origin) * base >= end_s:
                break
            lasts_s = (packet.duration or 0) * base or tick_s
            clip_packets.add((stamps[0] - origin) * base - start_s, lasts_s, stamps if packet.is_keyframe else None)
    except MemoryError as error:
        raise MemoryError(str(error)) from None
    except av.error.FFmpegError:
        return clip_packets  # a damaged file, as far as it can be read: what is missing shows in its length
    return clip_packets


def stamps_of(packet: Packet, opened: Opened) -> tuple[int, int] | None:
    """When a packet's frame is shown and when it is decoded; None for packets that carry no frame or no time."""
    pts, dts = packet.pts, packet.dts
    if opened.format_name == "avi":  # its one stamp is that of decoding
        pts = dts
    pts = dts if pts is None else pts
    if pts is None or not packet.size:
        return None
    return pts, pts if dts is None else dts


def seek_reads(packets: Packets, cfg: KeyframeConfig, length_s: float) -> tuple[SeekRead, ...]:
    """What has to be decoded for `cfg`'s strategy; () where the packets give no place to begin."""
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
    """In each of k equal segments the I-frames nearest to its middle, or where it has none the frame seen there."""
    keys = _keys_shown(packets)
    times_s = [time_s for time_s, _ in keys]
    targets: set[int] = set()
    for j, middle_s in enumerate(middles(length_s, cfg.k)):
        low, high = (bisect_left(times_s, length_s * edge / cfg.k) for edge in (j, j + 1))
        near = sorted(keys[low:high], key=lambda key: (abs(key[0] - middle_s), key))[:KEYS_A_PICK]
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
    """With fewer than k the middles of the longest gaps, while there are frames in them."""
    targets = set(targets)
    while len(targets) < min(k, len(packets.presentation)):
        places = sorted(place for place, (_, packet) in enumerate(packets.presentation) if packet in targets)
        edges = [-1, *places, len(packets.presentation)]
        before, after = max(pairwise(edges), key=lambda gap: (gap[1] - gap[0], -gap[0]))
        targets.add(packets.presentation[(before + after) // 2][1])
    return targets
