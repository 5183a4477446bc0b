"""Importer of a generic table (csv, tsv, jsonl, json, parquet) with a video column and caption columns.

Languages come from the column names (`caption_en`, `caption_zh`) or, for a column `caption`, from the script of each text,
and are reported. If a row names the producer of the text in one language (`zh_source`), that text is a translation of the
text in the other one; the columns that `data export` writes say more (data_tools/provenance.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.corpora import write_training
from data_tools.listing import read_rows, span, text_of
from data_tools.pairs import Pairs
from data_tools.provenance import Provenance
from data_tools.rooted import SUFFIXES, video_root
from m2raap.core.corpus import LANGS, SPLITS, Corpus
from m2raap.core.errors import M2raapError
from m2raap.video.fetch import is_url

VIDEO = ("video", "video_path", "file_name", "filename", "path", "video_id", "videoid", "clip")
CAPTION = ("caption", "captions", "text", "texts", "sentence", "description", "title", "name")
START, END = ("start_s", "start", "start_time"), ("end_s", "end", "end_time")
KEPT = {
    "licence": ("licence", "license"),
    "category": ("category",),
    "url": ("url", "contentUrl"),
    "source": ("source",),
}
_BY_LANG = re.compile(rf"^({'|'.join(CAPTION)})_({'|'.join(LANGS)})$")


@dataclass(frozen=True)
class _Columns:
    video: str
    captions: dict[str, str | None]  # column -> language; None: by the script of each text
    start: str | None
    end: str | None


def import_table(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Writes `out`, and with `num_holdout` also `out`-holdout, a benchmark of that many clips.

    Raises M2raapError naming file, row and column. Rows whose file is absent stay and are listed as `missing_file`.
    """
    root = video_root(video_dir, listing.parent)
    pairs = Pairs(listing, listing.stem, producer=listing.stem)
    read_table(pairs)
    counts = pairs.counts()
    source = {
        "importer": "table",
        "listing": listing.name,
        "langs": {lang: counts[lang] for lang in counts if lang in LANGS},
    }
    return write_training(out, pairs, root=root, source=source, num_holdout=num_holdout, seed=seed)


def captions_of(row: dict[str, Any]) -> list[tuple[str, str | None]]:
    """(text, language or None) of one row that belongs to no table, by the same column names; [] if it has no caption."""
    columns = {name: match[2] for name in row if (match := _BY_LANG.match(name))}
    plain: list[str] = [name for name in CAPTION if name in row][:1]
    captions: list[tuple[str, str | None]] = []
    for name, lang in (columns or dict.fromkeys(plain)).items():
        values = row[name] if isinstance(row[name], list) else [row[name]]
        captions += [(text, lang) for text in values if isinstance(text, str)]
    return captions


def read_table(pairs: Pairs, *, video_column: str | None = None, prefix: str = "", split: str | None = None) -> None:
    """Adds the rows of `pairs.listing`.

    `video_column`: the column of the videos, else the first of VIDEO that the table has. `prefix` goes before each video's
    path. `split`: of the rows that name none. Raises M2raapError naming the column that is absent, or the row that is wrong.
    """
    listing, columns, provenance = pairs.listing, None, Provenance(pairs)
    for number, row in read_rows(listing):
        columns = columns or _sniff(listing, row, video_column)
        video = prefix + text_of(listing, number, columns.video, row.get(columns.video))
        clip_id = _add_clip(pairs, number, row, columns, video, split)
        _add_texts(pairs, number, row, columns, clip_id, provenance)
    provenance.link()
    if columns is None:
        raise M2raapError(f"{listing}: the table has no rows")


def _sniff(listing: Path, row: dict[str, Any], video_column: str | None) -> _Columns:
    lower = {name.lower().strip(): name for name in row}

    def first(names: tuple[str, ...]) -> str | None:
        return next((lower[name] for name in names if name in lower), None)

    video = first((video_column,) if video_column else VIDEO)
    captions: dict[str, str | None] = {lower[n]: m.group(2) for n in lower if (m := _BY_LANG.match(n))}
    if not captions and (plain := first(tuple(n for n in CAPTION if lower.get(n) != video))):
        captions = {plain: None}
    if video is None or not captions:
        what = f"a video column ({', '.join((video_column,) if video_column else VIDEO)})" if video is None else (
            f"a caption column ({', '.join(CAPTION)}, each also with _en or _zh)"
        )  # fmt: skip
        raise M2raapError(
            f"{listing}: row 1: expected {what}; found the columns {', '.join(map(str, list(row)[:30])) or 'none'}"
        )
    return _Columns(video, captions, first(START), first(END))


def _add_clip(pairs: Pairs, number: int, row: dict[str, Any], columns: _Columns, video: str, split: str | None) -> str:
    start, end = span(
        pairs.listing,
        number,
        row.get(columns.start) if columns.start else None,
        row.get(columns.end) if columns.end else None,
        (columns.start or "start", columns.end or "end"),
    )
    stated_id = row.get("clip_id") or row.get("id")
    if isinstance(stated_id, bytes):
        raise M2raapError(
            f"{pairs.listing}: row {number}, column 'clip_id': expected a text, found bytes that are no UTF-8"
        )
    clip_id = str(stated_id or "") or _stem(video)
    if (start is not None or end is not None) and not row.get("clip_id"):
        clip_id += f"_{_shortest(start or 0.0)}_{'end' if end is None else _shortest(end)}"
    kept = {column: next((row[n] for n in names if row.get(n)), None) for column, names in KEPT.items()}
    split = row.get("split") or split
    if split and split not in SPLITS:
        raise M2raapError(
            f"{pairs.listing}: row {number}, column 'split': expected one of {', '.join(SPLITS)}, found '{split}'"
        )
    pairs.clip(f"row {number}", clip_id, video, start_s=start, end_s=end, split=split, **kept)
    return clip_id


def _shortest(seconds: float) -> str:
    """The shortest text of a number that no other number has: '5', '2.5', '1.0000000000000002'."""
    return repr(float(seconds)).removesuffix(".0")


def _stem(video: str) -> str:
    """The path without the file ending of a video; an address also loses its query and fragment."""
    name = re.sub(r"[?#].*", "", video) if is_url(video) else video
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name


def _add_texts(
    pairs: Pairs, number: int, row: dict[str, Any], columns: _Columns, clip_id: str, provenance: Provenance
) -> None:
    first_text_id: dict[str, str] = {}  # by language
    for column, lang in columns.captions.items():
        value = row.get(column)
        values = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise M2raapError(f"{pairs.listing}: row {number}, column '{column}': expected a text or a list of texts")
        for index, text in enumerate(values):
            if lang and (stated := provenance.stated(number, row, lang, index)):
                if text_id := provenance.add(clip_id, text, lang, stated):
                    first_text_id.setdefault(lang, text_id)
                continue
            producer = row.get(f"{lang}_source") if lang else None
            parent = next((t for other, t in first_text_id.items() if other != lang), None) if producer else None
            more: dict[str, Any] = {"origin": "translation", "parent_text_id": parent} if parent else {}
            if producer:
                more["producer"] = str(producer)
            text_id = pairs.text(clip_id, text, lang, **more)
            if text_id and lang:
                first_text_id.setdefault(lang, text_id)
