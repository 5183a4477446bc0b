"""Signals that an imported list brings along: written by part, read before those of any stage, forgotten with their clips."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2raap.core.corpus import Corpus, keep_out, open_corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.replace import replacing
from m2raap.core.tables import part_of, read_part, signal_schema, write_part
from m2raap.core.view import View, clip_digest
from m2raap.export.forget import forget
from m2raap.pipeline.explain import explain, tell
from m2raap.pipeline.inspect import check
from tests.core.test_tables import clip, text

KINDS = {"features": "bytes", "dim": "int", "labels": "strs", "labels_p": "floats"}


def signal(number: int) -> dict[str, Any]:
    row = {"clip_id": f"c{number:03d}", "features": bytes([number]) * 4, "dim": 2}
    return row | {"labels": [f"label {number}", "all"], "labels_p": [0.5, number / 8]}


def corpus(folder: Path, numbers: range | list[int] = range(6), **more: Any) -> Corpus:
    more = {"signals": [signal(i) for i in numbers], "signal_columns": KINDS} | more
    clips, texts = [clip(i) for i in numbers], [text(i) for i in numbers]
    return write_corpus(folder, clips, texts, video_root=folder.parent, source={}, num_parts=2, **more)


def signals(view: View) -> dict[str, Any]:
    return {key: row for part in view.parts(("signals",)) for key, row in part.signals.items()}


def test_they_are_the_signals_of_a_view_and_a_stage_writes_over_them(tmp_path: Path):
    view = View(corpus(tmp_path / "c").path)
    assert signals(view) == {f"c{i:03d}": signal(i) | {"text_id": None} for i in range(6)}
    part = part_of("c003", 2)
    write_part(tmp_path / "s", "signals", part, [{"clip_id": "c003", "dim": 7}], signal_schema({"dim": "int"}))
    assert signals(view.over(tmp_path / "s"))["c003"] == signal(3) | {"text_id": None, "dim": 7}
    both = [view.part(part, ("texts", "signals")), view.part(part, ("texts",))]
    assert len({clip_digest(p, p.clips[0], None) for p in both}) == 2


def test_a_function_gives_them_part_by_part_with_the_same_bytes(tmp_path: Path):
    calls: list[tuple[int, int]] = []

    def rows(part: int, num_parts: int) -> Iterator[dict[str, Any]]:
        calls.append((part, num_parts))
        return (row for row in map(signal, range(6)) if part_of(row["clip_id"], num_parts) == part)

    by_part = corpus(tmp_path / "a", signals=rows)
    assert calls == [(0, 2), (1, 2)] and by_part.digest == corpus(tmp_path / "b").digest


def test_a_corpus_without_them_is_the_same_as_ever(tmp_path: Path):
    plain = corpus(tmp_path / "a", signals=(), signal_columns=None)
    assert corpus(tmp_path / "b", signals=()).digest == plain.digest != corpus(tmp_path / "c").digest
    assert not (tmp_path / "a" / "signals").exists() and signals(View(tmp_path / "a")) == {}
    with replacing(True):
        corpus(tmp_path / "c", signals=(), signal_columns=None)
    assert not (tmp_path / "c" / "signals").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([signal(1), signal(1)], "signals of clip 'c001': are given twice; a clip has one row"),
        ([signal(9)], "signals of clip 'c009': this clip is not in part"),
        ([signal(1) | {"text_id": "c001.en"}], "signals of clip 'c001': belong to a text"),
    ],
)
def test_rows_that_belong_to_no_clip_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path):
    with pytest.raises(M2raapError, match=message):
        corpus(tmp_path / "c", signals=rows)


def test_forgetting_a_clip_removes_them_and_no_import_brings_them_back(tmp_path: Path):
    made = corpus(tmp_path / "c")
    forget([made.path], ["c001", "c004"])
    stay = [0, 2, 3, 5]
    assert set(signals(View(made.path))) == {f"c{i:03d}" for i in stay}
    assert open_corpus(made.path).digest == corpus(tmp_path / "d", stay).digest
    assert all(row["state"] == "ok" for row in check(tmp_path))
    keep_out(tmp_path / "e", [made.path])
    assert corpus(tmp_path / "e").digest == open_corpus(made.path).digest
    everything = [row for part in range(2) for row in read_part(tmp_path / "e", "signals", part)]
    assert sorted(row["clip_id"] for row in everything) == [f"c{i:03d}" for i in stay]


def test_explain_shows_them(tmp_path: Path):
    story = explain(corpus(tmp_path / "c").path, "c002")
    assert story["signals"] == [{"clip_id": "c002", "dim": 2, "labels": ["label 2", "all"], "labels_p": [0.5, 0.25]}]
    assert "  clip: labels [label 2, all], labels_p [0.5, 0.25]" in tell(story)
