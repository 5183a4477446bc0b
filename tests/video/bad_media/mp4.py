"""MP4: boxes lost, cut, patched and filled with wrong bits."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.video.bad_media.case import Case, Sources, first
from tests.video.bad_media.surgery import box, boxes, flipped_samples, h264_of_size, patched, renamed


def mp4_cases() -> list[Case]:
    def whole(s: Sources) -> bytes:
        return s("faststart.mp4")

    def largesize(s: Sources) -> bytes:
        # The samples move by 8 bytes; so do their chunk offsets (the only chunk table is stco).
        data = whole(s)
        start, end = box(data, "mdat")
        table, _ = box(data, "moov", "trak", "mdia", "minf", "stbl", "stco")
        count = struct.unpack(">I", data[table + 12 : table + 16])[0]
        offsets = struct.unpack(f">{count}I", data[table + 16 : table + 16 + 4 * count])
        data = patched(data, table + 16, struct.pack(f">{count}I", *(o + 8 for o in offsets)))
        return data[:start] + struct.pack(">I4sQ", 1, b"mdat", end - start + 8) + data[start + 8 :]

    def huge_duration(s: Sources) -> bytes:
        data = whole(s)
        for path in (("moov", "mvhd"), ("moov", "trak", "mdia", "mdhd")):
            data = patched(data, box(data, *path)[0] + 24, struct.pack(">I", 0x7FFFFFFF))
        return patched(data, box(data, "moov", "trak", "tkhd")[0] + 28, struct.pack(">I", 0x7FFFFFFF))

    def huge_header(s: Sources) -> bytes:
        data = whole(s)
        data = patched(data, box(data, "moov", "trak", "tkhd")[1] - 8, struct.pack(">II", 16384 << 16, 16384 << 16))
        entry, _ = box(data, "moov", "trak", "mdia", "minf", "stbl", "stsd", "avc1")
        return patched(data, entry + 32, struct.pack(">HH", 16384, 16384))

    def lost_key_frame(s: Sources) -> bytes:
        data = s("busy_long_gop.mp4")
        start, _ = box(data, "mdat")
        return patched(data, start + 8, bytes(2000))

    def far_samples(s: Sources) -> bytes:
        data = whole(s)
        table, _ = box(data, "moov", "trak", "mdia", "minf", "stbl", "stco")
        return patched(data, table + 16, struct.pack(">I", 0x7FFFFF00))

    def many_samples(s: Sources) -> bytes:
        """A sample size table that announces four billion entries."""
        data = whole(s)
        table, _ = box(data, "moov", "trak", "mdia", "minf", "stbl", "stsz")
        return patched(data, table + 16, b"\xff\xff\xff\xff")

    def elsewhere(s: Sources) -> bytes:
        """A data reference that names the canary instead of this file."""
        data = whole(s)
        start, end = box(data, "moov", "trak", "mdia", "minf", "dinf", "dref", "url ")
        address = f"file://{s.canary}/canary.mp4".encode() + b"\0"
        new = struct.pack(">I4sI", 12 + len(address), b"url ", 0) + address
        grown = len(new) - (end - start)
        data = data[:start] + new + data[end:]
        for path in (("moov", "trak", "mdia", "minf", "dinf", "dref"), ("moov", "trak", "mdia", "minf", "dinf"),
                     ("moov", "trak", "mdia", "minf"), ("moov", "trak", "mdia"), ("moov", "trak"), ("moov",)):  # fmt: skip
            at = _start_of(data, path)
            data = patched(data, at, struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + grown))
        table, _ = box(data, "moov", "trak", "mdia", "minf", "stbl", "stco")
        at = table + 16
        return patched(data, at, struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + grown))

    def without_moov(s: Sources) -> bytes:
        data = s("plain.mp4")
        start, end = box(data, "moov")
        return data[:start] + data[end:]

    def in_band(s: Sources) -> bytes:
        return h264_of_size(s("plain.mp4"), s("plain.mp4").index(b"avcC") + 12, 1024, 1024)

    bad_title = b"\xff\xfe\x80TITLE\xc3\x28 \n\0x"
    return [
        Case("largesize.mp4", "ok", largesize, frames=50),
        Case("huge_duration.mp4", "ok", huge_duration, frames=50),
        Case("junk_behind.mp4", "ok", lambda s: whole(s) + b"junk\0" * 500, frames=50),
        Case("zeros_behind.mp4", "ok", lambda s: whole(s) + bytes(4096), frames=50),
        Case("unknown_box.mp4", "ok", lambda s: s("plain.mp4") + struct.pack(">I4s", 16, b"abcd") + bytes(8), frames=50),
        Case("bad_title.mp4", "ok", lambda s: renamed(s("bad_title.mp4"), b"TITLE-IN-ASCII", bad_title), frames=50),
        Case("few_bytes_lost.mp4", "ok", lambda s: whole(s)[:-40]),
        # FFmpeg does not follow the reference, and the samples are here.
        Case("other_sample_file.mp4", "ok", elsewhere, frames=50),
        Case("16k_container.mp4", "ok", huge_header, frames=50),  # the frames themselves are 64x48
        Case("16k.mp4", "too_large", in_band),
        Case("moov_removed.mp4", "header_missing", without_moov),
        Case("moov_renamed.mp4", "header_missing", lambda s: renamed(s("plain.mp4"), b"moov", b"zzzz")),
        Case("moov_in_free.mp4", "ok", lambda s: renamed(s("plain.mp4"), b"moov", b"free"), frames=50),
        Case("moov_last_cut_off.mp4", "header_missing", first("plain.mp4", 0.5)),
        Case("moov_last_cut_inside.mp4", "header_missing", lambda s: s("plain.mp4")[:-100]),
        Case("moov_first_cut_inside.mp4", "header_missing", lambda s: whole(s)[: box(whole(s), "moov")[1] - 100]),
        Case("only_ftyp.mp4", "header_missing", lambda s: whole(s)[: box(whole(s), "ftyp")[1]]),
        Case("half_ftyp.mp4", "header_missing", lambda s: whole(s)[:16]),
        Case("no_mdat.mp4", "truncated", lambda s: whole(s)[: box(whole(s), "moov")[1]]),
        Case("mdat_header_only.mp4", "truncated", lambda s: whole(s)[: box(whole(s), "mdat")[0] + 8]),
        *(
            Case(f"mdat_cut_{share}.mp4", "truncated", lambda s, share=share: _in_box(s("busy_fast.mp4"), "mdat", share))
            for share in (10, 50, 80)
        ),
        Case("far_samples.mp4", "truncated", far_samples),
        Case("flip_1_in_4.mp4", "corrupt", lambda s: flipped_samples(s("busy.mp4"), 4)),
        Case("flip_1_in_40.mp4", "corrupt", lambda s: flipped_samples(s("busy.mp4"), 40)),
        Case("flip_1_in_400.mp4", "corrupt", lambda s: flipped_samples(s("busy.mp4"), 400)),
        Case("samples_zeroed.mp4", "corrupt", lambda s: _zeroed(s("busy.mp4"))),
        Case("key_frame_lost.mp4", "corrupt", lost_key_frame),
        Case("many_samples.mp4", "corrupt", many_samples),
        Case("unknown_fourcc.mp4", "unsupported_codec", lambda s: renamed(s("plain.mp4"), b"avc1\0", b"zzzz\0")),
        Case("fragment_cut_inside.mp4", "truncated", lambda s: _in_last(s("fragments.mp4"), "mdat")),
        Case("fragment_cut_in_moof.mp4", "truncated", lambda s: _in_last(s("fragments.mp4"), "moof")),
        Case("dash_cut_inside.mp4", "truncated", lambda s: _in_last(s("dash.mp4"), "mdat")),
        # Between two fragments nothing shows that more followed.
        Case("dash_cut_between.mp4", "ok", lambda s: s("dash.mp4")[: _last(s("dash.mp4"), "moof")[0]]),
        *_boundary_cases(),
        Case("fragments_without_head.mp4", "header_missing", lambda s: s("dash.mp4")[box(s("dash.mp4"), "moov")[1] :]),
    ]  # fmt: skip


def _boundary_cases() -> list[Case]:
    """Cut after each top-level box."""
    classes = {
        "plain.mp4": {"ftyp": "header_missing", "free": "header_missing", "mdat": "header_missing"},
        "faststart.mp4": {"ftyp": "header_missing", "moov": "truncated", "free": "truncated"},
        # Where a fragment is complete, nothing shows that more followed.
        "fragments.mp4": {"ftyp": "header_missing", "moov": "truncated", "moof": "truncated", "mdat": "ok"},
    }
    kinds = {
        "plain.mp4": ["ftyp", "free", "mdat"],
        "faststart.mp4": ["ftyp", "moov", "free"],
        "fragments.mp4": ["ftyp", "moov", *["moof", "mdat"] * 5],
    }

    def cut_after(name: str, number: int) -> Callable[[Sources], bytes]:
        def make(s: Sources) -> bytes:
            assert [kind for kind, _, _ in boxes(s(name))][:-1] == kinds[name]
            return s(name)[: list(boxes(s(name)))[number][2]]

        return make

    return [
        Case(f"after_box_{number}_{kind}.{name}", classes[name][kind], cut_after(name, number))
        for name in kinds
        for number, kind in enumerate(kinds[name])
    ]


def _start_of(data: bytes, path: tuple[str, ...]) -> int:
    """Start of the box at `path`, where the sizes of the boxes around it are still wrong: only starts are followed."""
    at, end = 0, len(data)
    for i, kind in enumerate(path):
        while True:
            size, found = struct.unpack(">I4s", data[at : at + 8])
            if found == kind.encode():
                break
            at += size
            assert at < end
        if i < len(path) - 1:
            at += 16 if kind == "dref" else 8
    return at


def _last(data: bytes, kind: str) -> tuple[int, int]:
    return [(a, b) for k, a, b in boxes(data) if k == kind][-1]


def _in_last(data: bytes, kind: str) -> bytes:
    start, end = _last(data, kind)
    return data[: (start + end) // 2]


def _in_box(data: bytes, kind: str, share: int) -> bytes:
    start, end = box(data, kind)
    return data[: start + 8 + (end - start - 8) * share // 100]


def _zeroed(data: bytes) -> bytes:
    start, end = box(data, "mdat")
    third = (end - start) // 3
    return patched(data, start + third, bytes(third))
