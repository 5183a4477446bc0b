"""Manifests of stage folders: their format, the files that they were signed over, and whether these are still the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, inside, read_object
from m2raap.core.tables import part_name

FORMAT = 3  # of stage folders; raised by one when their content, or the meaning of their digests, changes


def stage_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage folder. Raises M2raapError where its format is another one."""
    manifest = read_object(folder / "manifest.json")
    refuse_old_format(manifest, folder)
    return manifest


def is_finished(folder: Path) -> bool:
    """Whether a stage folder is finished, in the format that this m2raap reads."""
    manifest = folder / "manifest.json"
    return manifest.exists() and read_object(manifest).get("format") == FORMAT


def refuse_old_format(tree: dict[str, Any], folder: Path) -> None:
    """Raises M2raapError where the plan or manifest of a stage is of another format than this m2raap writes."""
    if tree.get("format") != FORMAT:
        raise M2raapError(
            f"{folder}: is a stage folder of format {tree.get('format', 2)}, and this m2raap reads format {FORMAT}; run the "
            "stage again with --force, or give another --out"
        )


def signed_path(folder: Path, key: str) -> Path:
    """The file that a key of a manifest's `files` means: 'texts/00003' is a part of a table, all else a path.

    Raises M2raapError for one that does not lie in `folder`.
    """
    part = re.fullmatch(r"(\w+)/([0-9]+)", key, re.ASCII)
    return inside(folder, f"{part[1]}/{part_name(int(part[2]))}" if part else key)


def verify_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Names of files whose bytes are not those that the manifest was signed over, or that are no regular files."""
    wrong = []
    for key, expected in sorted(files.items()):
        path = signed_path(folder, key)
        if not path.is_file() or file_sha256(path) != expected:
            wrong.append(os.fspath(path))
    return wrong
