"""A corpus folder: clips and texts, cut into parts, with a manifest written last.

A training corpus and a benchmark have the same shape; a benchmark also names its protocol, and no stage may drop a row of it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from m2raap.core import tombstones
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object, write_atomic, write_json
from m2raap.core.listed_signals import TABLE as SIGNALS
from m2raap.core.listed_signals import SignalRows, write_signals
from m2raap.core.lock import FILE as LOCK_FILE
from m2raap.core.lock import locked
from m2raap.core.replace import DRAFT, draft_of
from m2raap.core.signed import FORGETTING, digest_of, part_key, read_manifest
from m2raap.core.state import allowed_video_root, remember_video_root
from m2raap.core.tables import SCHEMA_VERSION, Row, default_num_parts, part_of, read_part, write_part
from m2raap.core.tombstones import Tombstones

LANGS = ("en", "zh")
SPLITS = ("train", "val", "test")
# Numbers that the imported list gives for its clips (motion, aesthetics ...), by clip_id; no stage needs the file.
SCORES = "scores.parquet"
# A marker: an import has written videos into this folder, and no manifest names them yet.
_IMPORTING = ".m2raap-importing"
TABLES = ("clips", "texts", "missing", "dropped", SIGNALS)
_IMPORT_FOLDERS = ("videos", "split")
_CORPUS_NAMES = (*TABLES, *_IMPORT_FOLDERS, SCORES, tombstones.FILE, LOCK_FILE, DRAFT, _IMPORTING)


@dataclass(frozen=True)
class Corpus:
    """An imported corpus. `digest` is over its content alone: two folders with equal content have equal digests."""

    path: Path
    num_parts: int
    stated_video_root: Path  # the folder that the manifest states; files are read below `video_root` alone
    digest: str
    benchmark: str | None  # name of the benchmark's protocol; None: a training corpus
    counts: dict[str, int]
    source: dict[str, Any]

    @cached_property
    def video_root(self) -> Path:
        """The folder of the videos. Raises M2raapError for one that this user has not allowed for this corpus (core/state.py)."""
        return allowed_video_root(self.path, self.stated_video_root)

    def rows(self, table: str, part: int, columns: list[str] | None = None) -> list[Row]:
        return read_part(self.path, table, part, columns)

    def all_rows(self, table: str, columns: list[str] | None = None) -> list[Row]:
        return [row for part in range(self.num_parts) for row in self.rows(table, part, columns)]


def write_corpus(
    path: Path,
    clips: Iterable[Row],
    texts: Iterable[Row],
    *,
    video_root: Path,
    source: dict[str, Any],
    benchmark: str | None = None,
    num_parts: int | None = None,
    missing: Iterable[Row] = (),
    dropped: Iterable[Row] = (),
    signals: SignalRows = (),
    signal_columns: Mapping[str, str] | None = None,
) -> Corpus:
    """Writes clips and texts as a corpus folder and opens it.

    `missing` holds rows of the clips whose file is absent, with the columns of `dropped`; these clips stay in the corpus.
    `dropped` holds rows of what an importer refused, under ids that no clip has. `signals`: what the list says of its clips, a
    row a clip, or a function of (part, number of parts) that gives the rows of one part; `signal_columns`: name -> kind, as in
    signal_schema. Clips that were forgotten (core/tombstones.py) are left out. A corpus that is there already stays until the
    new one is whole. Raises M2raapError for an empty corpus, a duplicate id, a text or signals whose clip is absent, an unknown
    language or split, a folder that holds something other than a corpus, or a corpus with other content that may not be
    replaced (core/replace.py).
    """
    tables = {"clips": list(clips), "texts": list(texts), "missing": list(missing), "dropped": list(dropped)}
    _check_rows(tables["clips"], tables["texts"])
    with locked(path, written=(*TABLES, "manifest.json", tombstones.FILE, SCORES, DRAFT)):
        _refuse_other(path)
        with draft_of(path, TABLES, (SCORES,)) as draft:
            _write(path, draft, tables, (signals, signal_columns), video_root, source, benchmark, num_parts)
        remember_video_root(path, video_root)
    return open_corpus(path)


def _write(
    path: Path,
    draft: Path,
    tables: dict[str, list[Row]],
    signals: tuple[SignalRows, Mapping[str, str] | None],
    video_root: Path,
    source: dict[str, Any],
    benchmark: str | None,
    num_parts: int | None,
) -> None:
    """Writes into `draft` what is to be the corpus in `path`."""
    forgotten = tombstones.read(path) if path.is_dir() else Tombstones()
    left_out = {row["clip_id"] for row in tables["clips"] if len(forgotten) and forgotten.covers(row, video_root)}
    tables = {name: [row for row in rows if row["clip_id"] not in left_out] for name, rows in tables.items()}
    tables["clips"] = [row | {"twin_id": None} if row.get("twin_id") in left_out else row for row in tables["clips"]]
    if left_out and not tables["clips"]:
        raise M2raapError(
            f"{path}: every clip of the input was forgotten ({tombstones.FILE} lists them); import other clips"
        )
    benchmark = tombstones.benchmark_name(benchmark, len(left_out)) if benchmark else None
    num_parts = num_parts or default_num_parts(len(tables["clips"]))
    files: dict[str, str] = {}
    for table, rows in tables.items():
        parts: list[list[Row]] = [[] for _ in range(num_parts)]
        for row in rows:
            parts[part_of(row["clip_id"], num_parts)].append(row)
        for part, rows_of_part in enumerate(parts):
            if rows_of_part or table in ("clips", "texts"):
                files[part_key(table, part)] = write_part(draft, table, part, rows_of_part)
        if table == "clips" and signals[1] is not None:
            ids = [{row["clip_id"] for row in rows_of_part} for rows_of_part in parts]
            files |= write_signals(draft, signals[0], signals[1], ids, left_out)
    manifest: dict[str, Any] = {
        "kind": "corpus",
        "schema_version": SCHEMA_VERSION,
        "num_parts": num_parts,
        "video_root": os.path.relpath(video_root.resolve(), path.resolve()),
        "benchmark": benchmark,
        "counts": {"clips": len(tables["clips"]), "texts": len(tables["texts"])}
        | missing_counts(row["reason"] for row in tables["missing"])
        | ({"dropped": len(tables["dropped"])} if tables["dropped"] else {})
        | ({"forgotten": len(left_out)} if left_out else {}),
        "source": source,
        "files": files,
    }
    write_json(draft / "manifest.json", manifest | {"digest": digest_of(manifest)})


def missing_counts(reasons: Iterable[str]) -> dict[str, int]:
    """Number of clips whose video cannot be opened, by reason; missing_file always, also where it is 0."""
    return {"missing_file": 0} | dict(sorted(Counter(reasons).items()))


@contextmanager
def importing(path: Path) -> Iterator[None]:
    """A block in which an import may write `videos` and `split` into its folder, while the folder is locked for it.

    A marker file stays in the folder as long as these lie there without a manifest, so that the same import can go on after an
    interruption. Raises M2raapError for a folder that holds something other than a corpus, or videos that no import has put
    there, or that another command is writing.
    """
    with locked(path, written=_IMPORT_FOLDERS):
        _refuse_other(path)
        written = [path / name for name in _IMPORT_FOLDERS]
        if not any((path / name).exists() for name in (_IMPORTING, "manifest.json")) and any(map(Path.exists, written)):
            raise M2raapError(f"{path}: holds videos that no import has put there; give another folder for --out")
        write_atomic(path / _IMPORTING, b"")
        try:
            yield
        except BaseException:
            for folder in written:
                with suppress(OSError):  # not there, or not empty
                    folder.rmdir()
            if (path / "manifest.json").exists() or not any(map(Path.exists, written)):
                (path / _IMPORTING).unlink(missing_ok=True)
            raise
        (path / _IMPORTING).unlink(missing_ok=True)


def keep_out(path: Path, tombstone_files: Iterable[Path]) -> None:
    """Makes all later imports into the corpus folder `path` leave out the clips of these tombstone files (or corpus folders).

    Raises M2raapError for a file that holds no tombstones, and where `path` holds something other than a corpus.
    """
    others = [replace(row, was_here=False) for file in tombstone_files for row in tombstones.read(file).by_id.values()]
    with locked(path, written=(tombstones.FILE,)):
        _refuse_other(path)
        tombstones.write(path, Tombstones([*others, *tombstones.read(path).by_id.values()]))


def _refuse_other(path: Path) -> None:
    """Raises M2raapError where an import may not write: to a file, or into a folder that holds something other than a corpus."""
    if path.exists() and not path.is_dir():
        raise M2raapError(f"{path}: is a file; give a folder for --out")
    if not path.exists() or not any(child.name != LOCK_FILE for child in path.iterdir()):
        return
    manifest = path / "manifest.json"
    if not manifest.exists():
        if all(child.name in _CORPUS_NAMES for child in path.iterdir()):
            return  # an import that was interrupted
        raise M2raapError(f"{path}: is not empty and holds no m2raap corpus; give another folder for --out")
    if read_object(manifest).get("kind") != "corpus":
        raise M2raapError(f"{path}: holds the output of a stage, not a corpus; give another folder for --out")


def _check_rows(clips: list[Row], texts: list[Row]) -> None:
    if not clips:
        raise M2raapError("the corpus is empty: the input has no row with a video")
    ids: set[str] = set()
    for row in clips:
        if row["clip_id"] in ids:
            raise M2raapError(f"clip_id '{row['clip_id']}' is used twice; ids must be unique")
        ids.add(row["clip_id"])
        if row.get("split") not in SPLITS:
            raise M2raapError(f"clip '{row['clip_id']}': split '{row.get('split')}' is not one of {', '.join(SPLITS)}")
    text_ids: set[str] = set()
    for row in texts:
        if row["text_id"] in text_ids:
            raise M2raapError(f"text_id '{row['text_id']}' is used twice; ids must be unique")
        text_ids.add(row["text_id"])
        if row["clip_id"] not in ids:
            raise M2raapError(f"text '{row['text_id']}' belongs to clip '{row['clip_id']}', which is not in the corpus")
        if row["lang"] not in LANGS:
            raise M2raapError(f"text '{row['text_id']}': language '{row['lang']}' is not one of {', '.join(LANGS)}")


def open_corpus(path: Path, mid_forget: bool = False) -> Corpus:
    """Reads the manifest of a corpus. Raises M2raapError where it is absent, or of another schema version.

    A corpus in which a forget was interrupted is refused, too, unless `mid_forget`.
    """
    manifest = path / "manifest.json"
    if not manifest.exists():
        what = "an unfinished import" if path.is_dir() and any(path.glob("*/part-*")) else "no corpus"
        raise M2raapError(f"{path}: {what} (there is no manifest.json); run 'm2raap data import'")
    tree = read_object(manifest)
    if tree.get("kind") != "corpus":
        raise M2raapError(f"{path}: holds the output of stage '{str(tree.get('stage'))[:40]}'; give a corpus folder")
    if FORGETTING in tree and not mid_forget:
        raise M2raapError(f"{path}: 'm2raap data forget {path}' was interrupted; run that command again to finish it")
    if tree.get("schema_version") != SCHEMA_VERSION:
        raise M2raapError(
            f"{path}: its tables have schema {str(tree.get('schema_version'))[:40]}, but this m2raap reads {SCHEMA_VERSION}; "
            "import it again"
        )
    tree = read_manifest(path)
    if not {"clips", "texts"} <= tree["counts"].keys() or "\0" in tree["video_root"]:
        raise M2raapError(f"{manifest}: is damaged (its counts or its video folder); import the corpus again")
    return Corpus(
        path=path,
        num_parts=tree["num_parts"],
        stated_video_root=(path / tree["video_root"]).resolve(),
        digest=tree["digest"],
        benchmark=tree["benchmark"],
        counts=tree["counts"],
        source=tree["source"],
    )


def holdout(clips: list[Row], num_clips: int, seed: int) -> set[str]:
    """Ids of `num_clips` clips picked by a seeded hash of their ids, so that the pick does not depend on row order."""
    if not 0 < num_clips <= len(clips):
        raise M2raapError(f"--holdout {num_clips}: must be between 1 and {len(clips)}, the number of clips with texts")
    ids = [row["clip_id"] for row in clips]
    return set(sorted(ids, key=lambda i: hashlib.blake2b(f"{seed}:{i}".encode(), digest_size=16).digest())[:num_clips])
