"""Importer of YouTube-8M's TFRecords, video-level or frame-level: a corpus of vectors and labels without videos.

The splits are those of the file names: train*, validate* and test* (which has no labels). Two passes: the first checks every
record and keeps where it lies, the second reads the vectors again, part by part of the corpus. For each clip about 0.6 KB
stay in memory: its id (55 bytes), its place in a dict (110), its row of `clips` with the path (270), and the entries of lists
and sets of write_corpus (150 or more): 4 GB for the 6.1 million videos of the third release, whatever the size of a record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_tools.tfrecord import Records
from data_tools.youtube8m_records import Video, read_video
from data_tools.youtube8m_vocabulary import FILE as VOCABULARY
from data_tools.youtube8m_vocabulary import read_vocabulary
from m2raap.core import talk
from m2raap.core.corpus import Corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.exports import safe_key
from m2raap.core.losses import NO_VIDEOS
from m2raap.core.tables import Row, default_num_parts, part_of

ENDING = ".tfrecord"
COLUMNS = {"features": "bytes", "dim": "int", "labels": "strs"}
# A frame-level record of 300 seconds has 0.35 MB. protobuf may need 25 times a record of a stranger.
MAX_RECORD = 8 * 1024**2
_SPLITS = {"train": "train", "val": "val", "test": "test"}  # how a file's name begins -> split
_FILE = re.compile(r"(train|val|test)[^/]*\.tfrecord", re.IGNORECASE)
_OFFSET_BITS = 44  # of a place: files of up to 16 TiB
_PART_BYTES = 64 * 1024**2  # of vectors in one part of the corpus, about: what is in memory while it is written


def import_youtube8m(source: Path, out: Path) -> list[Corpus]:
    """`source`: a folder of records with vocabulary.csv, or one file. A label is its name, without a vocabulary its number.

    Raises M2raapError naming file and record for one that is damaged, has no features or no id, values that are no finite
    numbers, another level or dim than the first, an id that is there twice, or a label outside of the vocabulary; UsageError
    where the libraries of the extra `youtube8m` are not installed.
    """
    files = _files(source)
    folder = files[0].parent
    names = read_vocabulary(folder / VOCABULARY) if (folder / VOCABULARY).is_file() else {}
    records = _Records(files, names)
    records.scan()
    corpus = write_corpus(
        out,
        records.clips(),
        [],
        video_root=folder,
        source={
            "importer": "youtube8m",
            "holds": NO_VIDEOS,
            "level": records.level,
            "dim": records.dim,
            **({"vocabulary": {str(number): name for number, name in names.items()}} if names else {}),
            **({"columns_not_read": {f"*{ENDING}": sorted(records.unread)}} if records.unread else {}),
        },
        num_parts=max(default_num_parts(len(records.places)), -(-records.num_bytes // _PART_BYTES)),
        signals=records.signals_of_part,
        signal_columns=COLUMNS,
    )
    return [corpus]


def _files(source: Path) -> list[Path]:
    """The files to read, in their order."""
    if not source.exists():
        raise M2raapError(
            f"{source}: no such file or folder; give a folder of {{train,validate,test}}*{ENDING}, or one file"
        )
    files = (
        sorted(path for path in source.iterdir() if path.name.lower().endswith(ENDING)) if source.is_dir() else [source]
    )
    if not files:
        raise M2raapError(
            f"{source}: holds no {ENDING} file directly; give the folder of {{train,validate,test}}*{ENDING}"
        )
    for path in files:
        if not _FILE.fullmatch(path.name):
            raise M2raapError(
                f"{path}: its name has to begin with train, validate or test, which is its split, and to end in {ENDING}; "
                "rename it, or move it out of the folder"
            )
    return files


class _Records:
    """All records of an import: where each lies, and what they have in common."""

    def __init__(self, files: list[Path], names: dict[int, str]) -> None:
        self._files, self._names = files, names
        # Clip id -> index of its file and offset in it, in one number: a tuple of two would take three times the memory.
        self.places: dict[str, int] = {}
        self.level = ""
        self.dim = self.num_bytes = 0
        self.unread: set[str] = set()
        self._ids_of_part: list[list[str]] = []

    def scan(self) -> None:
        """The first pass."""
        with talk.progress("import youtube8m", len(self._files)) as advance:
            for index, path in enumerate(self._files):
                with Records(path, MAX_RECORD) as records:
                    for number, offset, data in records:
                        self._add(index << _OFFSET_BITS | offset, f"{path}: record {number} at byte {offset:,}", data)
                advance()
        if not self.places:
            raise M2raapError(f"{self._files[0].parent}: its {ENDING} files hold no record; download them again")
        if self.unread:
            talk.log(f"not read of the records: {', '.join(map(talk.one_line, sorted(self.unread)[:20]))}")

    def _add(self, place: int, where: str, data: bytes) -> None:
        video = _video(where, data)
        dim = video.features.shape[1]
        self.level, self.dim = self.level or video.level, self.dim or dim
        if video.level != self.level:
            raise M2raapError(
                f"{where}: is {video.level}-level, and those before it are {self.level}-level; import one of both"
            )
        if dim != self.dim:
            raise M2raapError(
                f"{where}: its vectors have {dim:,} values, and those before it {self.dim:,}; import files of one kind"
            )
        if video.video_id in self.places:
            first = self._files[self.places[video.video_id] >> _OFFSET_BITS]
            raise M2raapError(f"{where}: the id '{video.video_id}' is in {first} already; ids have to be unique")
        self._labels(where, video)
        self.places[video.video_id] = place
        self.num_bytes += video.features.nbytes
        self.unread |= video.unread

    def _labels(self, where: str, video: Video) -> list[str] | None:
        """The names of its labels; None where it has none, as in the test split."""
        if self._names and (unknown := [label for label in video.labels if label not in self._names]):
            raise M2raapError(
                f"{where}: the label {unknown[0]} is not in {VOCABULARY}, which has {len(self._names):,}; use the vocabulary of "
                "the same release, or move it out of the folder to keep the numbers"
            )
        return [self._names.get(label, str(label)) for label in video.labels] or None

    def clips(self) -> Iterator[Row]:
        splits = [_SPLITS[_FILE.fullmatch(path.name)[1].lower()] for path in self._files]  # pyright: ignore[reportOptionalSubscript]  # _files has checked them
        for clip_id, place in self.places.items():
            # No such file exists: ids are pseudonyms of the videos on YouTube.
            video = f"youtube8m/{safe_key(clip_id)}"
            yield {"clip_id": clip_id, "video": video, "split": splits[place >> _OFFSET_BITS], "source": "YouTube-8M"}

    def signals_of_part(self, part: int, num_parts: int) -> Iterator[Row]:
        """The second pass, for one part: rows of COLUMNS, in the order of the files."""
        if len(self._ids_of_part) != num_parts:
            self._ids_of_part = [[] for _ in range(num_parts)]
            for clip_id in self.places:
                self._ids_of_part[part_of(clip_id, num_parts)].append(clip_id)
        by_file: dict[int, list[str]] = {}
        for clip_id in self._ids_of_part[part]:
            by_file.setdefault(self.places[clip_id] >> _OFFSET_BITS, []).append(clip_id)
        for index, clip_ids in by_file.items():
            path = self._files[index]
            with Records(path, MAX_RECORD) as records:
                for clip_id in clip_ids:
                    offset = self.places[clip_id] & (1 << _OFFSET_BITS) - 1
                    where = f"{path}: the record at byte {offset:,}"
                    video = _video(where, records.at(offset))
                    if video.video_id != clip_id or video.features.shape[1] != self.dim:
                        raise M2raapError(f"{where}: has changed while it was imported; run the command again")
                    features = video.features.tobytes()
                    yield {
                        "clip_id": clip_id,
                        "features": features,
                        "dim": self.dim,
                        "labels": self._labels(where, video),
                    }


def _video(where: str, data: bytes) -> Video:
    try:
        return read_video(data)
    except ValueError as error:
        raise M2raapError(f"{where}: {talk.one_line(str(error))}; download the file again") from None
