"""Importer of the Panda-70M csv (Chen et al., CVPR 2024): a training corpus with one clip for each span of a video.

Columns: videoID, url, timestamp, caption, matching_score, and in later releases desirable_filtering; all but the first two
are Python lists written as text, read by ast.literal_eval within limits of size. A clip's file is videoID.N.mp4 if the
folder holds it (already cut), else videoID.mp4 with the times of the span.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.cell_readers import number_or_none, split_or_none, text_of, texts_of
from data_tools.cells import clock_s, is_nothing, python_list
from data_tools.corpora import Declared, write_training
from data_tools.locate import without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError, excerpt

COLUMNS = ("videoID", "url", "timestamp", "caption", "matching_score")
LICENCE = "Snap Inc., non-commercial research"
# Clips of each list, by the authors' README.
KNOWN = {name: Declared(f"Panda-70M's {name}", clips) for name, clips in (
    ("panda70m_training_full.csv", 70_723_513), ("panda70m_training_10m.csv", 10_473_922),
    ("panda70m_training_2m.csv", 2_400_000), ("panda70m_validation.csv", 6_000), ("panda70m_testing.csv", 6_000),
)}  # fmt: skip


def import_panda70m(
    listing: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Raises M2raapError naming file, row and column."""
    root = video_root(video_dir, listing.parent)
    cut = files_by_stem(root)
    pairs = Pairs(listing, "Panda-70M")
    for number, row in pairs.rows(COLUMNS, ("desirable_filtering", "split")):
        _add(pairs, number, row, cut)
    source = {"importer": "panda70m", "listing": listing.name}
    known = KNOWN.get(listing.name)
    return write_training(out, pairs, root=root, source=source, known=known, num_holdout=num_holdout, seed=seed)


def _add(pairs: Pairs, number: int, row: dict[str, Any], cut: dict[str, str]) -> None:
    listing = pairs.listing
    video_id = without_ending(text_of(listing, number, "videoID", row["videoID"]))
    spans = _literal(listing, number, "timestamp", row["timestamp"])
    captions = texts_of(listing, number, "caption", _literal(listing, number, "caption", row["caption"]))
    scores = _literal(listing, number, "matching_score", row["matching_score"])
    kinds = _literal(listing, number, "desirable_filtering", row.get("desirable_filtering")) or None
    for column, values in (("caption", captions), ("matching_score", scores), ("desirable_filtering", kinds)):
        if values is not None and len(values) != len(spans):
            raise M2raapError(
                f"{listing}: row {number}, column '{column}': {len(values)} values for {len(spans)} timestamps"
            )
    split = split_or_none(row.get("split"), listing, number)
    url = None if is_nothing(row["url"]) else str(row["url"])
    for index, (span, caption, score) in enumerate(zip(spans, captions, scores, strict=True)):
        start_s, end_s = _seconds(listing, number, span)
        clip_id = f"{video_id}.{index}"
        columns = {"split": split, "url": url, "licence": LICENCE, "category": str(kinds[index]) if kinds else None}
        if clip_id in cut:
            clip = pairs.clip(f"row {number}", clip_id, cut[clip_id], **columns)
        else:
            name = cut.get(video_id, f"{video_id}.mp4")
            clip = pairs.clip(f"row {number}", clip_id, name, start_s=start_s, end_s=end_s, **columns)
        pairs.text(clip["clip_id"], caption)
        value = None if isinstance(score, str) else number_or_none(score, listing, number, "matching_score")
        if value is None:
            raise M2raapError(
                f"{listing}: row {number}, column 'matching_score': expected numbers, found {score!r:.60}"
            )
        pairs.scores[clip["clip_id"]] = {"matching_score": value}


def _literal(listing: Path, number: int, column: str, cell: Any) -> list[Any]:
    """The list that the cell holds in Python's notation. No call, name or operator is ever evaluated.

    Raises M2raapError for anything that is no such list.
    """
    if isinstance(cell, list):  # from a parquet file
        return cell
    if is_nothing(cell) and not (isinstance(cell, str) and "[" in cell):  # '[None]' has one empty entry
        return []
    try:
        return python_list(cell)
    except ValueError as error:
        raise M2raapError(f"{listing}: row {number}, column '{column}': {error}") from None


def _seconds(listing: Path, number: int, span: Any) -> tuple[float, float]:
    times = [clock_s(time) for time in span if isinstance(time, str)] if isinstance(span, list) else []
    if len(times) == 2 and times[0] is not None and times[1] is not None and times[0] < times[1]:
        return times[0], times[1]
    raise M2raapError(
        f"{listing}: row {number}, column 'timestamp': expected ['H:MM:SS.mmm', 'H:MM:SS.mmm'], found {excerpt(span, 60)}"
    )
