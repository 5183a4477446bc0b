"""Exports a curated view as a csv for spreadsheets and `data import table`: row n of a clip holds its n-th text of each language,
with its provenance.

Cells that a spreadsheet would run as a formula get a leading apostrophe. If no videos are copied (`none`), the column
`video` is relative to the video root of the corpus, which export.json names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data_tools.provenance import NAMES
from m2raap.core.corpus import LANGS
from m2raap.core.exports import CSV_LISTING as LISTING
from m2raap.core.exports import Item, Media, copy_video, neutral, plain_clip, unguarded, video_name
from m2raap.core.files import read_regular

_COLUMNS = (
    "video", "clip_id", "start_s", "end_s", "split", "source", "licence", "category", "url",
    *(f"{name}_{lang}" for name in ("caption", *NAMES) for lang in LANGS),
)  # fmt: skip


class Csv:
    media: tuple[Media, ...] = ("none", "videos")
    signals: tuple[str, ...] = ()

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        with open(out / LISTING, "w", encoding="utf-8", newline="") as listing:
            writer = csv.DictWriter(listing, _COLUMNS)
            writer.writeheader()
            for item in items:
                clip_cells = plain_clip(item) | {"video": _video(item, out, media)}
                by_lang = [[row for row in item.texts if row["lang"] == lang] for lang in LANGS]
                for rows in list(zip_longest(*by_lang)) or [(None,) * len(LANGS)]:
                    row: dict[str, Any] = dict(clip_cells)
                    for lang, text in zip(LANGS, rows, strict=True):
                        if text:
                            row[f"caption_{lang}"] = text["text"]
                            row |= {f"{name}_{lang}": text.get(name) for name in NAMES}
                    writer.writerow({name: neutral(value) for name, value in row.items()})

    def clip_ids(self, out: Path) -> set[str]:
        return {unguarded(row["clip_id"]) for row in _rows(out)}


def _video(item: Item, out: Path, media: Media) -> str:
    if media == "none":
        return item.clip["video"]
    (out / "videos").mkdir(exist_ok=True)
    copy_video(item, out / "videos" / video_name(item))
    return f"videos/{video_name(item)}"


def _rows(out: Path) -> list[dict[str, str]]:
    csv.field_size_limit(2**31 - 1)
    return list(csv.DictReader(io.StringIO(read_regular(out / LISTING).decode("utf-8", "replace"), newline="")))
