"""A made-up report, realistic enough to look at: `python tests/report/conftest.py OUT_FOLDER` writes it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from m2raap.report.data import (
    BilingualRow,
    CompatRow,
    CostRow,
    Curve,
    DifferenceRow,
    DroppedItem,
    Example,
    FrameAblationRow,
    FunnelStage,
    Hit,
    InterpolationRow,
    ProtocolRow,
    ReportData,
    RescoredRow,
    ResultRow,
    Strip,
    TwoWayRow,
)
from m2raap.report.grading import grade
from m2raap.report.html import write_report
from m2raap.report.tag_table import TaggerFigures, TagRow, TagTable
from m2raap.retrieval.arms import paired
from m2raap.retrieval.embeddings import Embeddings
from m2raap.retrieval.results import Results, evaluate_embeddings
from m2raap.retrieval.tag_slices import add_tags, tag_rows

ARMS = {"mean pooling, bare backbone": 1.9, "mean pooling, adapted": 1.5, "STAN on clean data": 1.0}
COLOURS = {"red": "#d33", "blue": "#36c", "green": "#2a5", "yellow": "#db2"}


def make_strip(clip_id: str, colour: str, rightwards: bool = True, frames: int = 8) -> Strip:
    jpegs = []
    for i in range(frames):
        image = Image.new("RGB", (128, 96), "#ccd2d8")
        x = 12 + 10 * (i if rightwards else frames - 1 - i)
        ImageDraw.Draw(image).ellipse((x, 34, x + 28, 62), fill=COLOURS[colour])
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        jpegs.append(buffer.getvalue())
    return Strip(clip_id, jpegs, [0.15 + 0.3 * i for i in range(frames)])


@cache
def results_of(noise: float, seed: int, num_videos: int = 120) -> Results:
    world = np.random.default_rng([7])
    video_VE = world.normal(size=(num_videos, 24))
    ids = [f"t{i:06d}" for i in range(num_videos)]
    categories = {video: ("motion", "order")[i % 2] for i, video in enumerate(ids)}
    rng = np.random.default_rng([seed, int(noise * 10)])
    text_TE = np.concatenate([video_VE + (noise + 0.2 * i) * rng.normal(size=video_VE.shape) for i in range(2)])
    text_ids = [f"{video}.{lang}0" for lang in ("en", "zh") for video in ids]
    langs = ["en"] * num_videos + ["zh"] * num_videos
    embeddings = Embeddings(
        video_VE[2:], text_TE, ids[2:], text_ids, ids * 2, langs, missing=ids[:2], categories=categories
    )
    return evaluate_embeddings(embeddings, seed=0)


def protocols_of(arms: list[str]) -> list[ProtocolRow]:
    """Two protocols on one benchmark: the last arm saw other frames at test."""
    protocol = {
        "name": "world-motion",
        "ids": "1d" * 16,
        "texts": "7e" * 16,
        "missing": "4f" * 16,
        "pictures": "37" * 16,
        "frames": "keyframe-8, short side 96 px (0123)",
        "benchmark": {
            "source": "https://clips.test",
            "revision": "2",
            "split": "test",
            "citation": "Somebody 2020",
            "protocol": "p",
        },
    }
    missing = {f"m{i:05d}": "no_video_stream" if i % 2 else "" for i in range(60)}
    other = protocol | {"frames": "uniform-12, short side 96 px (4567)", "pictures": "99" * 16}
    return [
        ProtocolRow(
            "world-motion", name, some, shared, None, False,
            {arm: "ab" * 16 for arm in some}, dict.fromkeys(some, "224 px, bicubic"), missing,
        )
        for name, some, shared in (("A", arms[:-1], protocol), ("B", arms[-1:], other))
    ]  # fmt: skip


def tagged_ranks(results: Results) -> list[dict]:
    ranks = [dict(row) for row in results.ranks]
    number = {row["video_id"]: int(row["video_id"][1:]) for row in ranks}
    add_tags(ranks, {v: ["red / 红色"] * (i % 3 > 0) + ["circle / 圆形"] * (i % 2) for v, i in number.items()})
    return ranks


@cache
def make_sample(hostile: str = "a red circle moves right") -> ReportData:
    found = {arm: results_of(noise, 1) for arm, noise in ARMS.items()}
    names = list(ARMS)
    best = found[names[2]].ranks
    differences = [
        DifferenceRow(names[2], base, "world-motion", **paired([best], [found[base].ranks], lang, "t2v", "R@1", 0))
        for base in names[:2]
        for lang in ("en", "zh")
    ]
    differences[0] = replace(differences[0], unlike=["frames: keyframe-8 and uniform-12", "pictures: 3737 and 9999"])
    row = found[names[2]].rows[0]
    rescored = [
        RescoredRow(
            names[2], "world-motion", way, mark, label, "en", "t2v", row["queries"], row["gallery"], 3, [50.0, 52.5, 55.0],
            row["metrics"], row["intervals"], 2.5, 0.5, 4.5, 0.012,
        )
        for way, mark, label in (
            ("rerank", "late interaction", "late interaction (mug) over the first 50"),
            ("dual_softmax", "transductive", "transductive: sees all queries"),
        )
    ]  # fmt: skip
    gap = {"en": 51.0, "zh": 49.25, "diff": 1.75, "lo": -3.0, "hi": 6.5, "p": 0.4, "smallest": 5.5}
    steps = np.arange(0, 401, 10)
    curves = [
        Curve("training loss", arm, [(float(s), float(3.2 * np.exp(-s / (150 + 60 * i)) + 0.4)) for s in steps])
        for i, arm in enumerate(names[1:])
    ] + [
        Curve("val R@1", arm, [(float(s), float(60 * (1 - np.exp(-s / (120 + 50 * i))) + 8)) for s in steps[::5]])
        for i, arm in enumerate(names[1:])
    ]
    funnel = [
        FunnelStage("filter", "clips", 1400, 0, {"not_media": 18, "truncated": 22, "no_text_left": 96}, 1264),
        FunnelStage("keyframes", "clips", 1264, 0, {"too_few_frames": 3}, 1261),
        FunnelStage(
            "align", "clips", 1261, 0, {"black": 31, "frozen": 34, "duplicate_clip": 58, "mismatch": 102}, 1036
        ),
        FunnelStage(
            "filter", "texts", 2800, 0, {"boilerplate": 81, "mojibake": 44, "machine_tags": 40, "link": 3}, 2632
        ),
        FunnelStage("caption", "texts", 2632, 8288, {}, 10920),
        FunnelStage("rewrite", "texts", 10920, 610, {}, 11530),
    ]
    truth = [{"id": f"t{i:06d}", "level": "clip", "fault": "black", "repairable": False} for i in range(10)]
    truth += [{"id": f"t{i:06d}.en0", "level": "text", "fault": "mismatch", "repairable": False} for i in range(20, 40)]
    truth += [{"id": "t000050.en0", "level": "text", "fault": "shouting", "repairable": True}]
    clip_of = {f"t{i:06d}.{lang}0": f"t{i:06d}" for i in range(60) for lang in ("en", "zh")}
    dropped_ids = {"black": [f"t{i:06d}" for i in range(9)], "mismatch": [f"t{i:06d}.en0" for i in range(24, 43)]}
    tags = TagTable(
        ["STAN on clean data"], 1036, 811,
        TaggerFigures(89, 2560, 2560, 0.5013, [0.4918, 0.5117], 0.2747, 89, 0.8867, 0.5406, 0.0215),
        ["The tagger was fitted on the clips of this corpus; each clip has the tags of the member that has not seen it."],
        rows=[
            TagRow("red / 红色", 214, 190, 0.7915, 0.7442, 0.8443, 356),
            TagRow("circle / 圆形", 203, 188, 0.8483, 0.8081, 0.8964, 378),
            TagRow(hostile, 12, 0, None, None, None, 0),
        ],
        rows_left_out=86,
    )  # fmt: skip
    by_tag = [
        ResultRow(arm, "world-motion", **row)
        for arm in names
        for row in tag_rows([tagged_ranks(found[arm])], 0)
    ]  # fmt: skip
    hits = [
        Hit(make_strip("t000007", "red"), 0.412, True, "a red circle moves to the right"),
        Hit(make_strip("t000031", "red", rightwards=False), 0.377, False, "a red circle moves to the left"),
        Hit(make_strip("t000044", "yellow"), 0.215, False, "a yellow circle moves right"),
    ]
    examples = [
        Example("best", names[2], "en", hostile, 1, 120, hits),
        Example("best", names[2], "zh", "红色圆形向右移动，然后出现一个蓝色方块", 1, 120, hits),
        Example(
            "worst", names[2], "en", "a large green circle shrinks", 57, 120, hits[1:], make_strip("t000090", "green")
        ),
        Example(
            "worst", names[2], "zh", "一个黄色圆形从左边移到右边", 43.5, 120, hits[1:], make_strip("t000091", "yellow")
        ),
    ]
    dropped = [
        DroppedItem(
            "t000120", "align", "mismatch", [hostile, "一个蓝色圆形"], make_strip("t000120", "green"), 0.121, 0.2
        ),
        DroppedItem("t000121", "align", "mismatch", ["a red star spins"], make_strip("t000121", "blue"), 0.09, 0.2),
        DroppedItem("t000180.en0", "filter", "boilerplate", ["Royalty free footage, 4K, clip 00231"], None, 0.83, 0.5),
        DroppedItem("t000181", "filter", "truncated", ["a blue circle moves left"], None, 0.44, 0.9, "32 of 72 frames"),
    ]
    return ReportData(
        title="M2-RAAP on the synthetic bilingual world",
        synthetic=True,
        headline_arm=names[2],
        baseline_arm=names[0],
        notes=["1,400 training clips, 120 test clips, English and Chinese; trained on two CPU cores."],
        results=[ResultRow(arm, "world-motion", **row) for arm, result in found.items() for row in result.rows],
        compat=[
            CompatRow(arm, "world-motion", lang, direction, table, 118, 121.0, result.to_dict()["compat"]["label"])
            for arm, result in found.items()
            for lang, tables in result.compat.items()
            for direction, table in tables.items()
        ],
        rescored=rescored,
        bilingual=[BilingualRow(names[2], "world-motion", "t2v", 118, 3, {"R@1": gap}, 0.62, 0.4, 0.1, 0.09, 0.41)],
        protocols=protocols_of(names),
        interpolation=[
            InterpolationRow(name, "drawn", "en", "t2v", alpha, 118, r1, r1 - 4, r1 + 4, r1 - start, -1.0, 1.0, 0.5)
            for name, start, end in (("world-motion", 30.0, 51.0), ("stills", 62.0, 40.0))
            for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)
            for r1 in (start + (end - start) * alpha,)
        ],
        differences=differences,
        frame_ablations=[
            FrameAblationRow(arm, "world-motion", "en", "t2v", "all", frames, value, value - 5, value + 5)
            for arm, values in zip(names[1:], ((34.0, 33.7, 28.1), (52.3, 21.0, 25.5)), strict=True)
            for frames, value in zip(("as they are", "shuffled", "one frame"), values, strict=True)
        ],
        two_way=[
            TwoWayRow(
                arm, "world-motion", way, "en", "t2v", 60, 30, value, [value - 9, value + 9], 3, [value - 2, value + 2]
            )
            for arm, way, value in ((names[1], "", 50.5), (names[2], "", 81.5), (names[2], "shuffled", 48.5))
        ],
        costs=[
            CostRow("raw", "raw video", 400, None, 731.5, 522.25, {"world-motion en": 51.0, "world-motion zh": 49.25}),
            CostRow("m2raap", "keyframe-8 stored", 400, 71.0, 108.0, 0.0, {"world-motion en": 52.3}),
        ],
        curves=curves,
        funnel=funnel,
        by_tag=by_tag,
        tags=[tags],
        grading=grade(dropped_ids, truth, clip_of),
        examples=examples,
        dropped=dropped,
        nearly=[
            DroppedItem("t000200", "align", "mismatch", ["a red star"], make_strip("t000200", "red"), 0.21, 0.2, "sim"),
            DroppedItem("t000201", "align", "frozen", ["a still blue circle"], None, 0.84, 0.85, "frozen_share"),
        ],
        protocol={
            "benchmark": "world-motion",
            "model": "tiny bilingual CLIP",
            "frames": "8 key-frames, short side 256 px",
            "scoring": "one vector a clip, cosine",
            "fingerprint": "5f0c" * 16,
        },
        timings=[("filter", 4.2), ("keyframes", 71.0), ("align", 12.4), ("adapt", 108.0), ("evaluate", 1.1)],
        recipe="langs: [en, zh]\nstages:\n  keyframes: {k: 8}\n  adapt: {steps: 400, temporal: stan}\n",
    )


@pytest.fixture(scope="session")
def sample() -> Callable[..., ReportData]:
    return make_sample


@pytest.fixture(scope="session")
def strip() -> Callable[..., Strip]:
    return make_strip


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    write_report(make_sample(), out / "report.html", out / "report.json")
