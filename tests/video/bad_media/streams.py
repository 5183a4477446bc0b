"""The other containers, and limits: cut anywhere, damaged, too large, too long, too wide."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.video.bad_media import surgery as cut
from tests.video.bad_media.case import Case, Sources, first, taken
from tests.video.bad_media.surgery import clusters, flipped, patched, renamed


def stream_cases() -> list[Case]:
    def without_some_packets(s: Sources) -> bytes:
        packets = cut.ts_packets(s("busy.ts"))
        return b"".join(p for i, p in enumerate(packets) if cut.ts_pid(p) != 256 or i < 20 or i % 9)

    def no_tables(s: Sources) -> bytes:
        return b"".join(p for p in cut.ts_packets(s("plain.ts")) if cut.ts_pid(p) not in (0, 17, 4096))

    def wide_vp8(s: Sources) -> bytes:
        """The header of the container says 64x48, that of the frame 16383x16383."""
        size = struct.pack("<3sHH", b"\x9d\x01\x2a", 64, 48)
        return renamed(s("vp8.webm"), size, struct.pack("<3sHH", b"\x9d\x01\x2a", 16383, 16383))

    def wide_mjpeg(s: Sources) -> bytes:
        return renamed(s("mjpeg.avi"), struct.pack(">BHH", 8, 48, 64), struct.pack(">BHH", 8, 16384, 16384))

    def wide_matroska(s: Sources) -> bytes:
        data = s("plain.mkv")
        return patched(data, data.index(b"\xb0\x81\x40\xba\x81\x30"), b"\xb0\x81\xff\xba\x81\xff")

    def long_matroska(s: Sources) -> bytes:
        data = s("plain.mkv")
        at = data.index(cut.DURATION) + 3
        return patched(data, at, struct.pack(">d", 1e12))

    def long_sound(s: Sources) -> bytes:
        """What many recorders write: one length for all streams, that of the sound."""
        data = renamed(s("plain.mkv"), b"DURATION", b"SOMEWHAT")
        return patched(data, data.index(cut.DURATION) + 3, struct.pack(">d", 9000.0))

    def second_size(s: Sources) -> bytes:
        return s("large.ts") + s("small_later.ts") + s("large_last.ts")

    def in_band(s: Sources) -> bytes:
        data = s("plain.ts")
        return cut.h264_of_size(data, data.index(b"\0\0\1\x67") + 3, 1024, 1024)

    def flipped_mkv(s: Sources) -> bytes:
        data = s("busy.mkv")
        return flipped(data, clusters(data)[0] + 40, len(data) - 300, 100)

    def flipped_avi(name: str, every: int) -> Callable[[Sources], bytes]:
        def make(s: Sources) -> bytes:
            data = s(name)
            return flipped(data, data.index(b"movi") + 4, data.rindex(b"idx1"), every)

        return make

    endless = {"timeout_s": 1.0}
    return [
        Case("changing_size.ts", "ok", second_size, frames=150),
        # Joined without new times: a reader that goes by time reaches one of the two only.
        Case("joined.ts", "corrupt", lambda s: s("plain.ts") + s("plain.ts")),
        Case("joined.mkv", "corrupt", lambda s: s("plain.mkv") + s("plain.mkv")),
        Case("joined.mpg", "corrupt", lambda s: s("mpeg2.mpg") + s("mpeg2.mpg")),
        Case("junk_before.ts", "ok", lambda s: b"\0garbage" * 100 + s("plain.ts"), frames=50),
        Case("cut_unaligned.ts", "truncated", lambda s: s("busy.ts")[: 188 * 70 + 60]),
        Case("cut_in_a_frame.ts", "truncated", lambda s: _in_a_frame(s("busy.ts"))),
        # Between two frames of a transport stream nothing shows that more followed.
        Case("cut_between_frames.ts", "ok", lambda s: b"".join(_whole_frames(s("busy.ts"))[:-20])),
        Case("cut_early.ts", "truncated", lambda s: s("busy.ts")[: 188 * 20 + 7]),
        Case("cut_with_sound.ts", "truncated", lambda s: s("sound.ts")[: len(s("sound.ts")) // 5 // 188 * 188 + 9]),
        Case("lost_packets.ts", "corrupt", without_some_packets),
        Case("no_tables.ts", "ok", no_tables),
        Case("cut.m2ts", "truncated", lambda s: s("plain.m2ts")[: 192 * 60 + 100]),
        Case("cut.mpg", "truncated", lambda s: s("sound.mpg")[: len(s("sound.mpg")) // 2 + 77]),
        Case("cut_in_header.mkv", "header_missing", lambda s: s("plain.mkv")[: s("plain.mkv").index(cut.TRACKS) + 20]),
        Case("only_ebml.mkv", "header_missing", lambda s: s("plain.mkv")[:60]),
        Case("cut_before_clusters.mkv", "header_missing", lambda s: s("plain.mkv")[: clusters(s("plain.mkv"))[0]]),
        Case("cut_between_clusters.mkv", "truncated", lambda s: s("plain.mkv")[: clusters(s("plain.mkv"))[2]]),
        Case("cut_in_cluster.mkv", "truncated", lambda s: s("plain.mkv")[: clusters(s("plain.mkv"))[2] + 100]),
        Case("cut.webm", "truncated", first("vp9.webm", 0.5)),
        Case("cut_in_block.live.mkv", "truncated", lambda s: s("live.mkv")[: clusters(s("live.mkv"))[2] + 60]),
        # A live recording states no length: between two clusters nothing shows that more followed.
        Case("cut_between.live.mkv", "ok", lambda s: s("live.mkv")[: clusters(s("live.mkv"))[2]]),
        Case("long_duration.mkv", "ok", long_matroska, frames=50),
        Case("long_sound.mkv", "ok", long_sound, frames=50),
        Case("long_sound_cut.mkv", "truncated", lambda s: long_sound(s)[: clusters(s("plain.mkv"))[2] + 100]),
        Case("flipped.mkv", "corrupt", flipped_mkv),
        Case("wide.mkv", "ok", wide_matroska, frames=50),
        Case("16k_frame.webm", "too_large", wide_vp8),
        Case("16k_frame.avi", "too_large", wide_mjpeg),
        Case("cut_in_header.avi", "header_missing", lambda s: s("plain.avi")[:180]),
        Case("cut_in_movi.avi", "truncated", first("busy.avi", 0.6)),
        Case("index_lost.avi", "ok", lambda s: s("plain.avi")[: s("plain.avi").rindex(b"idx1")], frames=50),
        Case("flipped.avi", "corrupt", flipped_avi("busy.avi", 60)),
        Case("flipped.mjpeg.avi", "corrupt", flipped_avi("busy.mjpeg.avi", 200)),
        Case("cut.flv", "truncated", first("plain.flv", 0.6)),
        Case("cut.live.flv", "truncated", first("live.flv", 0.6)),
        Case("only_header.flv", "header_missing", lambda s: s("plain.flv")[:13]),
        Case("cut.ogv", "truncated", first("sound.ogv", 0.7)),
        Case("cut_in_header.ogv", "header_missing", lambda s: s("theora.ogv")[:120]),
        Case("cut.wmv", "truncated", first("plain.wmv", 0.6)),
        Case("cut_in_header.wmv", "header_missing", lambda s: s("plain.wmv")[:100]),
        Case("endless.ts", "timeout", lambda s: s("dull.ts") * 150, endless),
        Case("vast_frames.avi", "out_of_memory", taken("vast.avi"), {"memory_mb": 512, "max_pixels": 2**28}),
        Case("16k.ts", "too_large", in_band),
        Case("vast_frames_default.avi", "too_large", taken("vast.avi")),
        Case("many_bytes.mp4", "too_large", taken("plain.mp4"), {"max_bytes": 1000}),
        Case("many_pixels.mp4", "too_large", taken("plain.mp4"), {"max_pixels": 64 * 48 - 1}),
    ]  # fmt: skip


def _whole_frames(ts: bytes) -> list[bytes]:
    """Packets of a transport stream, grouped so that each group ends where a frame does."""
    groups: list[bytes] = []
    for packet in cut.ts_packets(ts):
        if packet[1] & 0x40 or not groups:
            groups.append(packet)
        else:
            groups[-1] += packet
    return groups


def _in_a_frame(ts: bytes) -> bytes:
    """Cut at a packet's end inside a frame of at least four packets, in the second half."""
    groups = _whole_frames(ts)
    at = next(i for i in range(len(groups) // 2, len(groups)) if len(groups[i]) >= 4 * 188)
    return b"".join(groups[:at]) + groups[at][: 2 * 188]
