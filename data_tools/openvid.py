"""Importer of the OpenVid-1M csv (Nan et al., ICLR 2025): a training corpus.

Columns: video, caption, and the authors' scores (aesthetic score, motion score, temporal consistency score, fps, seconds ...),
which go to `scores.parquet`; `camera motion` becomes the category.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.cell_readers import captions_in, number_or_none, split_or_none, text_of
from data_tools.cells import is_nothing
from data_tools.corpora import Declared, write_training
from data_tools.locate import Files
from data_tools.pairs import Pairs
from data_tools.rooted import video_root
from m2raap.core.corpus import Corpus

COLUMNS = ("video", "caption", "aesthetic score", "motion score")
SCORE_OF_COLUMN = {
    "aesthetic score": "aesthetic_score",
    "motion score": "motion_score",
    "temporal consistency score": "temporal_consistency_score",
    "frame": "num_frames",
    "fps": "fps",
    "seconds": "duration_s",
}
KNOWN = {"OpenVid-1M.csv": Declared("OpenVid-1M.csv", 1_019_957)}


def import_openvid(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Raises M2raapError naming file, row and column."""
    root = video_root(video_dir, listing.parent)
    files, pairs = Files(root), Pairs(listing, "OpenVid")
    for number, row in pairs.rows(COLUMNS, (*SCORE_OF_COLUMN, "camera motion", "split")):
        video = text_of(listing, number, "video", row["video"])
        category = None if is_nothing(row.get("camera motion")) else str(row["camera motion"])
        split = split_or_none(row.get("split"), listing, number)
        clip_id = video.removesuffix(".mp4")
        clip = pairs.clip(f"row {number}", clip_id, files.locate(video), category=category, split=split)
        for text in captions_in(listing, number, "caption", row["caption"]):
            pairs.text(clip["clip_id"], text)
        scores = {
            name: number_or_none(row.get(column), listing, number, column) for column, name in SCORE_OF_COLUMN.items()
        }
        scores = {name: value for name, value in scores.items() if value is not None}
        if pairs.scores.setdefault(clip["clip_id"], scores) != scores:
            pairs.notes["rows_with_other_scores"] += 1  # those of the first row of a video count
    source = {"importer": "openvid", "listing": listing.name}
    known = KNOWN.get(listing.name)
    return write_training(out, pairs, root=root, source=source, known=known, num_holdout=num_holdout, seed=seed)
