from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from m2raap.core.errors import M2raapError
from m2raap.report.data import (
    DroppedItem,
    Example,
    FunnelStage,
    ProtocolRow,
    PublishedRow,
    ReportData,
    ResultRow,
    Strip,
    labels_of,
)
from m2raap.report.html import render, thumbnails, write_report
from tests.report.conftest import results_of

HOSTILE = "</style><script>alert(1)</script><img src=https://x.test/a onerror=alert(2)>\u202egnp.\x00'\""
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, all text, and a check that every tag is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def hostile_protocol(row: ProtocolRow) -> ProtocolRow:
    assert row.protocol
    protocol = dict.fromkeys(row.protocol, HOSTILE) | {"benchmark": dict.fromkeys(row.protocol["benchmark"], HOSTILE)}
    return replace(row, arms=[HOSTILE], protocol=protocol, models={HOSTILE: HOSTILE}, missing={HOSTILE: HOSTILE})


@pytest.fixture(scope="module")
def hostile(sample: Callable[..., ReportData]) -> str:
    data = sample(hostile=HOSTILE)
    return render(
        replace(
            data,
            title=HOSTILE,
            notes=[HOSTILE],
            recipe=HOSTILE,
            protocol={HOSTILE: HOSTILE},
            differences=[replace(row, unlike=[HOSTILE]) for row in data.differences],
            compat=[replace(row, arm=HOSTILE, lang=HOSTILE, label=HOSTILE) for row in data.compat],
            rescored=[replace(row, way=HOSTILE, label=HOSTILE) for row in data.rescored],
            frame_ablations=[replace(row, arm=HOSTILE, frames=HOSTILE) for row in data.frame_ablations],
            interpolation=[replace(row, set=HOSTILE, what=HOSTILE) for row in data.interpolation],
            protocols=[hostile_protocol(row) for row in data.protocols],
            published=[PublishedRow(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0, HOSTILE, HOSTILE)],
            timings=[(HOSTILE, 1.0)],
            curves=[replace(curve, chart=HOSTILE, label=HOSTILE) for curve in data.curves],
            results=[replace(row, arm=HOSTILE, lang=HOSTILE, slice=row.slice) for row in data.results],
            dropped=[replace(item, item_id=HOSTILE, detail=HOSTILE, reason=HOSTILE) for item in data.dropped],
            nearly=[replace(item, item_id=HOSTILE, detail=HOSTILE, texts=[HOSTILE]) for item in data.nearly],
        )
    )


def test_hostile_text_stays_text(hostile: str) -> None:
    page = Page(hostile)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "link", "base", "form"} == set()
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert (attributes.get("href") or "#").startswith("#")
    shown = "".join(page.text)
    assert "<script>alert(1)</script>" in shown
    assert "\u202e" not in hostile and "\x00" not in hostile and "\ufffdgnp." in shown


def test_policy_admits_the_one_style_sheet(hostile: str) -> None:
    (policy,) = [a["content"] for t, a in Page(hostile).tags if a.get("http-equiv") == "Content-Security-Policy"]
    style = re.findall(r"<style>(.*?)</style>", hostile, re.S)
    assert len(style) == 1
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style[0] and "@import" not in style[0]


def test_all_sections_are_there_and_linked(sample: Callable[..., ReportData]) -> None:
    page = Page(render(sample()))
    ids = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    links = {(attributes["href"] or "").removeprefix("#") for tag, attributes in page.tags if tag == "a"}
    assert ids == links
    assert len(ids) == 18
    shown = " ".join(" ".join(page.text).split())
    for expected in (
        "synthetic world, tiny model",
        "2 missing count as misses",
        "available clips only (n = 118): not comparable",
        "红色圆形向右移动，然后出现一个蓝色方块",
        "score 0.121, threshold 0.200",
        "frozen · 34 nothing changes for too large a share of the clip's duration nearly dropped a still blue circle",
        "image and text do not belong together",
        "1 min 48 s",
        "protocols differ , so m2raap report compare would refuse",
        "frames: keyframe-8 and uniform-12; pictures: 3737 and 9999",
        "detectable",
        "CLIP4Clip's arithmetic, not ours: 121 entries of 118 queries",
        "dual_softmax, transductive; mean of 3 seeds, R@1 50.0 to 55.0",
        "51.0 49.2 +1.8",
        "under another protocol",
        "frames at test uniform-12, short side 96 px (4567)",
        "benchmark citation Somebody 2020",
        "60 clips without an embedding",
        "and 10 more, listed in report.json",
        "R@1 over alpha · English · text to video world-motion stills",
        "mean of 3 seeds, 79.5 to 83.5 81.5 72.5–90.5 60",
        "raw raw video none 400 12 min 12 s 8 min 42 s 51.0 49.2 m2raap keyframe-8 stored 1 min 11 s",
    ):
        assert expected in shown


def test_a_way_that_was_labelled_differently_names_its_arms(sample: Callable[..., ReportData]) -> None:
    row = sample().rescored[0]
    assert labels_of([row, row]) == [("rerank", "late interaction", "late interaction (mug) over the first 50")]
    other = replace(row, arm="x", label="over the first 7")
    assert [label for _, _, label in labels_of([row, row, other])] == [
        "late interaction (mug) over the first 50 (STAN on clean data on world-motion)",
        "over the first 7 (x on world-motion)",
    ]


def test_results_without_a_protocol_are_named(sample: Callable[..., ReportData]) -> None:
    (first, *_) = sample().protocols
    page = " ".join(
        " ".join(Page(render(ReportData("t", False, protocols=[replace(first, protocol=None)]))).text).split()
    )
    assert "protocol none: " in page and "evaluate again" in page


def test_slices_by_length_stand_beside_those_by_category() -> None:
    row = results_of(1.0, 1, num_videos=20).rows[0] | {"slice": "over 15 s", "lang": "zh", "queries": 17}
    page = Page(render(ReportData("t", False, lengths=[ResultRow("stan", "clips", **row)])))
    assert [attributes["id"] for tag, attributes in page.tags if tag == "section"] == ["slices"]
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["#slices"]
    shown = " ".join(" ".join(page.text).split())
    assert "clips of one length" in shown and "one category" not in shown and "over 15 s (17)" in shown


def test_an_empty_report_has_no_sections() -> None:
    page = Page(render(ReportData(title="nothing yet", synthetic=False)))
    assert not [tag for tag, _ in page.tags if tag in ("section", "a")]
    assert "synthetic world" not in "".join(page.text)


def test_same_data_same_bytes_and_json_beside(tmp_path: Path, sample: Callable[..., ReportData]) -> None:
    data = sample(hostile="half a pair \ud800 \u2066")
    for name in ("one", "two"):
        write_report(data, tmp_path / f"{name}.html", tmp_path / f"{name}.json")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    values = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert values["examples"][0]["hits"][0]["strip"]["frames"] == 8
    assert "jpegs" not in values["examples"][0]["hits"][0]["strip"]
    assert len(values["results"]) == len(data.results)
    assert values["grading"]["overall"]["planted"] == 30


def test_thumbnails_are_small_jpegs() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 256), "red").save(buffer, "JPEG", quality=95)
    (uri,) = thumbnails(Strip("c", [buffer.getvalue()]))
    small = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert (small.format, small.size) == ("JPEG", (280, 112))


@pytest.mark.parametrize("content", [b"", b"<svg onload=alert(1)>", b"\xff\xd8\xff\xe0 no picture"])
def test_frames_that_are_no_jpeg_name_the_clip(content: bytes) -> None:
    with pytest.raises(M2raapError, match=r"clip t000009: .*JPEG"):
        thumbnails(Strip("t000009", [content]))


def test_png_under_another_name_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = ReportData("t", False, dropped=[DroppedItem("c", "align", "black", [], Strip("c", [buffer.getvalue()]))])
    with pytest.raises(M2raapError, match="clip c: .*JPEG"):
        render(data)


def test_a_clip_without_frames_says_so(strip: Callable[..., Strip]) -> None:
    data = ReportData("t", False, examples=[Example("worst", "a", "en", "q", 2, 3, [], Strip("c"))])
    assert "no key-frames" in render(data)
    data = ReportData("t", False, dropped=[DroppedItem("c", "align", "black", ["x"], strip("c", "red", frames=3))])
    assert render(data).count("<img ") == 3


def test_a_funnel_that_does_not_add_up_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        render(ReportData("t", False, funnel=[FunnelStage("filter", "clips", 10, 0, {"black": 1}, 8)]))
