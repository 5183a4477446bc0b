"""Importer of LSMDC 2016 (Rohrbach et al., IJCV 2017): the retrieval benchmark of 1,000 clips, or a training corpus.

The published annotation files are tab-separated, without a header and without quotes: clip name, start_aligned, end_aligned,
start_extracted, end_extracted, sentence. Clips are at MOVIE/CLIP.avi or directly in the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.listing import read_headless
from data_tools.locate import without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import SUFFIXES, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

COLUMNS = ("clip name", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
TIMES = COLUMNS[1:5]
TEST = "LSMDC16_challenge_1000_publictect.csv"  # the misspelling is the publisher's
TRAIN = {"train": "LSMDC16_annos_training.csv", "val": "LSMDC16_annos_val.csv"}
PROTOCOLS = {"test": Declared("lsmdc-1k", 1_000, {"en": 1_000}), "train": None}
LICENCE = "MPII agreement, research only"
_CLIP = re.compile(r"(\S+)_\d\d\.\d\d\.\d\d\.\d{3}-\d\d\.\d\d\.\d\d\.\d{3}")
_TIME = re.compile(r"\d\d[:.]\d\d[:.]\d\d[.,]\d{3}")


def import_lsmdc(folder: Path, out: Path, *, protocol: str = "test", video_dir: Path | None = None) -> list[Corpus]:
    """Raises M2raapError naming file, row and column, and if the counts of the benchmark differ from the published ones."""
    names = {"test": TEST} if protocol == "test" else TRAIN
    if not folder.is_dir():
        raise M2raapError(f"{folder}: no such folder; give the one that holds {' and '.join(names.values())}")
    root = video_root(video_dir, folder, "videos" if (folder / "videos").is_dir() else "")
    pairs = Pairs(folder / names[protocol], "LSMDC")
    for split, name in names.items():
        pairs.listing = folder / name
        _add(pairs, root, split)
    source = {"importer": "lsmdc", "listing": ", ".join(names.values()), "protocol": protocol}
    if declared := PROTOCOLS[protocol]:
        return write_benchmark(out, pairs, declared, root=root, source=source)
    return write_training(out, pairs, root=root, source=source)


def _add(pairs: Pairs, root: Path, split: str) -> None:
    for number, row in read_headless(pairs.listing, COLUMNS):
        clip_id = without_ending(row["clip name"].strip())
        match = _CLIP.fullmatch(clip_id)
        if match is None:
            raise M2raapError(
                f"{pairs.listing}: row {number}, column 'clip name': expected MOVIE_HH.MM.SS.mmm-HH.MM.SS.mmm, "
                f"found '{clip_id[:60]}'"
            )
        for column in TIMES:
            if not _TIME.fullmatch(row[column].strip()):
                raise M2raapError(
                    f"{pairs.listing}: row {number}, column '{column}': expected HH:MM:SS.mmm, found '{row[column][:40]}'"
                )
        pairs.clip(f"row {number}", clip_id, _file(root, match[1], clip_id), split=split, licence=LICENCE)
        pairs.text(clip_id, row["sentence"].strip(), "en")


def _file(root: Path, movie: str, clip_id: str) -> str:
    names = [f"{folder}{clip_id}{suffix}" for folder in (f"{movie}/", "") for suffix in (".avi", *SUFFIXES)]
    return next((name for name in names if (root / name).is_file()), names[0])
