"""The files that a manifest was signed over: where they lie, and whether they are still what they were."""

from __future__ import annotations

import os
from pathlib import Path

from m2raap.core.files import file_sha256
from m2raap.core.tables import part_name


def signed_path(folder: Path, key: str) -> Path:
    """The file that a key of a manifest's `files` means: 'texts/00003' is a part of a table, all else a path."""
    table, _, part = key.partition("/")
    return folder / table / part_name(int(part)) if part.isdigit() else folder / key


def verify_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Names of table parts whose bytes are not those that the manifest was signed over."""
    wrong = []
    for key, expected in sorted(files.items()):
        path = signed_path(folder, key)
        if not path.exists() or file_sha256(path) != expected:
            wrong.append(os.fspath(path))
    return wrong
