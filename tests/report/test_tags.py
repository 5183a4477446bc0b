"""The section on tags: figures of the tagger, counts of the tags, and what must not be believed."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from m2raap.annotate.config import AnnotateConfig
from m2raap.core.corpus import write_corpus
from m2raap.core.view import View
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.console_tags import print_taggers
from m2raap.report.data import ReportData, ResultRow, to_json
from m2raap.report.html import render
from m2raap.report.tag_table import TagRow, TagTable
from m2raap.report.tags import MOST_TAGS, OF_DRAWINGS, by_tag_rows, tag_tables
from m2raap.retrieval.tag_slices import add_tags, tag_rows
from tests.report.conftest import results_of
from tests.stages.embedded import write_map, write_run
from tests.stages.tagged import METRICS, tagged, write_tagger

EVIL = "=<script>alert(1)</script>"
NAMES = ["red / 红色", EVIL, "rare"]


def corpus(folder: Path, importer: str = "table") -> View:
    names = [f"v{i:02d}" for i in range(10)]
    clips = [{"clip_id": name, "video": f"{name}.mp4", "split": "train"} for name in names]
    texts = [
        {"text_id": f"{name}.{i}", "clip_id": name, "lang": "en", "text": name, "origin": "raw", "active": True}
        for name in names
        for i in range(2)
    ]
    write_corpus(folder, clips, texts, video_root=folder, source={"importer": importer}, benchmark=None, num_parts=2)
    return View(folder)


def tags() -> dict[str, dict[str, float]]:
    return {f"v{i:02d}": {NAMES[0]: 0.9} | ({EVIL: 0.5 if i < 2 else 0.49} if i < 5 else {}) for i in range(6)}


def run_of(out: Path, view: View, folder: Path, arms: tuple[str, ...] = ("a", "b")) -> RunFolder:
    head = {"owner": "a", "stage": "annotate", "bench": None, "folder": str(folder.relative_to(out)), "parents": []}
    write_map(out, [head | {"arm": arm, "model": None} for arm in arms])
    tree = json.loads((out / "run.json").read_text())
    tree |= {"data": str(Path("..") / view.corpus_path.name), "digests": {"": view.corpus.digest}}
    (out / "run.json").write_text(json.dumps(tree))
    return RunFolder.open(out)


@pytest.fixture
def reads_imported_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2raap.stages.annotate_inputs.vector_folder", lambda view: view.corpus_path)


@pytest.fixture
def reads_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2raap.stages.annotate_inputs.vector_folder", lambda view: Path("align"))


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate({"name": "r", "arms": {"a": {}, "b": {}}} | changes)


@pytest.mark.usefixtures("reads_frames")
def test_figures_and_counts(tmp_path: Path) -> None:
    view = corpus(tmp_path / "C", "world")
    named = {f"v{i:02d}.{j}": ([NAMES[0]], 1.0) for i in range(7) for j in range(2)} | {"v09.0": (["rare"], 0.1)}
    folder = tagged(view, tmp_path / "run" / "annotate", tags(), named, NAMES)
    run = run_of(tmp_path / "run", view, folder)
    (table,) = tag_tables(run, recipe(), run.steps)
    assert (table.arms, table.clips, table.clips_with_tags, table.warning) == (["a", "b"], 10, 6, "")
    assert table.rows == [
        TagRow(NAMES[0], 6, 7, 0.8, 0.7, 0.9, 18),
        TagRow(EVIL, 2, 0, None, None, None, 0),
        TagRow("rare", 0, 1, None, None, None, 0),
    ]
    figures = table.figures
    assert figures and (figures.labels, figures.fitted_on, figures.gap, figures.gap_95) == (
        3,
        40,
        0.51234,
        [0.45, 0.55],
    )
    assert figures.mean_ap_labels == 2 and figures.calibration_error == METRICS["calibration_error"]
    assert "the member that has not seen it" in table.notes[0]


@pytest.mark.usefixtures("reads_frames")
def test_drawings_are_no_judges_of_other_footage(tmp_path: Path) -> None:
    view = corpus(tmp_path / "C")
    folder = tagged(view, tmp_path / "run" / "annotate", tags())
    run = run_of(tmp_path / "run", view, folder)
    (table,) = tag_tables(run, recipe(), run.steps)
    assert table.warning == OF_DRAWINGS
    page = render(ReportData(title="t", synthetic=False, tags=[table]))
    assert "neither they nor the figures of the tagger mean anything" in page
    out = io.StringIO()
    print_taggers([table], out)
    assert OF_DRAWINGS in out.getvalue() and "GAP@20 51.2 (45.0-55.0), mAP 25.0 over 2 labels" in out.getvalue()
    (table,) = tag_tables(run, recipe(backbone={"model": "ViT-B-32", "pretrained": "openai"}), run.steps)
    assert table.warning == ""


@pytest.mark.usefixtures("reads_imported_vectors")
def test_vectors_of_the_list_are_not_of_the_tiny_model(tmp_path: Path) -> None:
    view = corpus(tmp_path / "C")
    folder = tagged(view, tmp_path / "run" / "annotate", tags())
    run = run_of(tmp_path / "run", view, folder)
    assert tag_tables(run, recipe(), run.steps)[0].warning == ""


@pytest.mark.usefixtures("reads_frames")
def test_a_tagger_that_was_given_has_its_figures_where_it_still_is(tmp_path: Path) -> None:
    from m2raap.annotate.tagger import Tagger

    view = corpus(tmp_path / "C", "world")
    write_tagger(tmp_path / "T" / "tagger", NAMES, "another")
    cfg = AnnotateConfig(tagger=tmp_path / "T")
    folder = tagged(view, tmp_path / "run" / "annotate", tags(), cfg=cfg)
    run = run_of(tmp_path / "run", view, folder)
    given = recipe(annotate={"tagger": str(tmp_path / "T")})
    (table,) = tag_tables(run, given, run.steps)
    assert table.figures and table.figures.gap == METRICS["gap"] and table.rows[0].ap == 0.8
    assert "not of this one" in table.notes[0]
    (tmp_path / "T").rename(tmp_path / "gone")
    (table,) = tag_tables(run, given, run.steps)
    assert table.figures is None and "holds no tagger" in table.notes[0] and table.rows[0].ap is None
    write_tagger(tmp_path / "T" / "tagger", NAMES[:2], "another")
    assert Tagger.load(tmp_path / "T" / "tagger").digest != Tagger.load(tmp_path / "gone" / "tagger").digest
    (table,) = tag_tables(run, given, run.steps)
    assert table.figures is None and "is not at" in table.notes[0]
    assert render(ReportData(title="t", synthetic=True, tags=[table])).count("<h2>Tags</h2>") == 1


@pytest.mark.usefixtures("reads_frames")
def test_only_the_most_frequent_tags_are_listed(tmp_path: Path) -> None:
    view = corpus(tmp_path / "C", "world")
    many = {f"v{i:02d}": {f"tag{j:02d}": 0.9 for j in range(MOST_TAGS + 5 - i)} for i in range(10)}
    folder = tagged(view, tmp_path / "run" / "annotate", many)
    run = run_of(tmp_path / "run", view, folder)
    (table,) = tag_tables(run, recipe(), run.steps)
    assert [row.tag for row in table.rows] == [f"tag{j:02d}" for j in range(MOST_TAGS)] and table.rows_left_out == 5
    assert "5 more are not listed" in render(ReportData(title="t", synthetic=True, tags=[table]))


def test_names_of_strangers_are_escaped() -> None:
    table = TagTable(["<b>arm"], 3, 1, None, ["<i>note"], "", [TagRow(f"{EVIL}\u202e", 1, 1)])
    (row, *_) = _by_tag_rows()
    data = ReportData(title="t", synthetic=False, tags=[table], by_tag=[replace(row, slice=EVIL)])
    page = render(data)
    assert "<script" not in page and "<b>arm" not in page and "<i>note" not in page and "\u202e" not in page
    assert page.count("=&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert json.dumps(to_json(data), allow_nan=False)


def _by_tag_rows() -> list[ResultRow]:
    table = [dict(row) for row in results_of(1.0, 1, num_videos=40).ranks]
    add_tags(table, {row["video_id"]: ["red / 红色"] for row in table})
    return [ResultRow(arm="a", benchmark="bench", **row) for row in tag_rows([table], 0)]


def test_slices_by_tag_have_a_line_each() -> None:
    rows = _by_tag_rows()
    data = ReportData(title="t", synthetic=True, by_tag=[*rows, *(replace(row, arm="b") for row in rows)])
    page = render(data)
    assert page.count('dir="auto">red / 红色 (40)</th>') == 4 and '<a href="#slices">' in page
    assert "A video may be in several slices" in page


def test_seeds_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {f"seed{seed}": [dict(row) for row in results_of(1.0, seed, num_videos=40).ranks] for seed in (1, 2)}
    for table in tables.values():
        add_tags(table, {row["video_id"]: ["red"] for row in table})
    monkeypatch.setattr("m2raap.report.tags.read_ranks", lambda path: tables[path.parent.name])
    steps = [Step("a", "a", "evaluate", "bench", Path(name), ()) for name in tables]
    rows = by_tag_rows({("a", "bench"): steps}, 0)
    assert len(rows) == 4 and {(row.slice, row.seeds, row.queries) for row in rows} == {("red", 2, 40)}
    assert all(row.metrics["R@1"] == pytest.approx(sum(row.seeds_r1) / 2, abs=1e-5) for row in rows)


def test_evaluations_without_tags_have_no_slices(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": {}})
    run = RunFolder.open(tmp_path)
    assert by_tag_rows({("a", "clips"): [step for step in run.steps if step.stage == "evaluate"]}, 0) == []
    assert tag_tables(run, recipe(arms={"a": {}}), run.steps) == []
