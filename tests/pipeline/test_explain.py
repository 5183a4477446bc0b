"""A clip's whole story, kept or dropped, and what was nearly dropped."""

import os
import shutil
from pathlib import Path

import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.files import read_json, write_json
from m2raap.core.tables import Row, row_key
from m2raap.export.corpus import curated_steps, curated_view
from m2raap.pipeline.explain import explain, tell
from m2raap.pipeline.inspect import status
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.examples import NEAR, nearly_dropped
from m2raap.stages.rules import Judged, StageRules
from tests.conftest import m2raap, sign_again
from tests.runs import copied
from tests.stages.embedded import write_run


@pytest.fixture(scope="module")
def dropped(curated: Path) -> list[Row]:
    view = curated_view(curated)
    return [row for index in range(view.num_parts) for row in view.dropped(index)]


def test_every_drop_names_score_threshold_and_rule(dropped: list[Row]):
    assert dropped
    for row in dropped:
        assert row["rule_version"] and row["stage"]
        if row["threshold"] is not None:
            assert row["score"] is not None and row["detail"]
            assert row["rule_version"].startswith(row["reason"] + "/")


def test_the_rules_agree_with_the_verdicts(curated: Path, dropped: list[Row]):
    """What `explain` calls failed is what the stage dropped: no rule is told otherwise than it judged."""
    checked = 0
    for row in dropped:
        if row["threshold"] is None:
            continue
        story = explain(curated, row["clip_id"])
        chapter = next(c for c in story["stages"] if c["stage"].endswith(row["stage"]))
        failed = [r for r in chapter["rules"] if r["failed"] and r.get("text_id") == row["text_id"]]
        assert (failed[0]["rule"], failed[0]["score"], failed[0]["threshold"]) == (
            row["reason"], row["score"], row["threshold"],
        )  # fmt: skip
        assert [r["rule"] for r in failed[1:]] == row["also_failed"]
        checked += 1
    assert checked >= 3
    view = curated_view(curated)
    for part in view.parts():
        for clip in part.clips[:4]:
            story = explain(curated, clip["clip_id"])
            kept = {row["text_id"] for row in part.texts_of[clip["clip_id"]]}
            rules = [r for c in story["stages"] for r in c["rules"] if r.get("text_id") in {None, *kept}]
            assert rules and not any(rule["failed"] for rule in rules)


def test_a_kept_clip_is_justified(curated: Path):
    view = curated_view(curated)
    part = next(p for p in view.parts() if any(row["origin"] == "rewrite" for row in p.texts))
    rewritten = next(row for row in part.texts if row["origin"] == "rewrite")
    story = explain(curated, rewritten["clip_id"])
    assert story["fate"]["kept"] and story["fate"]["licence"] == "CC0-1.0"
    text = next(t for t in story["fate"]["texts"] if t["text_id"] == rewritten["text_id"])
    assert text["made_from"] != text["text"] and text["producer"] and text["rewrite_outcome"] == "ok"
    told = "\n".join(tell(story))
    assert f"from '{text['made_from']}'" in told and "licence CC0-1.0" in told
    assert (
        "clip passed clip_too_short/1 (duration_s" in told
        and "too_few_frames/1 (num_frames 4, refused below 2)" in told
    )


def test_a_dropped_clip_says_by_whom(curated: Path, dropped: list[Row]):
    row = next(row for row in dropped if not row["text_id"])
    story = explain(curated, row["clip_id"])
    assert story["fate"] == {"kept": False, "reason": row["reason"], "stage": row["stage"]}
    told = "\n".join(tell(story))
    assert f"dropped by {row['stage']}: {row['reason']}" in told and f"rule {row['rule_version']}" in told


def test_a_stage_whose_folder_is_lost_is_named(curated: Path, dropped: list[Row], tmp_path: Path):
    """Without it, a clip that it had dropped would simply be kept."""
    run = tmp_path / "run"
    shutil.copytree(curated, run)
    tree = read_json(run / "run.json")
    write_json(run / "run.json", tree | {"data": os.path.relpath(RunFolder.open(curated).inputs.data, run)})
    row = next(row for row in dropped if not row["text_id"] and row["stage"] == "filter")
    assert explain(run, row["clip_id"])["unfinished"] == []
    shutil.rmtree(run / "filter")
    story = explain(run, row["clip_id"])
    assert [name.rpartition("/")[2] for name in story["unfinished"]] == ["filter"]
    assert any(line.endswith(f"without it: {story['unfinished'][0]}") for line in tell(story))


def test_stages_of_other_content_are_named(curated: Path, small_world: Path, dropped: list[Row], tmp_path: Path):
    """Such as a folder of another run that was copied over the run's own."""
    run, _ = copied(curated, small_world, tmp_path)
    assert explain(run, dropped[0]["clip_id"])["stale"] == []
    sign_again(run / "filter", version=99)
    story = explain(run, dropped[0]["clip_id"])
    assert [name.rpartition("/")[2] for name in story["stale"]] == ["keyframes", "rewrite"]
    assert any("stale" in line and story["stale"][0] in line for line in tell(story))


def test_nearly_dropped_is_kept_and_close(curated: Path, dropped: list[Row]):
    run = RunFolder.open(curated)
    items = nearly_dropped(run, curated_steps(run))
    gone = {row_key(row) for row in dropped}
    assert items and not {item.item_id for item in items} & gone
    for item in items:
        assert item.score is not None and item.threshold is not None
        assert abs(item.score - item.threshold) <= NEAR * (abs(item.threshold) or 1)
    assert any(item.strip for item in items)
    groups: dict[tuple[str, str], list[float]] = {}
    for item in items:
        groups.setdefault((item.stage, item.reason), []).append(abs(item.score - item.threshold))
    assert all(len(gaps) <= 3 for gaps in groups.values())


def test_nobody_kept_was_nearer(curated: Path):
    """Brute force over all that is kept after filter."""
    run = RunFolder.open(curated)
    step = curated_steps(run)[0]
    rules = StageRules(step.folder)
    view = curated_view(step.folder)
    margins: dict[str, list[float]] = {}
    for part in view.parts(("texts", "signals")):
        for text in part.texts:
            for judged in rules.judged(text, part.signals[text["text_id"]]):
                margins.setdefault(judged.rule, []).append(judged.margin)
    shown = [item for item in nearly_dropped(run, [step]) if item.reason in margins]
    for reason in {item.reason for item in shown}:
        found = [abs(i.score - i.threshold) / (abs(i.threshold) or 1) for i in shown if i.reason == reason]
        assert found == pytest.approx(sorted(m for m in margins[reason] if m < NEAR)[:3])


@pytest.mark.parametrize(
    ("side", "score", "threshold", "margin", "failed"),
    [
        ("above", 0.4, 0.5, 0.2, False),
        ("below", 4, 3, 1 / 3, False),
        ("above", 0.6, 0.5, -0.2, True),
        ("below", 1, 0, 1, False),
    ],
)
def test_margin_counts_in_units_of_the_threshold(side, score: float, threshold: float, margin: float, failed: bool):
    judged = Judged("r", 1, "x", score, threshold, side)
    assert judged.margin == pytest.approx(margin) and judged.failed == failed


def test_status_has_a_row_for_the_report_where_there_is_one(tmp_path: Path):
    run = RunFolder.open(write_run(tmp_path, {"a": {}, "b": {}}))
    assert "report" not in [row["stage"] for row in status(run)]
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").touch()
    row = status(run)[-1]
    assert (row["stage"], row["state"], row["folder"]) == ("report", "done", str(tmp_path / "report"))
    assert row["arms"] == ["a", "b"]


def test_a_clip_of_a_benchmark_without_frames_counts_as_not_retrieved(tmp_path: Path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    clips = [{"clip_id": "b", "video": "broken.mp4", "split": "test"}]
    texts = [{"text_id": "b.0", "clip_id": "b", "lang": "en", "text": "a cat", "origin": "raw", "active": True}]
    write_corpus(tmp_path / "B", clips, texts, video_root=tmp_path / "videos", source={}, benchmark="custom")
    m2raap("keyframes", tmp_path / "B", "--out", tmp_path / "K", "--workers", 1, check=3)
    lines = m2raap("explain", "b", "--in", tmp_path / "K").stdout.splitlines()
    assert any(
        line.startswith("kept without frames (not_media), as no clip of a benchmark is dropped") for line in lines
    )
