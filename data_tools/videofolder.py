"""Importer of a Hugging Face VideoFolder: a training corpus from metadata.{csv,jsonl,parquet} with `file_name`.

A folder may hold one list, or one in each of train/, validation/ and test/; the names of caption columns are those of a table.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.corpora import write_training
from data_tools.pairs import Pairs
from data_tools.rooted import video_root
from data_tools.table import read_table
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

LISTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}


def import_videofolder(
    folder: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Raises M2raapError naming file, row and column."""
    root = video_root(video_dir, folder)
    lists = [(path, None) for path in _lists(folder)] or [
        (path, SPLITS[subfolder.name])
        for subfolder in sorted(folder.iterdir())
        if subfolder.is_dir() and subfolder.name in SPLITS
        for path in _lists(subfolder)
    ]
    if not lists:
        raise M2raapError(
            f"{folder}: no {', '.join(LISTS)} in it or in train/, validation/, test/; captions are read from such a list"
        )
    pairs = Pairs(lists[0][0], folder.name, producer="metadata")
    for listing, split in lists:
        pairs.listing = listing
        prefix = "" if split is None else f"{listing.parent.name}/"
        read_table(pairs, video_column="file_name", prefix=prefix, split=split)
    source = {"importer": "videofolder", "listing": ", ".join(str(path.relative_to(folder)) for path, _ in lists)}
    return write_training(out, pairs, root=root, source=source, num_holdout=num_holdout, seed=seed)


def _lists(folder: Path) -> list[Path]:
    lists = [folder / name for name in LISTS if (folder / name).is_file()]
    if len(lists) > 1:
        raise M2raapError(f"{folder}: holds {' and '.join(path.name for path in lists)}; keep one of them")
    return lists
