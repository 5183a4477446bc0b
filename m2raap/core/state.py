"""What this user has decided on this machine, kept in the user's state folder: nothing that travels with a corpus or a run
counts as a decision of the user.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from m2raap.core import talk
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json

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
    """Where this user's state of a kind is kept about one or several paths."""
    names = os.fsencode("\0".join(map(os.fspath, about)))
    return state_folder(kind) / f"{hashlib.sha256(names).hexdigest()[:32]}.json"


def _record(corpus: Path, video_root: Path) -> Path:
    return state_file("video-roots", corpus.resolve(), video_root.resolve())


def _is_allowed(corpus: Path, root: Path) -> bool:
    """Whether a folder lies inside the corpus, or below one of the environment's M2RAAP_VIDEO_ROOTS."""
    named = [Path(name).resolve() for name in os.environ.get(VIDEO_ROOTS, "").split(os.pathsep) if os.path.isabs(name)]
    return any(root.is_relative_to(folder) for folder in (corpus.resolve(), *named))


def remember_video_root(corpus: Path, video_root: Path) -> None:
    """Notes that this user imported `corpus` from videos below `video_root`. Where it is allowed anyway it needs no note."""
    root = video_root.resolve()
    if _is_allowed(corpus, root):
        return
    paths = {"corpus": str(corpus.resolve()), "video_root": str(root)}
    try:
        write_json(
            _record(corpus, root), {name: path.encode("utf-8", "replace").decode() for name, path in paths.items()}
        )
    except M2raapError as error:  # the corpus is whole all the same
        talk.log(
            f"{corpus}: that you imported it cannot be noted ({error}); set {VIDEO_ROOTS}={root} to read its videos"
        )


def believe_video_root(corpus: Path, video_root: Path) -> Path:
    """The real `video_root`, where a corpus may say that its videos lie.

    That is: inside the corpus, where this user imported it from, or below a folder of the environment's M2RAAP_VIDEO_ROOTS
    (several with ':' between them). Raises M2raapError for every other one: a corpus of somebody else could name any folder
    of this machine, and its files would be decoded, exported and served as videos.
    """
    root = video_root.resolve()
    if _is_allowed(corpus, root) or _record(corpus, root).is_file():
        return root
    raise M2raapError(
        f"{corpus}: says that its videos lie in {root}, outside of it, and you have not imported it from there on this "
        f"machine; if you trust the corpus with that folder, set {VIDEO_ROOTS}={root}"
    )
