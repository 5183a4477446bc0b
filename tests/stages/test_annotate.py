"""annotate over stored vectors: of align, of embed, of an import; what it refuses, and how it resumes."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2raap.annotate.config import AnnotateConfig
from m2raap.annotate.tagger import Tagger
from m2raap.core.config import build
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import StepInputs
from m2raap.core.tables import Row, read_all
from m2raap.core.view import View, open_view
from m2raap.curate.encode import pack
from m2raap.stages.annotate import CONTRADICTS, AnnotateStage, FitStage
from tests.annotate.test_fit import DyingEngine, Killed
from tests.conftest import digests, m2raap
from tests.runs import RECIPE as SMALL

QUICK: dict[str, Any] = {
    "labels": {"min_count": 4},
    "fit": {
        "pretrain_steps": 30,
        "head_steps": 30,
        "rounds": 1,
        "shared_steps": 2,
        "hidden": 16,
        "val_share": 0.3,
        "shard_clips": 16,
        "lr": 0.01,
    },
}


def rows_of(folder: Path, table: str) -> list[Row]:
    return list(read_all(folder, table))


def config(**more: Any) -> AnnotateConfig:
    return build(AnnotateConfig, {**QUICK, **more}, "test")


@pytest.fixture(scope="module")
def aligned(undisturbed: Path) -> Path:
    return undisturbed / "m2raap" / "align"


@pytest.fixture(scope="module")
def fitted(aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit by the command line."""
    out = tmp_path_factory.mktemp("fit") / "T"
    sets = [f"annotate.fit.{key}={value}" for key, value in QUICK["fit"].items()]
    words = [word for item in (*sets, "annotate.labels.min_count=4") for word in ("--set", item)]
    m2raap("annotate", "fit", aligned, "--labels", "captions", "--out", out, *words)
    return out


@pytest.fixture(scope="module")
def tagged(aligned: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tags") / "A"
    m2raap("annotate", "apply", aligned, "--tagger", fitted, "--out", out)
    return out


def test_clips_have_tags_and_texts_support(aligned: Path, fitted: Path, tagged: Path):
    rows = rows_of(tagged, "signals")
    labels = Tagger.load(fitted / "tagger").labels
    clips = [row for row in rows if row["text_id"] is None]
    assert len(clips) == sum(len(part.clips) for part in open_view(aligned).parts())
    for row in clips:
        assert set(row["tags"]) <= set(labels.names_L) and len(row["tags"]) == len(row["tags_p"]) <= 20
        assert row["tags_p"] == sorted(row["tags_p"], reverse=True) and all(0.02 <= p <= 1 for p in row["tags_p"])
        assert row["top_tag"] == (labels.names_L.index(row["tags"][0]) if row["tags"] else None)
    texts = [row for row in rows if row["text_id"] is not None]
    assert any("/" in name for row in texts for name in row["tags_named"]), "no label of two languages"
    assert all((row["tag_support"] is None) == (not row["tags_named"]) for row in texts)
    assert not rows_of(tagged, "dropped")


def test_a_fit_and_the_stage_that_fits_first_give_the_same_tags(aligned: Path, tagged: Path, tmp_path: Path):
    stage = AnnotateStage(config())
    run_data_stage(stage, open_view(aligned), tmp_path / "A", LocalEngine(1))
    assert rows_of(tmp_path / "A", "signals") == rows_of(tagged, "signals")
    assert (tmp_path / "A" / "tagger" / "labels.csv").exists() and not (tmp_path / "A" / "scratch").exists()


def test_a_run_that_is_killed_in_the_fit_ends_in_the_same_bytes(aligned: Path, tmp_path: Path):
    view, deaths = open_view(aligned), 0
    run_data_stage(AnnotateStage(config()), view, tmp_path / "whole", LocalEngine(1))
    for tasks in range(3, 200):
        try:
            run_data_stage(AnnotateStage(config()), view, tmp_path / "killed", DyingEngine(tasks))
            break
        except Killed:
            deaths += 1
    assert deaths > 5 and digests(tmp_path / "killed") == digests(tmp_path / "whole")


def test_texts_without_support_are_refused_with_a_reason(aligned: Path, fitted: Path, tagged: Path):
    """A new limit scores nothing again."""
    words = ("--tagger", fitted, "--out", tagged, "--force")
    m2raap("annotate", "apply", aligned, *words, "--set", "annotate.least_support=0.2")
    support = {row["text_id"]: row["tag_support"] for row in rows_of(tagged, "signals") if row["text_id"] is not None}
    drops = [row for row in rows_of(tagged, "dropped") if row["text_id"] is not None]
    low = {text_id for text_id, value in support.items() if value is not None and value < 0.2}
    assert {row["text_id"] for row in drops} == low != set()
    assert {row["reason"] for row in drops} == {CONTRADICTS}
    assert all(row["score"] == support[row["text_id"]] and row["threshold"] == 0.2 for row in drops)
    m2raap("annotate", "apply", aligned, *words)
    assert not rows_of(tagged, "dropped")


def test_a_corpus_is_balanced_by_tags(aligned: Path, fitted: Path, tagged: Path, tmp_path: Path):
    """By annotate itself, and by align with the folder of annotate as scores: no tag has many more clips than another."""
    target = 20
    stage = AnnotateStage(config(tagger=str(fitted), balance={"target": target}))
    run_data_stage(stage, open_view(aligned), tmp_path / "A", LocalEngine(1))
    drops = rows_of(tmp_path / "A", "dropped")
    assert {row["reason"] for row in drops} == {"balanced_out_of_tag"} and all(
        "keeps" in row["detail"] for row in drops
    )
    top = {row["clip_id"]: row["top_tag"] for row in rows_of(tagged, "signals") if row["text_id"] is None}
    left = [clip for part in open_view(tmp_path / "A").parts() for clip in part.clips if clip["split"] != "val"]
    before = Counter(
        top[clip["clip_id"]] for part in open_view(aligned).parts() for clip in part.clips if clip["split"] != "val"
    )
    after = Counter(top[clip["clip_id"]] for clip in left)
    assert len(left) == target < before.total()
    cut = {tag: count for tag, count in after.items() if count < before[tag]}
    assert cut and max(cut.values()) - min(cut.values()) <= 1
    assert all(count <= max(cut.values()) for tag, count in after.items())
    keyframes = aligned.parent / "keyframes"
    sets = ("--set", f"align.balance.target={target}", "--set", "align.balance.by=top_tag")
    m2raap("align", keyframes, "--out", tmp_path / "AL", "--scores", tagged, "--recipe", SMALL, *sets)
    clips = [clip for part in open_view(tmp_path / "AL").parts() for clip in part.clips if clip["split"] != "val"]
    assert {clip["clip_id"] for clip in clips} == {clip["clip_id"] for clip in left}


def test_scores_from_a_folder_without_numbers_are_told(aligned: Path, tmp_path: Path):
    keyframes = aligned.parent / "keyframes"
    (tmp_path / "empty").mkdir()
    done = m2raap("align", keyframes, "--out", tmp_path / "AL", "--scores", tmp_path / "empty",
                  "--set", "align.balance.target=5", "--set", "align.balance.by=top_tag", check=1)  # fmt: skip
    assert "is no finished folder of a data stage" in done.stderr


def test_shares_need_a_tagger_and_end_in_the_same_bytes(aligned: Path, fitted: Path, tagged: Path, tmp_path: Path):
    done = m2raap("annotate", "apply", aligned, "--out", tmp_path / "no", "--parts", "1/2", check=2)
    assert "shares need a tagger that is there" in done.stderr
    for share in ("1/2", "2/2"):
        m2raap("annotate", "apply", aligned, "--tagger", fitted, "--out", tmp_path / "A", "--parts", share)
    assert digests(tmp_path / "A") == digests(tagged)


def test_vectors_of_embed_serve_too_and_are_not_mixed_up(undisturbed: Path, fitted: Path, tmp_path: Path):
    m2raap("embed", undisturbed / "m2raap" / "keyframes", "--out", tmp_path / "E")
    view = open_view(tmp_path / "E")
    run_data_stage(AnnotateStage(config()), view, tmp_path / "A", LocalEngine(1))
    assert any(row["tags"] for row in rows_of(tmp_path / "A", "signals") if row["text_id"] is None)
    done = m2raap("annotate", "apply", tmp_path / "E", "--tagger", fitted, "--out", tmp_path / "B", check=1)
    assert "reads vectors of frames:" in done.stderr and "those of this view are of embed:" in done.stderr


def test_a_benchmark_gets_tags_and_teaches_none(undisturbed: Path, tmp_path: Path, tagged: Path):
    bench = undisturbed / "zero_shot" / "bench-motion" / "embed"
    m2raap("embed", undisturbed / "m2raap" / "keyframes", "--out", tmp_path / "E")
    FitStage(config()).run(StepInputs(open_view(tmp_path / "E"), tmp_path / "T", LocalEngine(1)))
    m2raap("annotate", "apply", bench, "--tagger", tmp_path / "T", "--out", tmp_path / "A")
    rows = rows_of(tmp_path / "A", "signals")
    assert rows and all(row["text_id"] is None for row in rows) and not rows_of(tmp_path / "A", "missing")
    for words in (("fit",), ("apply",), ("apply", "--tagger", tmp_path / "T", "--set", "annotate.least_support=0")):
        done = m2raap("annotate", words[0], bench, "--out", tmp_path / "no", *words[1:], check=1)
        assert "this is the benchmark" in done.stderr


def imported(folder: Path, num: int = 60, **columns: Any) -> View:
    """A corpus with vectors and labels that its list stated, and no videos."""
    draw = np.random.default_rng(0)
    clips = [
        {
            "clip_id": f"c{i:03d}",
            "video": f"none/c{i:03d}",
            "split": "train",
            "category": "red; round" if i % 2 else "blue",
        }
        | {"url": f"https://example.org/{i}"}
        for i in range(num)
    ]
    rows = [
        {"clip_id": f"c{i:03d}", "dim": 4, "labels": ["odd"] if i % 2 else ["even", "seldom"][: 1 + (i == 0)]}
        | {"features": pack(np.eye(4)[i % 2][None] + 0.1 * draw.standard_normal((2, 4)))}
        | columns
        for i in range(num)
    ]
    kinds = {"features": "bytes", "dim": "int", "labels": "strs"}
    write_corpus(
        folder, clips, [], video_root=folder.parent, source={"importer": "test"}, signals=rows, signal_columns=kinds
    )
    return View(folder)


@pytest.mark.parametrize(("source", "names"), [("column", {"even", "odd"}), ("category", {"blue", "red", "round"})])
def test_labels_of_columns(tmp_path: Path, source: str, names: set[str]):
    view = imported(tmp_path / "C")
    cfg = config(labels={"min_count": 4, "source": source})
    FitStage(cfg).run(StepInputs(view, tmp_path / "T", LocalEngine(1)))
    tagger = Tagger.load(tmp_path / "T" / "tagger")
    assert set(tagger.labels.names_L) == names and tagger.tree["metrics"]["hit_at_1"] > 0.9


def test_labels_of_a_csv_by_clip_or_address(tmp_path: Path):
    view = imported(tmp_path / "C")
    for key, of in (("clip_id", "c{:03d}"), ("url", "https://example.org/{}")):
        with open(tmp_path / f"{key}.csv", "w", encoding="utf-8", newline="") as sink:
            writer = csv.writer(sink)
            writer.writerow([key, "label"])
            writer.writerows([of.format(i), "odd;strange" if i % 2 else "even"] for i in range(60))
        out = tmp_path / key
        m2raap("annotate", "fit", tmp_path / "C", "--labels", tmp_path / f"{key}.csv", "--out", out,
               *(word for k, v in QUICK["fit"].items() for word in ("--set", f"annotate.fit.{k}={v}")))  # fmt: skip
        assert set(Tagger.load(out / "tagger").labels.names_L) == {"even", "odd", "strange"}
    (tmp_path / "blank.csv").write_text("clip_id,label\nc001,odd\n,ghost\n")
    with pytest.raises(M2raapError, match=r"blank.csv: row 2: clip_id is empty"):
        run(view, tmp_path / "blank", labels={"source": str(tmp_path / "blank.csv")})
    (tmp_path / "bad.csv").write_text("video,label\na,b\n")
    with pytest.raises(M2raapError, match="expected the columns clip_id"):
        run(view, tmp_path / "bad", labels={"source": str(tmp_path / "bad.csv")})
    with pytest.raises(UsageError, match="annotate.labels.source: nowhere.csv is no file; give captions"):
        run(view, tmp_path / "none", labels={"source": "nowhere.csv"})


def run(view: View, out: Path, **changes: Any) -> None:
    run_data_stage(AnnotateStage(config(**changes)), view, out, LocalEngine(1))


def test_digests_hold_the_content_of_word_lists_and_not_their_places(tmp_path: Path):
    for name, text in (("a", "sky\n"), ("b", "sky\n"), ("c", "tree\n")):
        (tmp_path / name).write_text(text)
    settings = [
        AnnotateStage(config(labels={"stop_words": str(tmp_path / name)})).settings() for name in ("a", "b", "c")
    ]
    assert settings[0] == settings[1] != settings[2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"features": b"\0" * 7}, "no whole rows of 4"),
        ({"features": b"\xff\x7f" * 4}, "hold NaN or infinity"),
        ({"dim": 0}, "no whole rows of 0"),
    ],
)
def test_damaged_vectors_are_told(tmp_path: Path, columns: dict[str, Any], message: str):
    view = imported(tmp_path / "C", **columns)
    with pytest.raises(M2raapError, match=message):
        run(view, tmp_path / "A", labels={"source": "column", "min_count": 4})


def test_a_view_without_vectors_is_told(undisturbed: Path, tmp_path: Path):
    done = m2raap("annotate", "apply", undisturbed / "m2raap" / "keyframes", "--out", tmp_path / "A", check=1)
    assert "holds no vectors of frames; run 'm2raap align' or 'm2raap embed' on it first" in done.stderr


def test_a_tagger_that_has_seen_all_clips_judges_none():
    with pytest.raises(UsageError, match="set annotate.fit.folds to at least 2"):
        config(least_support=0.0, fit={"folds": 1})


def test_a_given_tagger_that_has_seen_all_clips_judges_none(tmp_path: Path):
    view = imported(tmp_path / "C")
    labels = {"source": "column", "min_count": 4}
    FitStage(config(labels=labels, fit={**QUICK["fit"], "folds": 1})).run(
        StepInputs(view, tmp_path / "T", LocalEngine(1))
    )
    with pytest.raises(M2raapError, match="is one tagger that has seen all its clips"):
        run(view, tmp_path / "A", tagger=str(tmp_path / "T"), least_support=0.0)


def test_vectors_of_another_size_are_told(tmp_path: Path):
    first, other = imported(tmp_path / "C"), imported(tmp_path / "D", features=pack(np.ones((2, 2))), dim=2)
    FitStage(config(labels={"source": "column", "min_count": 4})).run(StepInputs(first, tmp_path / "T", LocalEngine(1)))
    with pytest.raises(M2raapError, match="reads vectors of 4 numbers, and those of clip c0.. have 2"):
        run(other, tmp_path / "A", tagger=str(tmp_path / "T"))


def test_a_second_fit_in_one_process_has_its_own_labels(tmp_path: Path):
    view = imported(tmp_path / "C")
    for most in (2, 1):
        cfg = config(labels={"source": "column", "min_count": 4, "max_labels": most})
        FitStage(cfg).run(StepInputs(view, tmp_path / "T", LocalEngine(1), force=True))
        tagger = Tagger.load(tmp_path / "T" / "tagger")
        assert len(tagger.labels) == len(tagger.job.labels) == most


def test_another_tagger_gives_other_tags(aligned: Path, tagged: Path, tmp_path: Path):
    """Parts that another tagger has scored are not taken over."""
    view, other = open_view(aligned), config(fit={**QUICK["fit"], "seed": 5})
    FitStage(other).run(StepInputs(view, tmp_path / "T", LocalEngine(1)))
    stage = AnnotateStage(config(tagger=str(tmp_path / "T")))
    run_data_stage(stage, view, tmp_path / "A", LocalEngine(1))
    first = rows_of(tmp_path / "A", "signals")
    FitStage(config(fit={**QUICK["fit"], "seed": 6})).run(StepInputs(view, tmp_path / "T", LocalEngine(1), force=True))
    with pytest.raises(M2raapError, match="dependencies.tagger"):
        run_data_stage(AnnotateStage(config(tagger=str(tmp_path / "T"))), view, tmp_path / "A", LocalEngine(1))
    again = AnnotateStage(config(tagger=str(tmp_path / "T")))
    run_data_stage(again, view, tmp_path / "A", LocalEngine(1), force=True)
    assert rows_of(tmp_path / "A", "signals") != first
