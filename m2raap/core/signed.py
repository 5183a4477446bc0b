"""Manifests, the files that they were signed over, and the reading of both, which checks digests.

What was deleted is not empty: a file that a manifest names has to exist with the bytes that it was signed over, and a file that
the manifest does not name is not read. Each file is hashed when a process first reads it.
"""

from __future__ import annotations

import copy
import os
import re
import stat
import time
import tokenize
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, inside, read_object
from m2raap.core.records import CorpusManifest, StageManifest, as_record

FORMAT = 3  # of stage folders; raised by one when their content, or the meaning of their digests, changes
FORGETTING = "forgetting"  # key of a corpus manifest while clips are being removed from its tables
# `view`: paths of the parents, which may move; `was`: written by older versions; `libraries`: another version of a library is
# no other stage.
_UNSIGNED = ("digest", "view", "was", "libraries")
_Stamp = tuple[int, int, int, int]
# What this process has read, by path; a file that was changed since has another stamp.
_manifests: dict[Path, tuple[_Stamp, dict[str, Any]]] = {}
_verified: dict[tuple[Path, str], _Stamp] = {}
# What numpy raises for a damaged file: its header is parsed as Python, and may state a negative or an impossible size.
NPY_ERRORS = (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError, tokenize.TokenError)
_FRESH_NS = 100_000_000  # a file this young may change again without another time stamp, so it is not remembered


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The digest that identifies a stage folder: over its manifest, without the keys of `_UNSIGNED`."""
    return digest({key: value for key, value in manifest.items() if key not in _UNSIGNED})


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The digest that the manifest of a corpus or a stage has to hold; that of a corpus is over the digests of its parts."""
    if manifest["kind"] == "corpus":
        content = {name: manifest[name] for name in ("files", "num_parts", "benchmark")}
        return digest(content | {"schema": manifest["schema_version"]})
    return manifest_digest(manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished corpus, stage or index: a CorpusManifest or a StageManifest.

    Raises M2raapError where it is absent, has another shape, or differs from its own digest.
    """
    return copy.deepcopy(_manifest(folder))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    stamp = _stamp(path)
    if stamp and (known := _manifests.get(path)) and known[0] == stamp:
        return known[1]
    tree = read_object(path)
    kind: Any = CorpusManifest if tree.get("kind") == "corpus" else StageManifest
    manifest = cast(dict[str, Any], as_record(kind, tree, path))
    # While clips are removed from a corpus its parts change, and the digest follows.
    if FORGETTING not in manifest and manifest["digest"] != digest_of(manifest):
        raise M2raapError(
            f"{path}: was changed after it was signed (its digest is another one); copy the folder again, or make it again: a "
            "stage with --force"
        )
    if stamp and _is_old(stamp):
        _manifests[path] = (stamp, manifest)
    return manifest


def stage_manifest(folder: Path) -> StageManifest:
    """The manifest of a finished stage folder. Raises M2raapError as `read_manifest`, and where its format is another one."""
    path = folder / "manifest.json"
    refuse_old_format(read_object(path), folder)
    return as_record(StageManifest, read_manifest(folder), path)


def is_finished(folder: Path) -> bool:
    """Whether a stage folder is finished, in the format that this m2raap reads."""
    manifest = folder / "manifest.json"
    return manifest.exists() and read_object(manifest).get("format") == FORMAT


def refuse_old_format(tree: Mapping[str, Any], folder: Path) -> None:
    """Raises M2raapError where the plan or manifest of a stage is of another format than this m2raap writes."""
    if tree.get("format") != FORMAT:
        raise M2raapError(
            f"{folder}: is a stage folder of format {tree.get('format', 2)}, and this m2raap reads format {FORMAT}; run the "
            "stage again with --force, or give another --out"
        )


def part_name(part: int) -> str:
    """The file name of a part of a table."""
    return f"part-{part:05d}.parquet"


def part_key(table: str, part: int) -> str:
    """The key of a part of a table in a manifest's `files`."""
    return f"{table}/{part:05d}"


_PART = re.compile(r"(\w{1,40})/([0-9]{5,7})", re.ASCII)


def signed_path(folder: Path, key: str) -> Path:
    """The file that a key of a manifest's `files` means: 'texts/00003' is a part of a table, all else a path.

    Raises M2raapError for one that does not lie in `folder`.
    """
    part = _PART.fullmatch(key)
    return inside(folder, f"{part[1]}/{part_name(int(part[2]))}" if part else key)


def signed_parts(folder: Path, table: str) -> list[int] | None:
    """The numbers of the parts of a table that a folder's manifest names, in their order; None for a folder without manifest."""
    files = _files(folder)
    if files is None:
        return None
    parts = (_PART.fullmatch(key) for key in files)
    return sorted(int(part[2]) for part in parts if part and part[1] == table)


def named_files(folder: Path, pattern: str) -> list[str]:
    """The files that a folder's manifest names, or those in a folder without manifest, whose names match `pattern` (fnmatch)."""
    files = _files(folder)
    return sorted(name for name in (os.listdir(folder) if files is None else files) if fnmatchcase(name, pattern))


def _files(folder: Path) -> Mapping[str, str] | None:
    """`files` of a folder's manifest; None where it is unfinished, or clips are being removed from it."""
    if not (folder / "manifest.json").exists():
        return None
    manifest = _manifest(folder)
    return None if FORGETTING in manifest else manifest["files"]


def verified_path(folder: Path, key: str, files: Mapping[str, str] | None = None) -> Path | None:
    """The file that a key of a manifest means, with the bytes that the manifest was signed over.

    `files`: digests that count instead of the manifest's. None for a file that the manifest does not name, or that is absent in
    a folder without manifest. Raises M2raapError for a file that is absent, has other bytes, or lies outside of `folder`.
    """
    path = signed_path(folder, key)
    files = _files(folder) if files is None else files
    if files is None:
        return path if path.exists() else None
    if key not in files:
        return None
    if not is_as_signed(path, files[key]):
        raise M2raapError(
            f"{path}: is missing or differs from its digest in the manifest; 'm2raap status {folder} --verify' lists all such "
            "files; copy the folder again, or make it again: a stage with --force"
        )
    return path


def named_path(folder: Path, key: str) -> Path | None:
    """As `verified_path`, without reading the file: for pictures, of which single groups are read and which a checksum of
    their own protects. Raises M2raapError for a file that is absent, or lies outside of `folder`.
    """
    path = signed_path(folder, key)
    files = _files(folder)
    if files is None:
        return path if path.exists() else None
    if key not in files:
        return None
    if _stamp(path) is None:
        raise M2raapError(
            f"{path}: is missing; 'm2raap status {folder} --verify' lists all such files; copy the folder again, or make it "
            "again: a stage with --force"
        )
    return path


def refuse_changed_file(folder: Path, name: str) -> Path:
    """`folder`/`name`, checked as in `verified_path` where the folder has a manifest. Raises M2raapError where it is absent."""
    path = verified_path(folder, name)
    if path is None:
        path = inside(folder, name)
        if (folder / "manifest.json").exists():
            raise M2raapError(f"{path}: the manifest of its folder does not name this file; make the folder again")
        raise M2raapError(f"{path}: no such file")
    return path


def is_as_signed(path: Path, expected: str) -> bool:
    """Whether a path is a regular file with this SHA-256. A file that this process has hashed is not read again."""
    stamp = _stamp(path)
    if stamp is None:
        return False
    if _verified.get((path, expected)) == stamp:
        return True
    is_same = _has_digest(path, expected)
    if is_same and _is_old(stamp):
        _verified[path, expected] = stamp
    return is_same


def _has_digest(path: Path, expected: str) -> bool:
    try:
        return file_sha256(path) == expected
    except OSError:  # such as that it may not be read
        return False


def _stamp(path: Path) -> _Stamp | None:
    """What changes with every other content of a regular file; None for anything else."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns) if stat.S_ISREG(info.st_mode) else None


def _is_old(stamp: _Stamp) -> bool:
    return time.time_ns() - max(stamp[2:]) > _FRESH_NS


def absent_files(folder: Path) -> list[Path]:
    """Files that a folder's manifest names and that do not exist, without reading any other file."""
    paths = [signed_path(folder, key) for key in sorted(_files(folder) or {})]
    return [path for path in paths if _stamp(path) is None]


def verify_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Names of files whose bytes are not those that the manifest was signed over, or that are no regular files. Each is read."""
    paths = [(signed_path(folder, key), expected) for key, expected in sorted(files.items())]
    return [str(path) for path, expected in paths if _stamp(path) is None or not _has_digest(path, expected)]
