"""The files that a manifest names with their digests: where they lie, and whether their bytes still have those digests."""

from __future__ import annotations

import os
import re
from pathlib import Path

from m2raap.core.files import file_sha256, inside
from m2raap.core.tables import part_name


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
