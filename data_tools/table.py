"""A generic table (csv, tsv, jsonl, json, parquet) with a video and caption columns -> corpus.

Languages come from the column names (`caption_en`, `caption_zh`) or, for a bare `caption`, from each text, and are reported.
Where a row says where a language's text came from (`zh_source`), that text is a translation of the other one.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_tools.listing import number_or_none, read_rows, sniff_lang
from data_tools.rooted import find_missing, val_ids
from m2raap.core.corpus import LANGS, SPLITS, Corpus, holdout, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

VIDEO = ("video", "video_path", "file_name", "filename", "path", "video_id", "videoid", "clip")
CAPTION = ("caption", "captions", "text", "texts", "sentence", "description", "title", "name")
START, END = ("start_s", "start", "start_time"), ("end_s", "end", "end_time")
_BY_LANG = re.compile(rf"^({'|'.join(CAPTION)})_({'|'.join(LANGS)})$")


@dataclass
class _Columns:
    video: str
    captions: dict[str, str | None]  # column -> language, None: sniffed
    start: str | None
    end: str | None


@dataclass
class _Rows:
    clips: dict[str, Row] = field(default_factory=dict)
    texts: list[Row] = field(default_factory=list)
    sniffed: Counter[str] = field(default_factory=Counter)


def import_table(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Writes `out`, and with `num_holdout` also `out`-holdout: a benchmark cut out by clip.

    Raises M2raapError naming file, row and column. Rows whose file is absent stay and are listed as `missing_file`.
    """
    root = video_dir or listing.parent
    if not root.is_dir():
        raise M2raapError(f"{root}: no such folder; give the videos' folder with --video-dir")
    rows = _read(listing)
    clips, texts = list(rows.clips.values()), rows.texts
    held = holdout(clips, num_holdout, seed) if num_holdout else set()
    source = {"importer": "table", "listing": listing.name, "langs": dict(sorted(rows.sniffed.items()))}
    train = [row for row in clips if row["clip_id"] not in held]
    if not any("split" in row for row in train):
        chosen = val_ids([row["clip_id"] for row in train], seed)
        for row in train:
            row["split"] = "val" if row["clip_id"] in chosen else "train"
    made = []
    for folder, group, benchmark in (
        (out, train, None),
        (_beside(out), [], f"{out.name}-holdout-{num_holdout}-seed{seed}"),
    ):
        if benchmark:
            group = [row | {"split": "test"} for row in clips if row["clip_id"] in held]
        if not group and benchmark:
            continue
        here = {row["clip_id"] for row in group}
        made.append(
            write_corpus(
                folder,
                [{"split": "train"} | row for row in group],
                [row for row in texts if row["clip_id"] in here],
                video_root=root,
                source=source,
                benchmark=benchmark,
                missing=find_missing(root, group),
            )
        )
    return made


def _beside(out: Path) -> Path:
    return out.with_name(out.name + "-holdout")


def _read(listing: Path) -> _Rows:
    columns: _Columns | None = None
    rows = _Rows()
    for number, row in read_rows(listing):
        columns = columns or _sniff_columns(listing, row)
        video = row.get(columns.video)
        if not isinstance(video, str) or not video.strip():
            raise M2raapError(f"{listing}: row {number}, column '{columns.video}': expected a video's file name")
        clip = _clip(listing, number, row, columns, video.strip())
        known = rows.clips.setdefault(clip["clip_id"], clip)
        if known["video"] != clip["video"]:
            raise M2raapError(f"{listing}: row {number}: clip_id '{clip['clip_id']}' names two videos")
        _add_texts(rows, listing, number, row, columns, clip["clip_id"])
    if columns is None:
        raise M2raapError(f"{listing}: the table has no rows")
    return rows


def _sniff_columns(listing: Path, row: dict[str, Any]) -> _Columns:
    lower = {name.lower().strip(): name for name in row}

    def first(names: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    video = first(VIDEO)
    captions: dict[str, str | None] = {lower[n]: m.group(2) for n in lower if (m := _BY_LANG.match(n))}
    if not captions and (plain := first(tuple(n for n in CAPTION if lower.get(n) != video))):
        captions = {plain: None}
    if video is None or not captions:
        missing = "a video column (one of " + ", ".join(VIDEO) + ")" if video is None else "a caption column ("
        missing += "" if video is None else ", ".join(CAPTION[:5]) + ", or caption_en / caption_zh)"
        raise M2raapError(f"{listing}: row 1: expected {missing}; found the columns {', '.join(row)}")
    return _Columns(video, captions, first(START), first(END))


def _clip(listing: Path, number: int, row: dict[str, Any], columns: _Columns, video: str) -> Row:
    start = number_or_none(row.get(columns.start), listing, number, columns.start) if columns.start else None
    end = number_or_none(row.get(columns.end), listing, number, columns.end) if columns.end else None
    if start is not None and end is not None and end <= start:
        raise M2raapError(f"{listing}: row {number}: the clip ends at {end:g} s, before it starts at {start:g} s")
    clip_id = str(row.get("clip_id") or row.get("id") or "") or re.sub(r"\.\w{2,4}$", "", video)
    if start is not None and not row.get("clip_id"):
        clip_id += f"_{start:g}_{'end' if end is None else f'{end:g}'}"
    clip: Row = {"clip_id": clip_id, "video": video, "start_s": start, "end_s": end, "source": listing.stem}
    for column, names in (
        ("licence", ("licence", "license")),
        ("category", ("category",)),
        ("url", ("url", "contentUrl")),
    ):
        value = next((row[name] for name in names if row.get(name)), None)
        if value is not None:
            clip[column] = str(value)
    if row.get("split"):
        if row["split"] not in SPLITS:
            raise M2raapError(
                f"{listing}: row {number}, column 'split': '{row['split']}' is none of {', '.join(SPLITS)}"
            )
        clip["split"] = row["split"]
    return clip


def _add_texts(rows: _Rows, listing: Path, number: int, row: dict[str, Any], columns: _Columns, clip_id: str) -> None:
    of_row: dict[str, str] = {}
    for column, lang in columns.captions.items():
        value = row.get(column)
        values = (
            [value] if isinstance(value, str) else value if isinstance(value, list) else [] if value is None else None
        )
        if values is None or not all(isinstance(text, str) for text in values):
            raise M2raapError(f"{listing}: row {number}, column '{column}': expected a text or a list of texts")
        for text in values:
            if not text.strip():
                continue
            of = lang or sniff_lang(text)
            rows.sniffed[of] += 1
            text_id = f"{clip_id}.{of}{sum(t['clip_id'] == clip_id and t['lang'] == of for t in rows.texts[-64:])}"
            made_from = row.get(f"{of}_source")
            parent = next((t for other, t in of_row.items() if other != of), None) if made_from else None
            of_row.setdefault(of, text_id)
            rows.texts.append(
                {
                    "text_id": text_id,
                    "clip_id": clip_id,
                    "lang": of,
                    "text": text,
                    "origin": "translation" if parent else "raw",
                    "parent_text_id": parent,
                    "producer": str(made_from) if made_from else listing.stem,
                    "active": True,
                }
            )
