"""The decisions of filter over a whole corpus: copies of texts, shares, users' scores. No video file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2raap.core.config import build
from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.view import Part, View
from m2raap.curate.text_rules import score_rows
from m2raap.stages.filter import FilterConfig, FilterStage

PROBED = {"probe": "ok", "probe_detail": None, "width": 96, "height": 96, "duration_s": 3.0}


def clip(i: int, source: str = "s") -> dict[str, Any]:
    return {
        "clip_id": f"c{i:04d}",
        "video": f"v{i // 2}.mp4",
        "start_s": None,
        "end_s": None,
        "split": "train",
        "source": source,
    }


def text(i: int, words: str, lang: str = "en") -> dict[str, Any]:
    return {
        "text_id": f"c{i:04d}.{lang}", "clip_id": f"c{i:04d}", "lang": lang, "text": words, "origin": "raw", "active": True,
    }  # fmt: skip


def whole(clips: list[dict], texts: list[dict], size: int, signals: dict | None = None) -> list[tuple[Part, dict]]:
    """Parts of `size` clips with their scores, as `score` would have stored them."""
    parts = []
    for start in range(0, len(clips), size):
        part_ids = {row["clip_id"] for row in clips[start : start + size]}
        part_texts = [row for row in texts if row["clip_id"] in part_ids]
        part_signals = {row["clip_id"]: dict(PROBED) for row in clips[start : start + size]}
        for lang in ("en", "zh"):
            rows = [row for row in part_texts if row["lang"] == lang]
            part_signals |= {
                r["text_id"]: s for r, s in zip(rows, score_rows([r["text"] for r in rows], lang), strict=True)
            }
        parts.append((Part(start // size, clips[start : start + size], part_texts, scores=signals or {}), part_signals))
    return parts


def judged(parts: list[tuple[Part, dict]], tree: dict[str, Any]) -> tuple[dict[str, str], list[dict]]:
    """text_id or clip_id -> reason, and the rows of `dropped`."""
    stage = FilterStage(build(FilterConfig, tree, "test"))
    decisions = stage.reduce(parts)
    rows = [row for part, part_signals in parts for row in stage.apply(part, part_signals, decisions)["dropped"]]
    return {row.get("text_id") or row["clip_id"]: row["reason"] for row in rows}, rows


SUBJECTS = ("dog", "cat", "boy", "girl", "chef", "nurse", "farmer", "singer", "monkey", "horse")
PLACES = ("field", "river", "street", "kitchen", "roof", "garden", "bridge", "station", "market", "beach")


def corpus(num: int = 80) -> tuple[list[dict], list[dict]]:
    clips = [clip(i) for i in range(num)]
    sentences = [
        f"a {SUBJECTS[i % 10]} jumps over a {PLACES[i // 10]} with a yellow kite number {chr(97 + i % 26)}"
        for i in range(num)
    ]
    texts = [text(i, words) for i, words in enumerate(sentences)]
    for i in range(30):
        texts[i] = text(i, f"Funny MOMENT {i}!")
    return clips, texts


def test_a_text_on_too_many_clips_goes_whatever_the_parts() -> None:
    clips, texts = corpus()
    rules = {"text": {"rules": {"unspecific": False, "boilerplate": False, "near_duplicate_text": False}}}
    reasons, rows = judged(whole(clips, texts, 7), rules)
    assert reasons == {f"c{i:04d}.en": "duplicate_text" for i in range(30)}
    assert {(row["score"], row["threshold"], row["detail"], row["rule_version"]) for row in rows} == {
        (30.0, 20.0, "copies", "duplicate_text/2")
    }
    assert judged(whole(clips, texts, 80), rules)[0] == reasons


def test_what_says_more_may_stand_on_more_clips() -> None:
    clips = [clip(i) for i in range(60)]
    same = [text(i, "a farmer feeds three goats near a river") for i in range(60)]
    rules = {"text": {"rules": {"near_duplicate_text": False}}}
    assert judged(whole(clips, same, 10), rules)[0] == {}  # 60 clips, six words that say something: 10 a word
    strict = {"text": {"rules": {"near_duplicate_text": False, "duplicate_text": 9}}}
    assert set(judged(whole(clips, same, 10), strict)[0].values()) == {"duplicate_text"}


def test_near_copies_gather_round_their_first() -> None:
    clips, texts = corpus()
    for i in range(30):
        texts[i] = text(
            i, f"my holiday on the sunny islands of the deep south sea with family and friends part {'xyz'[i % 3]}"
        )
    rules = {"text": {"rules": {"near_duplicate_text": 2, "duplicate_text": False}}}
    reasons, rows = judged(whole(clips, texts, 11), rules)
    assert reasons == {f"c{i:04d}.en": "near_duplicate_text" for i in range(30)}
    assert judged(whole(clips, texts, 80), rules)[0] == reasons
    assert all(row["score"] > 2 for row in rows)


def test_frequent_in_its_source() -> None:
    clips = [clip(i, "big" if i < 500 else "small") for i in range(560)]
    words = [f"a {SUBJECTS[i % 10]} {SUBJECTS[i // 10 % 10]} {PLACES[i // 7 % 10]} kite {i}" for i in range(560)]
    texts = [text(i, "summer party" if i % 25 == 0 else words[i]) for i in range(560)]
    rules = {"text": {"rules": {"duplicate_text": False, "near_duplicate_text": False, "frequent_in_source": 0.015}}}
    reasons, rows = judged(whole(clips, texts, 50), rules)
    assert {row["score"] for row in rows} == {0.02}  # 20 of 500 clips, two words; 'small' is too small to judge
    assert reasons == {f"c{i:04d}.en": "frequent_in_source" for i in range(0, 500, 25)}


def test_shares_are_taken_over_the_corpus_by_language() -> None:
    clips = [clip(i) for i in range(20)]
    texts = [text(i, " ".join(["dog cat kite", *"bcdfghjklmnpqrstvwxz"[: i + 1]])) for i in range(20)]
    texts += [
        text(i, "一只黑色的狗在跑" + "一二三四五六七八九十百千万东西南北春夏秋冬"[: i + 1], "zh") for i in range(20)
    ]
    only = {
        name: False
        for name in (
            "repetition",
            "unspecific",
            "machine_tags",
            "wrong_language",
            "hostile_text",
            "near_duplicate_text",
        )
    }
    tree = {"text": {"rules": only | {"text_too_short": {"lowest": 0.1}, "text_too_long": {"highest": 0.2}}}}
    for size in (3, 20):
        reasons, _ = judged(whole(clips, texts, size), tree)
        for lang in ("en", "zh"):
            short = sorted(
                name for name, reason in reasons.items() if reason == "text_too_short" and name.endswith(lang)
            )
            long = sorted(name for name, reason in reasons.items() if reason == "text_too_long" and name.endswith(lang))
            assert short == [f"c{i:04d}.{lang}" for i in range(2)] and long == [
                f"c{i:04d}.{lang}" for i in range(16, 20)
            ]


def scores_file(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def view(tmp_path: Path) -> View:
    clips = [clip(i) | {"licence": None, "category": None, "url": None} for i in range(6)]
    texts = [text(i, f"a {SUBJECTS[i]} runs over the {PLACES[i]}") | {"parent_text_id": None} for i in range(6)]
    (tmp_path / "videos").mkdir()
    write_corpus(tmp_path / "C", clips, texts, video_root=tmp_path / "videos", source={}, num_parts=2)
    return View(tmp_path / "C")


def apply_scores(view: View, tree: dict[str, Any], *paths: Path) -> tuple[dict[str, str], list[dict], list[dict]]:
    stage = FilterStage(build(FilterConfig, tree, "test"))
    view = stage.prepared(view, paths)
    parts = []
    for part in view.parts(("texts", "signals")):
        part_signals = {row["clip_id"]: dict(PROBED) for row in part.clips}
        part_signals |= {
            t["text_id"]: s for t, s in zip(part.texts, score_rows([t["text"] for t in part.texts], "en"), strict=True)
        }
        parts.append((part, part_signals))
    decisions = stage.reduce(parts)
    part_tables = [stage.apply(part, part_signals, decisions) for part, part_signals in parts]
    rows = [row for tables in part_tables for row in tables["dropped"]]
    verdicts = [row for tables in part_tables for row in tables["verdicts"]]
    assert stage.more_verdict_columns(view) == {f"user_{name}": "float" for name in view.score_columns}
    return {row.get("text_id") or row["clip_id"]: row["reason"] for row in rows}, rows, verdicts


def test_users_scores_are_thresholded_and_stay_in_the_ledger(view: View, tmp_path: Path) -> None:
    ids = [f"c{i:04d}" for i in range(6)]
    nsfw = scores_file(
        tmp_path / "nsfw.parquet", clip_id=ids[:5], nsfw=[0.1, 0.9, None, 0.2, 0.51], other=[1, 2, 3, 4, 5]
    )
    pii = scores_file(tmp_path / "pii.parquet", text_id=[f"{ids[3]}.en"], pii=[True])
    mark = scores_file(tmp_path / "mark.parquet", video=["v0.mp4", "v2.mp4"], watermark=[0.0, 1.0])
    tree = {"scores": {"nsfw": {"max": 0.5}, "pii": {"max": 0}, "watermark": {"max": 0.5}}}
    reasons, rows, verdicts = apply_scores(view, tree, nsfw, pii, mark)
    # c0002 has no score and is not judged; v2.mp4 holds c0004 and c0005.
    assert reasons == {"c0001": "user_score", "c0003.en": "user_score", "c0004": "user_score", "c0005": "user_score"}
    first = {row.get("text_id") or row["clip_id"]: row for row in rows}
    assert (first["c0001"]["detail"], first["c0001"]["score"], first["c0001"]["threshold"]) == ("nsfw", 0.9, 0.5)
    assert first["c0004"]["also_failed"] == ["user_score"]
    kept = {row.get("text_id") or row["clip_id"]: row for row in verdicts}
    assert (
        kept["c0000"]["user_nsfw"] == 0.1 and kept["c0000"]["user_other"] == 1.0 and kept["c0002"]["user_nsfw"] is None
    )
    shares, _, _ = apply_scores(view, {"scores": {"other": {"lowest": 0.2}, "nsfw": {"highest": 0.25}}}, nsfw)
    assert shares == {"c0000": "user_score", "c0001": "user_score"}


def test_other_scores_are_another_view(view: View, tmp_path: Path) -> None:
    one = view.with_scores((scores_file(tmp_path / "a.parquet", clip_id=["c0000"], x=[0.1]),))
    two = view.with_scores((scores_file(tmp_path / "b.parquet", clip_id=["c0000"], x=[0.2]),))
    assert len({view.digest, one.digest, two.digest}) == 3


@pytest.mark.parametrize(
    ("columns", "tree", "message"),
    [
        ({"clip_id": ["c0000", "zz"], "nsfw": [0.1, 0.2]}, {}, "1 of its 2 rows .*clip_id.*'zz'"),
        ({"text_id": ["c0000"], "nsfw": [0.1]}, {}, "1 of its 1 rows .*text_id.*'c0000'"),
        (
            {"clip_id": ["c0000"], "nsfw": [0.1]},
            {"scores": {"nfsw": {"max": 1}}},
            "filter.scores.nfsw: .*; they have nsfw",
        ),
        ({"clip_id": ["c0000", "c0000"], "nsfw": [0.1, 0.2]}, {}, "rows 0 and 1 .*clip_id"),
        ({"clip_id": ["c0000"], "nsfw": [float("nan")]}, {}, "row 0: nsfw is nan"),
        ({"clip_id": ["c0000"], "nsfw": ["high"]}, {}, "'nsfw' holds string"),
        ({"clip_id": [7], "nsfw": [0.5]}, {}, "row 0: clip_id is 7, expected a text"),
        ({"clip_id": ["c0000"], "video": ["v0.mp4"], "nsfw": [0.5]}, {}, "it has clip_id and video"),
        ({"id": ["c0000"], "nsfw": [0.5]}, {}, "none of them, only id, nsfw"),
        ({"clip_id": ["c0000"]}, {}, "no column of scores"),
    ],
)
def test_scores_that_do_not_fit_are_said(view: View, tmp_path: Path, columns: dict, tree: dict, message: str) -> None:
    with pytest.raises(M2raapError, match=message):
        apply_scores(view, tree, scores_file(tmp_path / "s.parquet", **columns))


def test_limits_without_scores_and_files_that_are_none(view: View, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none was given\); give --scores"):
        apply_scores(view, {"scores": {"nsfw": {"max": 0.5}}})
    with pytest.raises(M2raapError, match="no such file"):
        apply_scores(view, {}, tmp_path / "none.parquet")
    (tmp_path / "page.parquet").write_text("<html>")
    with pytest.raises(M2raapError, match="cannot be read as parquet"):
        apply_scores(view, {}, tmp_path / "page.parquet")
    twice = scores_file(tmp_path / "a.parquet", clip_id=["c0000"], x=[0.1])
    with pytest.raises(M2raapError, match="a.parquet: the column 'x'"):
        apply_scores(view, {}, twice, twice)
    for tree, message in (({}, "scores.x: .*min, max"), ({"min": 1, "max": 0}, "is above max")):
        with pytest.raises(UsageError, match=message):
            build(FilterConfig, {"scores": {"x": tree}}, "r.yaml")
