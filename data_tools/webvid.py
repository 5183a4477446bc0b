"""Importer of the WebVid-2M and -10M csv (Bain et al., Frozen in Time, ICCV 2021): a training corpus.

Columns: videoid, name (the caption), page_dir, contentUrl, and usually duration and page_idx; files are at
page_dir/videoid.mp4. Rows without page_dir, whose download failed at the publisher's, are counted, and their clips stay. The 10M
list has some videos twice, with two captions: these become two texts of one clip.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.cell_readers import captions_in, split_or_none, text_of
from data_tools.cells import is_nothing
from data_tools.corpora import write_training
from data_tools.locate import Files, without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import video_root
from m2raap.core.corpus import Corpus

COLUMNS = ("videoid", "name", "page_dir", "contentUrl")
ROWS = {"results_10M_train.csv": 10_727_607, "results_10M_val.csv": 5_000, "results_2M_val.csv": 5_000}


def import_webvid(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Raises M2raapError naming file, row and column."""
    root = video_root(video_dir, listing.parent)
    files, pairs = Files(root), Pairs(listing, "WebVid")
    num_rows = 0
    for number, row in pairs.rows(COLUMNS, ("split",)):
        num_rows += 1
        video_id = without_ending(text_of(listing, number, "videoid", row["videoid"]))
        name = f"{video_id}.mp4"
        if is_nothing(row["page_dir"]):  # the publisher's download of this video failed
            pairs.notes["rows_without_page_dir"] += 1
        else:
            name = f"{text_of(listing, number, 'page_dir', row['page_dir'])}/{name}"
        url = None if is_nothing(row["contentUrl"]) else str(row["contentUrl"])
        split = split_or_none(row.get("split"), listing, number)
        clip = pairs.clip(f"row {number}", video_id, files.locate(name), url=url, split=split)
        for text in captions_in(listing, number, "name", row["name"]):
            pairs.text(clip["clip_id"], text)
    source = {"importer": "webvid", "listing": listing.name, "rows": num_rows}
    if (published := ROWS.get(listing.name, num_rows)) != num_rows:
        source["note"] = f"{listing.name} as published has {published:,} rows; this list has {num_rows:,}"
    return write_training(out, pairs, root=root, source=source, num_holdout=num_holdout, seed=seed)
