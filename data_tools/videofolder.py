"""Importer of a Hugging Face VideoFolder: a training corpus from metadata.{csv,jsonl,parquet} with `file_name`.

Lists may lie in the folder and in folders below it (train/, data/test/ ...), each for the videos beside and below it; the path of
a list names the split of its rows. The names of caption columns are those of a table.
"""

from __future__ import annotations

import os
from pathlib import Path

from data_tools.cells import split_of_folder
from data_tools.corpora import write_training
from data_tools.listing import KINDS, kind_of
from data_tools.pairs import Pairs
from data_tools.rooted import video_root
from data_tools.table import List, read_lists
from m2raap.core import exports
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

LISTS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
VIDEO = ("file_name", "video_file_name")


def import_videofolder(
    folder: Path, out: Path, *, video_dir: Path | None = None, num_holdout: int | None = None, seed: int = 0
) -> list[Corpus]:
    """Raises M2raapError naming file, row and column."""
    root = video_root(video_dir, folder)
    paths, others = _find_lists(folder)
    if not paths:
        raise M2raapError(
            f"{folder}: no {', '.join(LISTS)} in it or in a folder below; captions are read from such a list"
        )
    lists = [_list(folder, path) for path in paths]
    pairs = Pairs(paths[0], folder.name, producer="metadata")
    pairs.unread_lists = others
    read_lists(pairs, lists, root)
    source = {"importer": "videofolder", "listing": ", ".join(path.relative_to(folder).as_posix() for path in paths)}
    return write_training(out, pairs, root=root, source=source, num_holdout=num_holdout, seed=seed)


def _list(folder: Path, path: Path) -> List:
    parts = path.parent.relative_to(folder).parts
    try:
        return List(path, "".join(f"{part}/" for part in parts), split_of_folder(parts), VIDEO)
    except ValueError as error:
        raise M2raapError(f"{path}: {error}") from None


def _find_lists(folder: Path) -> tuple[list[Path], list[str]]:
    """The lists in the folder and below it, and the names of other tables and of linked folders, which are not read."""
    paths: list[Path] = []
    others: list[str] = []
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        lists = [Path(base, name) for name in LISTS if name in names and Path(base, name).is_file()]
        if len(lists) > 1:
            raise M2raapError(f"{base}: holds {' and '.join(path.name for path in lists)}; keep one of them")
        paths += lists
        tables = [name for name in sorted(names) if kind_of(Path(name)) in KINDS and name not in (*LISTS, exports.FILE)]
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        others += [os.path.relpath(os.path.join(base, name), folder) for name in (*tables, *links)]
    return paths, others
