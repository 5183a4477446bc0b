"""Fails where the root of the repository holds a file or folder that is not one of ROOT_NAMES: `python tests/root_files.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOT_NAMES = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "README.zh.md", "bench", "data_tools", "docs",
    "m2raap", "pyproject.toml", "recipes", "tests",
}  # fmt: skip


def stray_names(root: Path = ROOT) -> set[str] | None:
    """Names at the root of the repository that git tracks and ROOT_NAMES lacks; None where there is no git or no repository."""
    try:
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    if top.returncode or files.returncode or Path(top.stdout.strip()).resolve() != root.resolve():
        return None
    return {name.partition("/")[0] for name in files.stdout.split("\0") if name} - ROOT_NAMES


if __name__ == "__main__":
    if names := stray_names():
        sys.exit(
            f"the repository's root holds {', '.join(sorted(names))}; remove it, or list it in {Path(__file__).name}"
        )
