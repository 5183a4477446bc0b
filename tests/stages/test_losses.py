"""A stage that loses everything, or the videos of too many clips, is no success; and what clips without texts become."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.files import read_json
from m2raap.core.tables import read_all
from m2raap.core.view import open_view
from m2raap.stages.align import AlignConfig, _mismatch_thresholds
from tests.conftest import m2raap
from tests.curate.scripted import payload, serving
from tests.stages.pictures import drawn_corpus, with_frames

RECIPE = "name: r\nlangs: [en]\nstages: [{}]\n"


@pytest.fixture
def video(small_world: Path) -> Path:
    """A sound clip of the world, which is the file of every clip of these corpora."""
    sound = {row["clip_id"] for row in read_all(small_world / "test", "clips")}
    return next(path for path in sorted((small_world / "videos").rglob("*.mp4")) if path.stem in sound)


def footage(path: Path, video: Path, num: int, num_texts: int = 0) -> Path:
    """A corpus of `num` clips of the same video, the first of which have a text."""
    (path / "videos").mkdir(parents=True)
    shutil.copy(video, path / "videos" / "v.mp4")
    clips = [{"clip_id": f"c{i:02d}", "video": "v.mp4", "split": "train"} for i in range(num)]
    texts = [
        {
            "text_id": f"c{i:02d}.0",
            "clip_id": f"c{i:02d}",
            "lang": "en",
            "text": f"A red circle number {i} moves",
            "origin": "raw",
        }
        | {"active": True}
        for i in range(num_texts)
    ]
    write_corpus(path / "C", clips, texts, video_root=path / "videos", source={}, num_parts=2)
    return path / "C"


def recipe(tmp_path: Path, stages: str) -> Path:
    path = tmp_path / f"{len(stages)}.yaml"
    path.write_text(RECIPE.format(stages), encoding="utf-8")
    return path


def test_29_clips_without_texts_are_no_success_where_no_caption_follows(tmp_path: Path, video: Path):
    corpus = footage(tmp_path, video, 29)
    run = (
        "run",
        recipe(tmp_path, "filter, keyframes"),
        "--data",
        corpus,
        "--out",
        tmp_path / "R",
        "--until",
        "keyframes",
    )
    for _ in range(2):
        told = m2raap(*run, check=3).stderr
        assert "no clip of 29 is left (no_text_left 29)" in told and not (tmp_path / "R" / "keyframes").exists()
    assert "29 -> 0 clips" in m2raap("status", tmp_path / "R").stdout
    alone = ("filter", corpus, "--out", tmp_path / "f", "--recipe", recipe(tmp_path, "filter"))
    assert "no_text_left 29" in m2raap(*alone, check=3).stderr
    kept = m2raap(*alone, "--force", "--set", "filter.keep_without_text=true").stdout
    assert "clips_out" in kept and "29" in kept


@pytest.mark.parametrize(
    ("stages", "more", "kept"),
    [
        ("filter, keyframes, caption, rewrite", {}, 4),
        ("filter, keyframes, caption", {}, 4),
        ("filter, keyframes, caption, rewrite", {"rewrite.fill_missing": "false"}, 1),
        ("filter, keyframes, caption, rewrite", {"rewrite.name": "none"}, 1),
        ("filter, keyframes, caption", {"filter.keep_without_text": "false"}, 1),
        ("filter, keyframes", {}, 1),
    ],
)
def test_clips_without_texts_pass_filter_where_captions_become_texts(
    tmp_path: Path, video: Path, stages: str, more: dict[str, str], kept: int
):
    corpus = footage(tmp_path, video, 4, num_texts=1)
    sets = [word for key, value in more.items() for word in ("--set", f"{key}={value}")]
    m2raap("run", recipe(tmp_path, stages), "--data", corpus, "--out", tmp_path / "R", "--until", "filter", *sets)
    assert read_json(tmp_path / "R" / "filter" / "manifest.json")["counts"]["clips_out"] == kept


def test_missing_videos_stop_a_run_also_under_until_and_a_stage_alone(tmp_path: Path, video: Path):
    corpus = footage(tmp_path, video, 10, num_texts=10)
    file = tmp_path / "videos" / "v.mp4"
    away = file.rename(tmp_path / "away.mp4")
    run = ("run", recipe(tmp_path, "filter, keyframes"), "--data", corpus, "--out", tmp_path / "R", "--until", "filter")
    told = m2raap(*run, check=3).stderr
    assert "no clip of 10 is left (missing_file 10)" in told and str(tmp_path / "videos") in told
    alone = ("filter", corpus, "--out", tmp_path / "f")
    assert "missing_file 10" in m2raap(*alone, "--allow-refused", "100%", check=3).stderr
    away.rename(file)
    assert "--force tries again" in m2raap(*run, check=3).stderr
    m2raap(*run, "--force")
    assert "10 -> 10 clips" in m2raap("status", tmp_path / "R").stdout


def test_a_few_missing_videos_are_weighed_against_allow_refused(tmp_path: Path, video: Path):
    footage(tmp_path, video, 10, num_texts=10)
    clips = [{"clip_id": f"d{i}", "video": "v.mp4" if i else "gone.mp4", "split": "train"} for i in range(10)]
    texts = [
        {"text_id": f"d{i}.0", "clip_id": f"d{i}", "lang": "en", "text": f"A red star number {i} falls"}
        for i in range(10)
    ]
    rows = [text | {"origin": "raw", "active": True} for text in texts]
    write_corpus(tmp_path / "D", clips, rows, video_root=tmp_path / "videos", source={}, num_parts=1)
    alone = ("filter", tmp_path / "D", "--out", tmp_path / "f")
    told = m2raap(*alone, check=3).stderr
    assert "1 of 10 clips (10.0%)" in told and "missing_file" in told and "5.0%" in told
    m2raap(*alone, "--allow-refused", "10%")


def test_that_most_clips_were_dropped_is_told(tmp_path: Path, video: Path):
    words = ("filter", footage(tmp_path, video, 5, num_texts=2), "--out", tmp_path / "f", "--workers", 1)
    told = m2raap(*words, "--set", "filter.keep_without_text=false").stderr
    assert "/f: 3 of 5 clips were dropped (no_text_left 3); 'm2raap explain CLIP --in " in told


def captioned(tmp_path: Path, colours: dict[str, str]) -> Path:
    frames = with_frames(drawn_corpus(tmp_path / "C", {clip: [] for clip in colours}), tmp_path / "k", colours)
    m2raap("caption", frames, "--out", tmp_path / "c", "--set", "caption.frames=2", "--set", "langs=[en]")
    return tmp_path / "c"


def test_a_caption_of_frames_becomes_a_text_only_above_a_floor_and_on_few_clips(tmp_path: Path):
    captions = captioned(tmp_path, {"a": "red", "b": "red", "c": "red", "d": "blue", "e": "green"})
    rewrite = ("rewrite", captions, "--set", "langs=[en]", "--out")
    m2raap(*rewrite, tmp_path / "r")
    dropped = {row["text_id"] or row["clip_id"]: row for row in read_all(tmp_path / "r", "dropped")}
    assert {key: row["reason"] for key, row in dropped.items()} == {
        **dict.fromkeys(("a.en.rw0", "b.en.rw0", "c.en.rw0"), "caption_copies"),
        **dict.fromkeys("abc", "no_text_left"),
    }
    assert (dropped["a.en.rw0"]["score"], dropped["a.en.rw0"]["threshold"]) == (0.6, 0.1)
    left = {
        row["clip_id"]: row["text"]
        for part in open_view(tmp_path / "r").parts()
        for row in part.texts
        if row["origin"] != "aux"
    }
    assert left == {"d": "a blue circle", "e": "a green circle"}

    told = m2raap(*rewrite, tmp_path / "s", "--set", "rewrite.captions={floor: 0.99, copies: 1}", check=3).stderr
    assert "no clip of 5 is left (no_text_left 5)" in told
    assert {row["reason"] for row in read_all(tmp_path / "s", "dropped") if row["text_id"]} == {"caption_unlike"}
    m2raap(*rewrite, tmp_path / "t", "--set", "rewrite.captions={floor: -1, copies: null}")
    assert not list(read_all(tmp_path / "t", "dropped"))


def test_footage_ends_in_captions(tmp_path: Path, video: Path):
    """The recipe with servers in place of its models: frames are described, and captions are made of the descriptions."""
    corpus = footage(tmp_path, video, 3)

    def answer(body: dict[str, Any], before: int) -> Any:
        captions = payload(body).get("frame_captions")
        return {"en": "A circle moves right." if captions is None else "A circle is moving right."}

    with serving(answer) as server:
        endpoint = f"{{name: endpoint, endpoint: {{base_url: '{server.url}', model: m}}"
        sets = (
            "stages=[filter,keyframes,caption,rewrite]", "backbone={model: 'builtin:tiny'}", "keyframes.k=2",
            f"caption={endpoint}, frames: 1}}", f"rewrite={endpoint}}}",
        )  # fmt: skip
        words = [word for item in sets for word in ("--set", item)]
        run = ("run", "footage", "--data", corpus, "--out", tmp_path / "R", "--until", "rewrite", *words)
        told = m2raap(*run, "--set", "rewrite.endpoint.budget.max_requests=0", check=3).stderr
        assert "3 questions are open" in told
        told = m2raap(*run).stderr
    assert "3 texts accepted" in told
    texts = [
        row for part in open_view(tmp_path / "R" / "rewrite").parts() for row in part.texts if row["origin"] != "aux"
    ]
    assert [row["text"] for row in texts] == ["A circle is moving right."] * 3


@pytest.mark.parametrize(
    ("signal", "num", "is_refusing"),
    [
        ("sim_percentile", 15, False),
        ("sim_percentile", 16, True),
        ("sim_z", 2, False),
        ("sim_robust", 2, True),
    ],
)
def test_too_few_texts_tell_no_mismatch(capsys, signal: str, num: int, is_refusing: bool):
    """With 15 others, one that fits better by chance would already refuse a text: newcomers lost 10 of 12 good ones so."""
    cfg = AlignConfig.model_validate({"mismatch": {"signal": signal, "limit": 0.93}})
    decisions = {"sample": {"langs": {"en": {"keys": list(map(str, range(num)))}}}}
    thresholds = _mismatch_thresholds([], decisions, cfg)
    assert ("en" in thresholds) == is_refusing and (
        f"{num} different texts in en" in capsys.readouterr().err
    ) != is_refusing


def test_the_tiny_model_is_named_on_what_is_not_the_synthetic_world(tmp_path: Path, small_world: Path):
    frames = with_frames(drawn_corpus(tmp_path / "C", {"a": [("en", "a cat")]}), tmp_path / "k", {"a": "red"})
    assert "warning: builtin:tiny" in m2raap("caption", frames, "--out", tmp_path / "c").stderr
    assert "warning: builtin:tiny" in m2raap("rewrite", tmp_path / "c", "--out", tmp_path / "r").stderr
    world = ("keyframes", small_world / "train", "--out", tmp_path / "w", "--limit", 3, "--set", "keyframes.k=2")
    m2raap(*world)
    assert "builtin:tiny" not in m2raap("caption", tmp_path / "w", "--out", tmp_path / "wc").stderr
