"""The clips of a split as columns are the rows that a view gives part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2raap.core.corpus import write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.split import ORIGINS, SplitTables, open_tables, read_split, read_splits
from m2raap.core.tables import FRAMES_A_GROUP, part_of, write_part
from m2raap.core.view import View

PARTS = 3


def text_row(clip_id: str, number: int, rng: np.random.Generator, **changes: Any) -> dict[str, Any]:
    origin = str(rng.choice(ORIGINS))
    row = {
        "text_id": f"{clip_id}.{number}", "clip_id": clip_id, "lang": str(rng.choice(["en", "zh"])), "text": f"文 {number}",
        "origin": origin, "parent_text_id": None, "frame_index": int(rng.integers(4)) if origin == "aux" else None,
        "producer": None, "active": bool(rng.random() < 0.9),
    }  # fmt: skip
    return row | changes


@pytest.fixture(params=range(4))
def view(request: pytest.FixtureRequest, tmp_path: Path) -> View:
    """A random corpus under three stage folders that drop, add and replace rows, and two that have frames."""
    rng = np.random.default_rng(request.param)
    ids = [f"{letter}{number:03d}" for number in range(40) for letter in ("b", "é", "A")]
    clips = [
        {
            "clip_id": i,
            "video": f"{i}.mp4",
            "start_s": None if rng.random() < 0.3 else 1.5,
            "end_s": None,
            "split": str(rng.choice(["train", "val"])),
        }
        for i in ids
    ]
    texts = [text_row(i, number, rng) for i in ids for number in range(int(rng.integers(0, 4)))]
    write_corpus(tmp_path / "c", clips, texts, video_root=tmp_path, source={}, num_parts=PARTS)
    folders = [tmp_path / name for name in ("f", "g", "h")]
    for part in range(PARTS):
        own = [i for i in ids if part_of(i, PARTS) == part]
        of_part = [row for row in texts if row["clip_id"] in own]
        frames = [{"clip_id": i, "times_s": [0.0] * int(rng.integers(1, 5)), "jpegs": [b"x"]} for i in own]
        write_part(folders[0], "frames", part, [row for row in frames if rng.random() < 0.9])
        write_part(folders[2], "frames", part, [row | {"times_s": [1.0] * 7} for row in frames[:5]])
        drops = [{"clip_id": i, "text_id": None, "stage": "f", "reason": "r"} for i in own if rng.random() < 0.1]
        drops += [
            {"clip_id": row["clip_id"], "text_id": row["text_id"], "stage": "f", "reason": "r"}
            for row in of_part
            if rng.random() < 0.1
        ]
        write_part(folders[1], "dropped", part, drops)
        write_part(folders[1], "texts", part, [text_row(i, 9, rng) for i in own if rng.random() < 0.5])
        replaced = [row | {"active": False} for row in of_part if rng.random() < 0.2]
        write_part(folders[2], "superseded", part, replaced)
        write_part(folders[2], "texts", part, [text_row(i, 7, rng, active=True) for i in own if rng.random() < 0.3])
    return View(tmp_path / "c", tuple(folders))


def expected(view: View, split: str) -> list[dict[str, Any]]:
    clips = []
    for part in view.parts(("texts", "frames")):
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            if clip["split"] == split and texts and clip["clip_id"] in part.frames:
                rows = [(t["lang"], t["origin"], t["frame_index"], t["text"]) for t in texts]
                clips.append(
                    {name: clip[name] for name in ("clip_id", "video", "start_s", "end_s")}
                    | {"part": part.index, "num_frames": len(part.frames[clip["clip_id"]]["times_s"]), "texts": rows}
                )
    return clips


def actual(view: View, tables: SplitTables) -> list[dict[str, Any]]:
    texts: list[list[Any]] = [[] for _ in range(len(tables.clips))]
    for row in tables.texts.to_pylist():
        texts[row["clip"]].append((view.langs[row["lang"]], ORIGINS[row["origin"]], row["frame_index"], row["text"]))
    places = ("folder", "group", "row")
    return [
        {key: value for key, value in clip.items() if key not in places} | {"texts": texts[number]}
        for number, clip in enumerate(tables.clips.to_pylist())
    ]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_columns_are_the_rows_of_the_view(view: View, split: str, tmp_path: Path) -> None:
    for one in (view, View(view.corpus_path, view.folders, ("zh",)), view.limited(50)):
        tables = read_split(one, split)
        assert actual(one, tables) == expected(one, split)
        assert split == "test" or len(tables.clips) > 5
        tables.save(tmp_path / "saved")
        assert actual(one, open_tables(tmp_path / "saved")) == actual(one, tables)


def test_places_are_those_of_the_rows_in_the_file_and_some_clips_can_be_taken(view: View) -> None:
    tables = read_split(view, "train")
    clips = tables.clips.to_pylist()
    assert max(clip["group"] for clip in clips) > 0 and max(clip["row"] for clip in clips) == FRAMES_A_GROUP - 1
    some = tables.take(np.arange(1, len(clips), 3))
    assert actual(view, some) == actual(view, tables)[1::3]


def test_parts_of_frames_that_were_exchanged_are_noticed(view: View) -> None:
    first, second = (view.folders[0] / "frames" / f"part-{part:05d}.parquet" for part in (0, 1))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(M2raapError, match="files were exchanged"):
        read_split(view, "train")


def test_a_text_names_the_text_of_the_corpus_that_it_comes_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [{"clip_id": "a", "video": "a.mp4", "start_s": None, "end_s": None, "split": "train"}]
    texts = [text_row("a", 0, rng, origin="raw", active=True, lang="en")]
    write_corpus(tmp_path / "c", clips, texts, video_root=tmp_path, source={}, num_parts=1)
    more = {"active": True, "lang": "en", "frame_index": None}
    rows = [
        text_row("a", 1, rng, origin="rewrite", parent_text_id="a.0", **more),
        text_row("a", 2, rng, origin="aux", **more),
        text_row("a", 3, rng, origin="translation", parent_text_id="gone", **more),
    ]
    write_part(tmp_path / "f", "texts", 0, rows)
    write_part(tmp_path / "f", "frames", 0, [{"clip_id": "a", "times_s": [0.0], "jpegs": [b"x"]}])
    tables = read_split(View(tmp_path / "c", (tmp_path / "f",)), "train")
    assert tables.texts["raw_id"].to_pylist() == ["a.0", "a.0", "", ""]


def test_clips_without_texts_are_read_where_none_are_needed(view: View) -> None:
    without = read_splits(view, ["train"], needs_text=False)[0].clips["clip_id"].to_pylist()
    with_texts = read_split(view, "train").clips["clip_id"].to_pylist()
    assert set(with_texts) < set(without)
