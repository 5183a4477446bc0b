"""Finds the video files that a list means where its names have no ending or another one, another case, or backslashes."""

from __future__ import annotations

import html
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path
from urllib.parse import unquote

from data_tools.rooted import SUFFIXES
from m2raap.core import talk
from m2raap.video.fetch import is_url

# Endings that a list may have where the file has one of SUFFIXES.
_MORE = (
    ".m2ts",
    ".mts",
    ".vob",
    ".f4v",
    ".asf",
    ".rm",
    ".rmvb",
    ".qt",
    ".divx",
    ".mpe",
    ".m2v",
    ".3g2",
    ".ogg",
    ".gif",
)
_ENDINGS = (*SUFFIXES, *_MORE)
_WHOLE = re.compile(r"(?<![^/])(\d+)\.0+(?=$|\.[A-Za-z]\w*$)")  # a number, as a whole name
_QUOTED = re.compile(r"""^(['"])(.+)\1$""")
_MAX_WALKED = 200_000  # entries below the root that are looked at to give advice about missing videos


def without_ending(name: str) -> str:
    """The name without the ending of a video; other endings stay, because names hold dots."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _ENDINGS else name


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class _Folder:
    """The entries of a folder, by name and by stem, exact and without regard to case."""

    def __init__(self, path: str) -> None:
        self.files: dict[tuple[str, str], list[str]] = {}
        self.folders: dict[str, list[str]] = {}
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except (OSError, ValueError):
            return
        for entry in entries:
            if os.path.isdir(entry.path):  # entry.is_dir() raises an error for a link in a circle
                self.folders.setdefault(_fold(entry.name), []).append(entry.name)
                continue
            keys = [("name", _fold(entry.name))]
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in SUFFIXES:
                keys += [("stem", stem), ("folded stem", _fold(stem))]
            for key in keys:
                self.files.setdefault(key, []).append(entry.name)


class Files:
    """The files below the video root of an import. Folders are listed only for names that are not there as they stand."""

    def __init__(self, root: Path) -> None:
        self._base = os.path.join(root.resolve(), "")
        self._folders: dict[str, _Folder] = {}
        self.several: dict[str, list[str]] = {}  # names that fit several files, with these files

    def holds(self, name: str) -> bool:
        """Whether there is something of this name that is no folder: beside `v1.mp4` there may be its frames, in `v1`."""
        path = self._base + name
        return bool(name) and "\0" not in name and os.path.lexists(path) and not os.path.isdir(path)

    def is_exact(self, name: str) -> bool:
        """Whether there is a file of this name, and the name is the shortest one of its path (no './a.mp4')."""
        return "//" not in name and "/./" not in f"/{name}" and self.holds(name)

    def locate(self, name: str, listed: Container[str] = ()) -> str:
        """The path below the root of the file that is meant; the name itself where no file or more than one is meant.

        Slashes, case and ending may differ, in this order; then names of web pages ('a%20b', 'a &amp; b'), whole numbers that
        a table kept as '7010.0' and names in quotes are read as what they mean. An absolute path below the root is one within
        it. A file that is in `listed` is that of another row, unless only the ending is left out in this one.
        """
        if self.is_exact(name):
            return name
        meant = unquote(name[7:]) if name.startswith("file:///") else name
        if meant.startswith(self._base):
            meant = meant[len(self._base) :]
        if is_url(meant) or meant.startswith(("/", "\\")) or meant[1:2] == ":":
            return name
        spellings = (meant, unquote(meant), html.unescape(meant), _WHOLE.sub(r"\1", meant), _QUOTED.sub(r"\2", meant))
        for spelling in dict.fromkeys(spellings):
            if (file := self._locate(spelling, listed)) is not None:
                return file
            if spelling in self.several:
                self.several[name] = self.several.pop(spelling)
                break
        return name

    def _locate(self, name: str, listed: Container[str]) -> str | None:
        """The one file that is meant, or None."""
        *folders, last = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [""]
        if ".." in folders or last in ("", ".."):
            return None
        path = ""
        for part in folders:
            fits = self._folder(path).folders.get(_fold(part), [])
            if part not in fits and len(fits) != 1:
                return None
            path += (part if part in fits else fits[0]) + "/"
        if self.holds(path + last):
            return path + last
        files = self._folder(path).files
        stem = without_ending(last)
        for key in (("name", _fold(last)), ("stem", stem), ("folded stem", _fold(stem))):
            fits = [path + file for file in files.get(key, [])]
            if key[0] != "name" and stem != last:
                fits = [fit for fit in fits if fit not in listed]
            if len(fits) == 1:
                return fits[0]
            if fits:
                self.several[name] = fits
                return None
        return None

    def _folder(self, path: str) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder(self._base + path)
        return self._folders[path]


def say_missing(root: Path, num_videos: int, missing: Iterable[str]) -> None:
    """Prints how many of the missing videos would be found, and how, or that all are missing. Nothing to say: no line."""
    missing = [name for name in dict.fromkeys(missing) if not is_url(name)]
    if not missing:
        return
    advice = _advice(root, missing)
    if advice or len(missing) == num_videos:
        number = "all" if len(missing) == num_videos else f"{len(missing):,}"
        first = f"{number} of {num_videos:,} videos are missing below {root}, the first is '{talk.one_line(missing[0][:80])}'"
        talk.log("; ".join([first, *(advice or ["give the folder of the videos with --video-dir"])]))


def _advice(root: Path, missing: list[str]) -> list[str]:
    files, advice = Files(root), []
    last_parts = {name: name.replace("\\", "/").rstrip("/").rpartition("/")[2] for name in missing}
    located = {name for name in missing if files.locate(name) != name}
    several = {name: fits for name, fits in files.several.items() if name not in located}
    if several:
        name, fits = next(iter(several.items()))
        some = ", ".join(map(talk.one_line, fits[:3]))
        advice.append(
            f"{len(several):,} fit several files ('{talk.one_line(name)}': {some}): write the ending in the list"
        )
    left = [name for name in missing if name not in several]
    if outside := [target for name in left if (target := _link_target(root, name))]:
        advice.append(
            f"{len(outside):,} are links out of it, the first to '{talk.one_line(outside[0][:200])}': give the folder of the "
            "files with --video-dir, or copy them"
        )
    if padded := _padded(root, left):
        advice.append(f"{padded:,} would be found with zeros before their number: write such ids as text")
    above = Files(root.resolve().parent)
    if num_above := sum(above.holds(above.locate(name)) for name in left if not os.path.isabs(name)):
        advice.append(f"{num_above:,} would be found with --video-dir {root.resolve().parent}")
        return advice
    is_flat = {name for name in left if (last := last_parts[name]) != name and files.holds(files.locate(last))}
    if is_flat:
        advice.append(
            f"{len(is_flat):,} would be found by the last part of their path: leave the folders out of the list"
        )
    folders = _folders_of(root, {_fold(without_ending(last_parts[name])) for name in left if name not in is_flat})
    if folders:
        (folder, count), *others = folders.most_common(3)
        advice.append(f"{count:,} would be found with --video-dir {root / folder}")
        advice += [f"{count:,} with --video-dir {root / folder}" for folder, count in others]
    return advice


def _link_target(root: Path, name: str) -> str | None:
    """The file outside the root that a name links to; None for every other name."""
    path = os.path.join(root, name)
    if "\0" in name or os.path.isabs(name) or not os.path.isfile(path):
        return None
    target = os.path.realpath(path)
    return None if target.startswith(os.path.join(root.resolve(), "")) else target


def _padded(root: Path, names: list[str]) -> int:
    """Number of the names that are a number, of which a file directly in the root has the same with zeros before it."""
    numbers = {stem for name in names if (stem := without_ending(name)).isdecimal()}
    if not numbers:
        return 0
    stems = {without_ending(name) for name in os.listdir(root)}
    return len(numbers & {stem.lstrip("0") for stem in stems if stem.startswith("0")})


def _folders_of(root: Path, stems: set[str]) -> Counter[str]:
    """Folder below the root -> number of video files in it whose stems are among these."""
    counts: Counter[str] = Counter()
    num_walked = 0
    for folder, _, names in os.walk(root):
        num_walked += len(names) + 1
        path = os.path.relpath(folder, root)
        if path != ".":
            fits = {_fold(stem) for stem, suffix in map(os.path.splitext, names) if suffix.lower() in SUFFIXES}
            if num := len(fits & stems):
                counts[path] += num
        if num_walked > _MAX_WALKED:
            break
    return counts
