from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.msrvtt import import_msrvtt
from m2raap.core.corpus import write_corpus
from m2raap.core.tables import part_of, write_part
from m2raap.core.view import View, open_view
from m2raap.curate import columns
from m2raap.report.lint import lint
from tests.conftest import m2raap, sign_again


def corpus(folder: Path, captions: dict[str, list[str]], lang: str = "en", prefix: str = "") -> View:
    """Clips by name, each with its captions."""
    row = {"start_s": None, "end_s": None, "split": "test"}
    clips = [row | {"clip_id": prefix + name, "video": f"{name}.mp4"} for name in captions]
    text = {"lang": lang, "origin": "raw", "active": True}
    texts = [
        text | {"text_id": f"{prefix}{name}.{i}", "clip_id": prefix + name, "text": caption}
        for name, found in captions.items()
        for i, caption in enumerate(found)
    ]
    write_corpus(folder, clips, texts, video_root=folder, source={}, num_parts=2)
    return open_view(folder)


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {row["what"]: row["count"] for row in found["findings"]}


LONG = "a red kite rises slowly above the green hills behind the old stone harbour wall"


def test_findings_do_not_depend_on_how_many_texts_are_read_at_once(tmp_path: Path, monkeypatch) -> None:
    captions = ["two dogs run over a frozen lake", LONG, LONG.replace("wall", "gate"), "IMG_0001.mov", "a funny moment"]
    view = corpus(tmp_path / "c", {f"{i:02d}": [caption] for i, caption in enumerate(captions * 3)})
    findings = lint(view, against=view)
    monkeypatch.setattr(columns, "BLOCK", 2)
    assert lint(view, against=view) == findings and len(findings["findings"]) > 4


def test_copies_and_generic_captions(tmp_path: Path) -> None:
    found = lint(
        corpus(
            tmp_path / "c",
            {
                "a": ["A man slices bread on a board.", "a man slices bread on a board"],
                "b": ["a man slices bread on a board", "this is a video of something"],
                "c": [LONG],
                "d": [LONG.replace("wall", "gate")],
                "e": ["two dogs run over a frozen lake"],
            },
        )
    )
    assert counts(found) == {"duplicate_texts": 3, "repeated_on_clip": 1, "near_duplicate_texts": 1, "generic_texts": 1}
    by_name = {row["what"]: row for row in found["findings"]}
    assert by_name["duplicate_texts"]["examples"][0]["clips"] == 2 and by_name["duplicate_texts"]["of"] == 7
    assert {by_name["near_duplicate_texts"]["examples"][0][key] for key in ("text", "like")} == {
        LONG,
        LONG.replace("wall", "gate"),
    }


def test_faults_of_chinese_texts(tmp_path: Path) -> None:
    good = "一个男人在厨房里切黄瓜"
    texts = {
        "a": [good],
        "b": ["一个man在kitchen里切cucumber"],
        "c": ["猫#n 跑#v 草地#n"],
        "d": ["两個孩子在教室里说話"],
        "e": ["两只狗在雪地里追逐"],
        "f": ["看DVD的孩子坐在沙发上"],
        "g": ["一片被树木环绕的湖，天空蔚蓝，飘着白云。"],
        "h": ["阳光明媚，两个孩子在草地上奔跑，笑声不断"],
    }
    found = lint(corpus(tmp_path / "c", texts, "zh"))
    named = {row["what"]: {example["clip_id"] for example in row["examples"]} for row in found["findings"]}
    assert named["zh_tags"] == {"c"}
    assert named["zh_residue"] == {"b", "c"}
    assert "a" not in set().union(*named.values()) and "f" not in named["zh_residue"]
    assert named["zh_mixed_script"] == {"d"}


def test_english_texts_that_are_partly_chinese(tmp_path: Path) -> None:
    texts = {
        "a": ["a man cuts a cucumber in the kitchen"],
        "b": ["a man cuts a cucumber 在厨房里切成薄片 on a wooden board"],
        "c": ["a man cuts a cucumber，然后把它们放进碗里搅拌均匀，加入盐和醋"],
        "d": ["the title 你好 is shown at the end of the video"],
    }
    found = lint(corpus(tmp_path / "c", texts))
    named = {row["what"]: {example["clip_id"] for example in row["examples"]} for row in found["findings"]}
    assert named["en_residue"] == {"b", "c"} and named["wrong_language"] == {"c"}


def test_leaks(tmp_path: Path) -> None:
    train = corpus(
        tmp_path / "t",
        {"x": ["two dogs run over a frozen lake"], "y": [LONG], "z": ["a cat sleeps on a piano"]},
        prefix="t",
    )
    test = corpus(
        tmp_path / "c",
        {
            "x": ["Two dogs run over a frozen lake!"],
            "b": [LONG.replace("wall", "gate")],
            "c": ["a cat sleeps on a piano"],
            "d": ["rain falls"],
        },
    )
    found = lint(test, train)
    assert counts(found) == {
        "leaked_texts_verbatim": 1,
        "leaked_texts": 2,
        "leaked_texts_nearly": 1,
        "leaked_video_files": 1,
    }
    assert found["findings"][-1]["examples"] == ["x"]
    assert lint(test)["against"] is None and counts(lint(test)) == {}


def write_frames(view: View, seeds: dict[str, int]) -> View:
    """A keyframes folder over a corpus: four pictures a clip, the same ones for the same seed."""
    import cv2

    folder = view.corpus_path.parent / f"{view.corpus_path.name}-frames"
    rows: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for clip_id, seed in seeds.items():
        coarse = np.random.default_rng([seed]).integers(0, 256, (4, 6, 6, 3), np.uint8)
        pictures = [cv2.resize(one, (96, 96), interpolation=cv2.INTER_CUBIC) for one in coarse]
        jpegs = [cv2.imencode(".jpg", one, [cv2.IMWRITE_JPEG_QUALITY, 80 + seed % 7])[1].tobytes() for one in pictures]
        row = {
            "clip_id": clip_id,
            "times_s": [0.0, 1.0, 2.0, 3.0],
            "shots": [0] * 4,
            "scores": [1.0] * 4,
            "why": ["x"] * 4,
        }
        rows[part_of(clip_id, 2)].append(row | {"hashes": [0] * 4, "jpegs": jpegs, "width": 96, "height": 96})
    for part, found in rows.items():
        write_part(folder, "frames", part, found)
    files = {f"frames/{part:05d}": "" for part in rows}
    manifest = {"kind": "stage", "stage": "keyframes", "version": 1, "settings": {}, "inputs": {}, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    sign_again(folder, counts={}, models={})
    return view.over(folder)


def test_videos_that_look_the_same(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    captions = {name: [f"caption number {name} of many things"] for name in names}
    test = write_frames(corpus(tmp_path / "c", captions), {"a": 1, "b": 2, "c": 1, "d": 4})
    train = write_frames(corpus(tmp_path / "t", captions, prefix="t"), {"ta": 9, "tb": 4, "tc": 8, "td": 7})
    found = lint(test, train)
    by_name = {row["what"]: row["examples"] for row in found["findings"]}
    assert [set(pair) for pair in by_name["near_duplicate_videos"]] == [{"a", "c"}]
    assert by_name["leaked_videos"] == [["d", "tb"]]
    assert found["clips_with_frames"] == found["against_clips_with_frames"] == 4 and found["not_looked_at"] == []
    bare = open_view(train.corpus_path)
    (said,) = lint(test, bare)["not_looked_at"]
    assert (
        said == f"pictures were not compared: {bare.corpus_path} has no frames; give its keyframes folder to --against"
    )
    assert [text.partition(":")[0] for text in lint(bare, test)["not_looked_at"]] == ["pictures were not compared"]
    chinese = corpus(tmp_path / "zh", {"z": ["一只猫睡在钢琴上"]}, "zh")
    assert "en texts were not compared: " in lint(test, chinese)["not_looked_at"][0]


def test_real_lists(shared_data: Path, tmp_path: Path) -> None:
    views = []
    for protocol in ("1ka", "full"):
        import_msrvtt(shared_data / "msrvtt", tmp_path / protocol, protocol=protocol)
        views.append(open_view(tmp_path / protocol))
    found = counts(lint(*views))
    # Verbatim: 965 of them are among the 20 captions of their own video, 3 more among those of another one.
    expected = {"leaked_texts_verbatim": 968, "leaked_texts": 1000, "leaked_video_files": 1000, "duplicate_texts": 9}
    assert expected.items() <= found.items()
    full: dict[str, set[str]] = {}
    for part in views[1].parts():
        for row in part.texts:
            full.setdefault(row["clip_id"], set()).add(row["text"])
    assert sum(row["text"] in full[row["clip_id"]] for part in views[0].parts() for row in part.texts) == 965


@pytest.mark.parametrize("clean", [{"a": ["two dogs run over a frozen lake"], "b": ["a cat sleeps on a piano"]}])
def test_a_clean_corpus_has_no_findings(tmp_path: Path, clean: dict[str, list[str]]) -> None:
    view = corpus(tmp_path / "c", clean)
    assert lint(view)["findings"] == []
    printed = m2raap("report", "lint", view.corpus_path).stdout
    assert "nothing found" in printed and "pictures were not compared: " in printed
