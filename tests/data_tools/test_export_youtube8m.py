"""Vectors, labels and tags of a view leave in YouTube-8M's forms, and come in again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools.export_youtube8m import RECORDS_A_FILE
from data_tools.youtube8m import import_youtube8m
from data_tools.youtube8m_predictions import write_predictions
from data_tools.youtube8m_vocabulary import read_vocabulary
from m2raap.cli.data_export import exporters
from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.tombstones import sha256
from m2raap.core.view import View
from m2raap.export.corpus import export
from m2raap.export.leftovers import leftovers
from tests.conftest import m2raap
from tests.data_tools.test_youtube8m import VOCABULARY, example, put, signals, vectors

KINDS = {"features": "bytes", "dim": "int", "labels": "strs", "tags": "strs", "tags_p": "floats"}


def row(clip_id: str, features: Any = ((1, 2),), **more: Any) -> dict[str, Any]:
    array = np.asarray(features, "<f2")
    return {"clip_id": clip_id, "features": array.tobytes(), "dim": array.shape[1]} | more


def corpus(folder: Path, rows: list[dict[str, Any]], **source: Any) -> View:
    clips = [{"clip_id": r["clip_id"], "video": "v", "split": r.pop("split", "train")} for r in rows]
    more = {"signals": rows, "signal_columns": KINDS}
    return View(write_corpus(folder, clips, [], video_root=folder.parent, source=source, num_parts=2, **more).path)


def leave(view: View, out: Path, kind: str = "youtube8m", media: Any = None) -> dict[str, Any]:
    return export(view, exporters(view)[kind], kind, out, media)


@pytest.mark.parametrize("level", ["video", "frame"])
@pytest.mark.parametrize("vocabulary", [VOCABULARY, None])
def test_what_leaves_comes_in_as_the_same_corpus(level: str, vocabulary: str | None, tmp_path: Path):
    from data_tools.tf_example import serialise

    rng = np.random.default_rng(0)

    def record(number: int, labels: list[int]) -> bytes:
        if level == "video":
            return example(f"i{number}", labels, rng.standard_normal(5), mean_audio=rng.standard_normal(3))
        frames = rng.integers(0, 256, (2, number + 1, 4), np.uint8)
        lists = {name: [[row.tobytes()] for row in rows] for name, rows in zip(("rgb", "audio"), frames, strict=True)}
        return serialise({"id": [f"i{number}".encode()], "labels": labels}, lists)

    folder = put(tmp_path / "f", "train0.tfrecord", record(0, [3, 1]), record(1, [2]))
    put(folder, "validate0.tfrecord", record(2, [0]))
    put(folder, "test0.tfrecord", record(3, []))
    if vocabulary:
        (folder / "vocabulary.csv").write_text(vocabulary)
    (first,) = import_youtube8m(folder, tmp_path / "C")
    m2raap(
        "data", "export", "youtube8m", first.path, "--out", tmp_path / "E", *(["--frames"] if level == "frame" else [])
    )
    assert sorted(path.name for path in (tmp_path / "E").iterdir()) == [
        "export.json", "test0000.tfrecord", "train0000.tfrecord", "validate0000.tfrecord", "vocabulary.csv",
    ]  # fmt: skip
    (again,) = import_youtube8m(tmp_path / "E", tmp_path / "D")
    assert again.digest == first.digest and again.source["level"] == level
    assert exporters()["youtube8m"].clip_ids(tmp_path / "E") == {"i0", "i1", "i2", "i3"}
    left = list(leftovers(tmp_path / "E", frozenset([sha256("i2")])))
    assert [leftover.path.name for leftover in left] == ["validate0000.tfrecord"]


def test_frames_become_their_mean_or_bytes(tmp_path: Path, capsys):
    view = corpus(tmp_path / "c", [row("a/b", [[1, -1.5], [0, 0.5]]), row("far", [[9, -9]])])
    assert leave(view, tmp_path / "E")["counts"] == {"clips": 2}
    means = {
        name: vectors(r).tolist() for name, r in signals(import_youtube8m(tmp_path / "E", tmp_path / "D")[0]).items()
    }
    assert means == {"a/b": [[0.5, -0.5]], "far": [[9, -9]]} and not (tmp_path / "E" / "vocabulary.csv").exists()
    leave(view, tmp_path / "F", media="frames")
    rows = signals(import_youtube8m(tmp_path / "F", tmp_path / "G")[0])
    assert np.abs(vectors(rows["a/b"]) - [[1, -1.5], [0, 0.5]]).max() <= 4 / 255 / 2 + 1e-3
    assert np.allclose(vectors(rows["far"]), [[2, -2]], atol=0.01)
    assert "2 values were below -2 or above 2" in capsys.readouterr().err


def test_labels_without_a_vocabulary_get_numbers_in_their_order(tmp_path: Path):
    rows = [row("a", labels=["b", "c"]), row("b", labels=["a", "c"]), row("c"), {"clip_id": "none"}]
    signed = leave(corpus(tmp_path / "c", rows), tmp_path / "E")
    assert signed["counts"] == {"clips": 3, "left_out:no features": 1}
    assert read_vocabulary(tmp_path / "E" / "vocabulary.csv") == {0: "a", 1: "b", 2: "c"}
    back = signals(import_youtube8m(tmp_path / "E", tmp_path / "D")[0])
    assert {name: r["labels"] for name, r in back.items()} == {"a": ["b", "c"], "b": ["a", "c"], "c": None}


def test_long_exports_have_several_files(tmp_path: Path, monkeypatch):
    import data_tools.export_youtube8m as exporter

    assert RECORDS_A_FILE == 1000
    monkeypatch.setattr(exporter, "RECORDS_A_FILE", 2)
    leave(corpus(tmp_path / "c", [row(f"i{number}") for number in range(5)]), tmp_path / "E")
    assert [path.name for path in sorted((tmp_path / "E").glob("*.tfrecord"))] == [
        f"train000{n}.tfrecord" for n in range(3)
    ]
    assert import_youtube8m(tmp_path / "E", tmp_path / "D")[0].counts["clips"] == 5


def test_predictions_have_the_form_of_the_starter_kit(tmp_path: Path):
    # What its format_lines writes: "%i %g" pairs between blanks, sorted by probability, 20 of them.
    many = [(number, 1 / (number + 2)) for number in range(30)]
    write_predictions(
        [("aB-_", [(7, 0.123456789), (1190, 1), (0, 1e-7)]), ("none", []), ("many", many)], tmp_path / "p.csv"
    )
    expected = "0 0.5 1 0.333333 2 0.25 3 0.2 4 0.166667 5 0.142857 6 0.125 7 0.111111 8 0.1 9 0.0909091 10 0.0833333 "
    expected += (
        "11 0.0769231 12 0.0714286 13 0.0666667 14 0.0625 15 0.0588235 16 0.0555556 17 0.0526316 18 0.05 19 0.047619"
    )
    assert (tmp_path / "p.csv").read_text() == (
        f"VideoId,LabelConfidencePairs\naB-_,1190 1 7 0.123457 0 1e-07\nnone,\nmany,{expected}\n"
    )


@pytest.mark.parametrize(
    ("video_id", "pair", "message"),
    [
        ("a,b", (1, 0.5), "clip 'a,b': a csv of predictions cannot hold this id"),
        ("=1", (1, 0.5), "cannot hold this id"),
        ("", (1, 0.5), "cannot hold this id"),
        ("a", (-1, 0.5), "clip 'a': the pair -1, 0.5 is no label with a probability"),
        ("a", (1, float("nan")), "is no label with a probability"),
        ("a", (1, 1.5), "is no label with a probability"),
    ],
)
def test_what_the_form_cannot_hold_is_refused(video_id: str, pair: tuple[int, float], message: str, tmp_path: Path):
    with pytest.raises(M2raapError, match=message):
        write_predictions([(video_id, [pair])], tmp_path / "p.csv")


def test_tags_leave_as_predictions_with_the_numbers_of_the_vocabulary(tmp_path: Path):
    rows = [row("a", tags=["Car", "Game (0)"], tags_p=[0.75, 0.5]), row("b", tags=[], tags_p=[]), row("c")]
    source = {"vocabulary": {"0": "Game (0)", "2": "Car"}}
    view = corpus(tmp_path / "c", rows, **source)
    m2raap("data", "export", "youtube8m-predictions", view.corpus_path, "--out", tmp_path / "E")
    lines = (tmp_path / "E" / "predictions.csv").read_text().splitlines()
    assert lines[0] == "VideoId,LabelConfidencePairs" and sorted(lines[1:]) == ["a,2 0.75 0 0.5", "b,"]
    assert read_vocabulary(tmp_path / "E" / "vocabulary.csv") == {0: "Game (0)", 2: "Car"}
    assert exporters()["youtube8m-predictions"].clip_ids(tmp_path / "E") == {"a", "b"}
    told = m2raap(
        "data", "export", "youtube8m-predictions", view.corpus_path, "--out", tmp_path / "F", "--frames", check=1
    )
    assert "carries none, not frames" in told.stderr


@pytest.mark.parametrize(
    ("bad", "source", "message"),
    [
        ({"labels": ["Bus"]}, {"vocabulary": {"0": "Car"}}, "clip 'a': the label 'Bus' is not in the vocabulary"),
        ({"labels": ["Bus"]}, {"vocabulary": {"x": "Car"}}, "is damaged"),
        ({"labels": ["Bus"]}, {"vocabulary": {"0": "Car", "1": "Car"}}, "is damaged"),
        ({"dim": 3}, {}, "clip 'a': its signals 'features' and 'dim' do not fit each other"),
        ({"dim": 0}, {}, "do not fit each other"),
        ({"features": b""}, {}, "do not fit each other"),
    ],
)
def test_what_does_not_fit_is_named(bad: dict[str, Any], source: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(M2raapError, match=message):
        leave(corpus(tmp_path / "c", [row("a") | bad], **source), tmp_path / "E")
    assert not (tmp_path / "E").exists()


def test_lists_of_other_lengths_are_named(tmp_path: Path):
    view = corpus(tmp_path / "c", [row("a", tags=["x"], tags_p=[0.5, 0.5])])
    with pytest.raises(M2raapError, match="has 1 values of 'tags' and 2 of 'tags_p'"):
        leave(view, tmp_path / "E", "youtube8m-predictions")
