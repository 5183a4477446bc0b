"""Importer of a generic table (csv, tsv, jsonl, json, parquet) with a video column and caption columns.

Known columns are read whatever their case and their '_' or '-', in every row that fills them; a row may leave out columns.
Languages come from the column names (`caption_en`, `caption_zh`, `caption_cn`) or, for a column `caption`, from the script of
each text, and are reported. If a row names the producer of the text in one language (`zh_source`), that text is a translation of
the text in the other one; the columns that `data export` writes say more (data_tools/provenance.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.cell_readers import text_of
from data_tools.cells import first_filled, is_nothing, sniff_lang, texts_in
from data_tools.columns import CAPTION, NUMBERED, Columns, caption_column, lang_named, shortened
from data_tools.corpora import write_training
from data_tools.listing import is_exported, read_rows
from data_tools.pairs import Pairs
from data_tools.provenance import NAMES, Provenance
from data_tools.rooted import video_root
from data_tools.spans import BOTH, END, START, check_spans, span_of
from data_tools.splits import SPLIT, Splits
from data_tools.survey import Survey
from m2raap.core import talk
from m2raap.core.corpus import LANGS, Corpus
from m2raap.core.errors import M2raapError

VIDEO = (
    "video", "video_path", "file_name", "filename", "path", "video_id", "videoid", "clip", "video_file", "video_file_name",
    "video_name", "file_path", "file", "clip_path", "youtube_id", "yt_id", "ytid", "vid",
)  # fmt: skip
IDS = ("clip_id", "id")
LANGUAGE = ("language", "lang", "caption_language", "caption_lang")
KEPT = {
    "licence": ("licence", "license"),
    "category": ("category",),
    "url": ("url", "contentUrl"),
    "source": ("source",),
}
PROVENANCE = tuple(f"{name}{plural}_{lang}" for name in NAMES for plural in ("", "s") for lang in LANGS)
_KNOWN = (
    *PROVENANCE,
    *VIDEO, *CAPTION, *START, *END, *IDS, *SPLIT, *LANGUAGE, *BOTH, *(name for names in KEPT.values() for name in names),
    *(f"{name}_{lang}" for name in CAPTION for lang in LANGS), *(f"{lang}_source" for lang in LANGS),
)  # fmt: skip


@dataclass(frozen=True)
class List:
    """One list of an import. `prefix` goes before each video's path; `split` is that of the rows that name none."""

    path: Path
    prefix: str = ""
    split: str | None = None
    video_columns: tuple[str, ...] = VIDEO


def import_table(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Writes `out`, and with `num_holdout` also `out`-holdout, a benchmark of that many clips.

    Raises M2raapError naming file, row and column. Rows whose file is absent stay and are listed as `missing_file`.
    """
    root = video_root(video_dir, listing.parent)
    pairs = Pairs(listing, listing.stem, producer=listing.stem)
    read_lists(pairs, [List(listing)], root)
    source = {"importer": "table", "listing": listing.name}
    return write_training(out, pairs, root=root, source=source, num_holdout=num_holdout, seed=seed)


def read_lists(pairs: Pairs, lists: Sequence[List], root: Path) -> None:
    """Adds the rows of all lists; each list is read twice, because ids and files depend on all rows.

    A row without a video was never downloaded: it is left out, and counted in `notes`. Raises M2raapError naming the column
    that is absent, or the row that is wrong.
    """
    survey, no_video = Survey(root), None
    columns_of = {listing.path: Columns(_KNOWN) for listing in lists}
    splits_of = {listing.path: Splits(listing.path) for listing in lists}
    for listing in lists:
        columns, number = columns_of[listing.path], 0
        for number, row in map_rows(listing, columns):
            splits_of[listing.path].add(f"row {number}", row)
            name, value = first_filled(row, listing.video_columns)
            if name is None:
                column = next((name for name in listing.video_columns if name in row), listing.video_columns[0])
                no_video = no_video or M2raapError(
                    f"{listing.path}: row {number}, column '{column}': expected a text, found nothing"
                )
                continue
            video = listing.prefix + text_of(listing.path, number, name, value)
            start_s, end_s, _ = span_of(listing.path, number, row, columns)
            survey.add(video, (start_s, end_s), *_stated_id(listing, number, row))
        _check_columns(listing, columns, number)
        splits_of[listing.path].check()
    if no_video and not survey.located:
        raise no_video
    survey.finish()
    if not survey.names_clips("id"):
        talk.log("the column 'id' numbers rows or captions, not clips; clips are named after their videos")
    provenance = Provenance(pairs)
    for listing in lists:
        pairs.listing, columns = listing.path, columns_of[listing.path]
        for number, row in map_rows(listing, columns):
            name, value = first_filled(row, listing.video_columns)
            if name is None:
                pairs.notes["rows_without_video"] += 1
                continue
            columns.used.add(name)
            video = survey.located[listing.prefix + text_of(listing.path, number, name, value)]
            clip_id = _add_clip(pairs, number, row, columns, listing, survey, video, splits_of[listing.path])
            _add_texts(pairs, number, row, columns, clip_id, provenance)
        pairs.unread[listing.path.name if len(lists) == 1 else f"{listing.prefix}{listing.path.name}"] = columns.unread
    provenance.link()


def map_rows(listing: List, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row by known names) of a list."""
    return ((number, columns.row(row)) for number, row in read_rows(listing.path))


def _check_columns(listing: List, columns: Columns, num_rows: int) -> None:
    if not num_rows:
        raise M2raapError(f"{listing.path}: the table has no rows")
    known = set(map(columns.known_name, columns.names))
    what = None
    if not known & set(listing.video_columns):
        what = f"a video column ({', '.join(listing.video_columns)})"
    elif not columns.by_lang and not columns.numbered and not known & set(CAPTION) - set(listing.video_columns):
        what = f"a caption column ({', '.join(CAPTION)}, each also with _en or _zh)"
    if what:
        hint = (
            "; videos that are addresses stand in a column 'video'" if "url" in known and "video column" in what else ""
        )
        raise M2raapError(
            f"{listing.path}: row 1: expected {what}; found the columns {shortened(columns.names) or 'none'}{hint}"
        )
    check_spans(listing.path, columns)


def _stated_id(listing: List, number: int, row: dict[str, Any]) -> tuple[str | None, str]:
    """(column, id) of a row that states an id, else (None, ''). An export states it as it is, also where it reads like 'NA'."""
    if is_exported(row) and row.get(IDS[0]):
        return IDS[0], row[IDS[0]]
    kind, value = first_filled(row, IDS)
    if kind == "id" and isinstance(value, dict | list):  # the key of a data base, {"$oid": ...}: named as not read
        return None, ""
    if isinstance(value, float) and not value.is_integer():
        return kind, str(value)
    return (kind, text_of(listing.path, number, kind, value)) if kind else (None, "")


def _add_clip(
    pairs: Pairs,
    number: int,
    row: dict[str, Any],
    columns: Columns,
    listing: List,
    survey: Survey,
    video: str,
    splits: Splits,
) -> str:
    start_s, end_s, names_of_times = span_of(listing.path, number, row, columns)
    columns.used |= names_of_times
    kind, stated_id = _stated_id(listing, number, row)
    clip_id = survey.clip_id(video, start_s, end_s, kind, stated_id)
    if kind and survey.names_clips(kind):
        columns.used.add(kind)
    if kind == "clip_id" and clip_id != stated_id:
        pairs.notes["rows_under_other_ids"] += 1
    kept = {}
    for column, names in KEPT.items():
        name, value = first_filled(row, names)
        if name:
            kept[column] = value
            columns.used.add(name)
    split = splits.of(f"row {number}", row, columns) or listing.split
    return pairs.clip(f"row {number}", clip_id, video, start_s=start_s, end_s=end_s, split=split, **kept)["clip_id"]


def _add_texts(
    pairs: Pairs, number: int, row: dict[str, Any], columns: Columns, clip_id: str, provenance: Provenance
) -> None:
    first_text_id: dict[str, str] = {}  # by language
    num_texts: Counter[str] = Counter()  # of each column
    captions = captions_of(row, columns, f"{pairs.listing}: row {number}")
    # translations after their sources
    captions = in_stated_language(captions, row, columns, pairs)
    captions.sort(key=lambda caption: not is_nothing(row.get(f"{caption[1]}_source")))
    for column, lang, text in captions:
        columns.used |= {column, f"{lang}_source"} if lang else {column}
        if lang and (stated := provenance.stated(number, row, lang, num_texts[column])):
            columns.used.update(PROVENANCE)
            if text_id := provenance.add(clip_id, text, lang, stated):
                first_text_id.setdefault(lang, text_id)
            num_texts[column] += 1
            continue
        num_texts[column] += 1
        producer = row.get(f"{lang}_source") if lang else None
        producer = None if is_nothing(producer) else producer
        parent = next((t for other, t in first_text_id.items() if other != lang), None) if producer else None
        more: dict[str, Any] = {"origin": "translation", "parent_text_id": parent} if parent else {}
        if producer:
            more["producer"] = str(producer)
        text_id = pairs.text(clip_id, text, lang, **more)
        if text_id:
            first_text_id.setdefault(lang or sniff_lang(text), text_id)


def in_stated_language(
    captions: list[tuple[str, str | None, str]], row: dict[str, Any], columns: Columns, pairs: Pairs
) -> list[tuple[str, str | None, str]]:
    """The captions of a row with the language that it states for those without one; in another language these are left out."""
    language, stated_lang = first_filled(row, LANGUAGE)
    if not language or not captions:
        return captions
    columns.used.add(language)
    lang = lang_named(stated_lang)
    if lang is not None:
        return [(column, own_lang or lang, text) for column, own_lang, text in captions]
    columns.used.update(column for column, own_lang, _ in captions if own_lang is None)
    if left_out := sum(own_lang is None and not is_nothing(text) for _, own_lang, text in captions):
        pairs.notes["texts_in_other_languages"] += left_out
    return [caption for caption in captions if caption[1] is not None]


def captions_of(row: dict[str, Any], columns: Columns, where: str) -> list[tuple[str, str | None, str]]:
    """(column, language or None, text) of one row, empty texts included.

    A column without a language counts where the row has no text in a column of one; beside columns of its own name (caption
    beside caption_zh) it counts for the languages that they do not give. Raises M2raapError, which begins with `where`.
    """

    def texts(name: str) -> list[str]:
        try:
            return texts_in(row[name])
        except ValueError as error:
            raise M2raapError(f"{where}, column '{name}': {error}") from None

    captions: list[tuple[str, str | None, str]] = []
    for name, lang in columns.by_lang.items():
        captions += [(name, lang, text) for text in texts(name)] if name in row else []
    langs = {lang for _, lang, text in captions if not is_nothing(text)}
    stems = {base[0].rstrip("s") for name in columns.by_lang if (base := caption_column(name))} if langs else None
    plain = tuple(name for name in CAPTION if name in row and (stems is None or name.rstrip("s") in stems))
    numbered = [(name, lang, text) for name, lang in columns.numbered.items() if name in row for text in texts(name)]
    if any(not is_nothing(text) for _, _, text in numbered):
        plain = tuple(name for name in plain if name in NUMBERED)  # a title beside them is none of the captions
    name = first_filled(row, plain)[0] or next(iter(plain), None)
    if name:
        captions += [(name, None, text) for text in texts(name) if not langs or sniff_lang(text) not in langs]
    return captions + [caption for caption in numbered if not is_nothing(caption[2])]
