"""Decisions of this user on this machine, kept in the user's state folder and never in a corpus or a run: such a folder may come
from somebody else.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from typing_extensions import TypedDict

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json
from m2raap.core.records import Digests, read_record

VIDEO_ROOTS = "M2RAAP_VIDEO_ROOTS"


def state_folder(kind: str) -> Path:
    """$XDG_STATE_HOME/m2raap/KIND, or ~/.local/state/m2raap/KIND. Raises M2raapError for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "m2raap" / kind
    try:
        return Path.home() / ".local" / "state" / "m2raap" / kind
    except RuntimeError:
        raise M2raapError("this user has no home folder; set XDG_STATE_HOME to a folder of your own") from None


def state_file(kind: str, *about: Path) -> Path:
    """The file of the state folder that holds the state of a kind for these paths."""
    names = os.fsencode("\0".join(map(os.fspath, about)))
    return state_folder(kind) / f"{hashlib.sha256(names).hexdigest()[:32]}.json"


def _record(corpus: Path, video_root: Path) -> Path:
    return state_file("video-roots", corpus.resolve(), video_root.resolve())


def _is_allowed(corpus: Path, root: Path) -> bool:
    """Whether a folder lies inside the corpus, or below one of the environment's M2RAAP_VIDEO_ROOTS."""
    named = [Path(name).resolve() for name in os.environ.get(VIDEO_ROOTS, "").split(os.pathsep) if os.path.isabs(name)]
    return any(root.is_relative_to(folder) for folder in (corpus.resolve(), *named))


def remember_video_root(corpus: Path, video_root: Path) -> None:
    """Records that this user imported `corpus` from videos below `video_root`, unless that folder is allowed without a record."""
    root = video_root.resolve()
    if _is_allowed(corpus, root):
        return
    paths = {"corpus": str(corpus.resolve()), "video_root": str(root)}
    try:
        write_json(
            _record(corpus, root), {name: path.encode("utf-8", "replace").decode() for name, path in paths.items()}
        )
    except M2raapError as error:  # the corpus is complete without the record
        talk.log(
            f"{corpus}: your import of it could not be recorded ({error}); set {VIDEO_ROOTS}={root} to read its videos"
        )


def allowed_video_root(corpus: Path, video_root: Path) -> Path:
    """The real path of `video_root`, where it is allowed for this corpus.

    Allowed are a folder inside the corpus, the folder from which this user imported it, and all below a folder of the variable
    M2RAAP_VIDEO_ROOTS (several with ':' between them). Raises M2raapError for any other: the corpus of somebody else could name
    any folder of this machine, and its files would be decoded, exported and served as videos.
    """
    root = video_root.resolve()
    if _is_allowed(corpus, root) or _record(corpus, root).is_file():
        return root
    if not root.exists():
        raise M2raapError(
            f"{corpus}: its manifest names the video folder {root}, which is not there; import the list again into this folder "
            "with --video-dir (runs made from the same list stay valid)"
        )
    raise M2raapError(
        f"{corpus}: its manifest names the video folder {root}, which is outside the corpus, and you have not imported it from "
        f"there on this machine; if you trust this corpus, set {VIDEO_ROOTS}={root}"
    )


class _RunRecord(TypedDict):
    run: str


class _RunJson(TypedDict):
    """What `runs_of` reads of run.json: the digests of the corpora of a run, by benchmark."""

    digests: Digests


def remember_run(corpus: Path, run: Path) -> None:
    """Records that the run in the folder `run` reads `corpus`, so that an import over the corpus can name the run."""
    paths = {"corpus": str(corpus.resolve()), "run": str(run.resolve())}
    with suppress(M2raapError, UnicodeError):  # a run needs no record: without one it is not named
        record = _runs(corpus) / state_file("run", run.resolve()).name
        if not record.exists():
            write_json(record, paths)


def runs_of(corpus: Path, digest: str) -> list[Path]:
    """The runs of this user on this machine that read `corpus` when it had this digest, as far as they are recorded."""
    try:
        records = sorted(_runs(corpus).glob("*.json"))
    except M2raapError:  # a user without a state folder has no records
        return []
    runs = []
    for record in records:
        with suppress(M2raapError, ValueError):  # a damaged record, or a run that is no longer there
            run = Path(read_record(_RunRecord, record)["run"])
            if digest in read_record(_RunJson, run / "run.json")["digests"].values():
                runs.append(run)
    return runs


def _runs(corpus: Path) -> Path:
    return state_file("runs", corpus.resolve()).with_suffix("")
