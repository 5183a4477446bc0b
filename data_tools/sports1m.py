"""Importer of Sports-1M's lists (Karpathy et al., CVPR 2014): addresses of videos with numbers of sports, and no captions.

A line of `train_partition.txt` and `test_partition.txt` is an address on YouTube, a blank, and numbers between commas; number n
is named by line n + 1 of `labels.txt` (gtoderici/sports-1m-dataset).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from data_tools.corpora import write_training
from data_tools.listing import numbered_lines
from data_tools.locate import Files
from data_tools.pairs import Pairs, mended
from data_tools.rooted import video_root
from data_tools.youtube8m_vocabulary import distinct
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError, excerpt
from m2raap.core.tables import Row

LABELS = "labels.txt"
COLUMNS = {"labels": "strs"}
_LINE = re.compile(r"(\S+)\s+([0-9]{1,9}(?:,[0-9]{1,9})*)\s*")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def import_sports1m(listing: Path, out: Path, *, video_dir: Path | None = None, seed: int = 0) -> list[Corpus]:
    """A training corpus without texts, with the signal `labels`. Clips of a list named test* are in the split test; of other
    lists a tenth, drawn by `seed`, is val.

    With `video_dir` a clip's video is the file there that is named after the video's id on YouTube; without, the address, which
    is that of a page. Labels are names where labels.txt lies beside the list or in the folder above, else numbers as text; a
    video that is listed twice has the labels of both lines. Raises M2raapError naming file and row.
    """
    names_file, names = _names(listing.parent)
    root = video_root(video_dir, listing.parent)
    files, pairs = Files(root), Pairs(listing, "Sports-1M")
    split = {"split": "test"} if listing.name.lower().startswith("test") else {}
    signals: dict[str, Row] = {}
    for number, line in numbered_lines(listing):
        url, labels = _parsed(listing, number, line, names)
        clip_id = _video_id(listing, number, url)
        video = files.locate(clip_id) if video_dir else url
        if clip_id in signals:
            pairs.notes["rows_of_listed_videos"] += 1
            known = signals[clip_id]["labels"]
            known += [label for label in labels if label not in known]
            continue
        pairs.clip(f"row {number}", clip_id, video, url=url, **split)
        signals[clip_id] = {"clip_id": clip_id, "labels": labels}
    source: dict[str, Any] = {"importer": "sports1m", "listing": listing.name}
    if names:
        source |= {"names": names_file, "vocabulary": {str(label): name for label, name in names.items()}}
    return write_training(out, pairs, root=root, source=source, seed=seed, signals=signals, signal_columns=COLUMNS)


def _names(folder: Path) -> tuple[str, dict[int, str]]:
    """(where labels.txt lies, label number -> name); nothing where there is none. It is published a folder above the lists."""
    for where in (LABELS, f"../{LABELS}"):
        if (path := folder / where).is_file():
            names = {number - 1: mended(line.strip()) for number, line in numbered_lines(path)}
            if not names:
                raise M2raapError(f"{path}: holds no label")
            return where, distinct(names)
    return "", {}


def _parsed(listing: Path, number: int, line: str, names: dict[int, str]) -> tuple[str, list[str]]:
    """(address, labels) of a line."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise M2raapError(
            f"{listing}: row {number}: expected an address, a blank and numbers of labels between commas, found "
            f"{excerpt(line.rstrip(), 80)}"
        )
    labels = list(dict.fromkeys(map(int, match[2].split(","))))
    if names and (unknown := [label for label in labels if label not in names]):
        raise M2raapError(
            f"{listing}: row {number}: the label {unknown[0]} has no line in {LABELS}, which names {len(names):,}; use the "
            f"{LABELS} of the same release"
        )
    return match[1], [names.get(label, str(label)) for label in labels]


def _video_id(listing: Path, number: int, url: str) -> str:
    """The id of a video on YouTube, from an address such as http://www.youtube.com/watch?v=ID."""
    try:
        parts = urlsplit(url)
        ids = parse_qs(parts.query).get("v", []) if parts.scheme in ("http", "https") else []
    except ValueError:  # such as brackets that are not those of an IPv6 address
        ids = []
    if len(ids) != 1 or not _ID.fullmatch(ids[0]):
        raise M2raapError(
            f"{listing}: row {number}: expected an address such as http://www.youtube.com/watch?v=ID, found {excerpt(url, 80)}"
        )
    return ids[0]
