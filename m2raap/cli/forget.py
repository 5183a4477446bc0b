"""`data forget`: remove clips from corpora permanently, and list what was made from them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption
from m2raap.core.errors import M2raapError


def register(app: typer.Typer) -> None:
    app.command("forget", help="Remove clips from corpora permanently, and list what was made from them.")(forget)


def forget(
    corpora: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="corpora to remove the clips from")],
    clips: Annotated[list[str] | None, typer.Option("--clip", metavar="ID", help="id of a clip; repeatable")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            help="file with one clip id per line; without ids, clips that were removed before are searched for",
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            metavar="FOLDER",
            help="folder made from the corpora (run, stage, export, index): the clips are deleted from its caches, and what "
            "else in it contains them is listed; repeatable",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="reason to note beside the hashes in tombstones.json")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.forget import forget as forget_clips
    from m2raap.export.forget import read_ids

    requested_ids = {*(clips or ()), *(read_ids(ids) if ids else ())}
    summary = forget_clips(corpora, requested_ids, runs or (), reason)
    emit(summary, _lines(summary), as_json)
    if requested_ids and len(summary["not_found"]) == len(requested_ids):
        raise M2raapError(
            "no clip was removed: none of the ids is or was in the corpora; give clip ids, not file names"
        )


_TO_DO = {
    "stages": "still contains the clips; make it again with 'm2raap run' and --force",
    "models": "was trained with the clips and does not change until it is trained again",
    "indexes": "still contains the clips; remove them with 'm2raap search index --remove IDS', or make it again",
    "exports": "still contains the clips; export again into a new folder",
    "corpora": "still contains the clips; name it as a CORPUS of 'm2raap data forget' too",
    "files": "still contains the clips or cannot be read; edit or delete it yourself",
}


def _lines(summary: dict[str, Any]) -> list[str]:
    lines = [f"forgotten: {summary['clips']} clips"]
    lines += [f"no clip of this id is or was in the corpora: {clip_id}" for clip_id in summary["not_found"]]
    lines += [f"  {count:>6} removed from {corpus}" for corpus, count in summary["corpora"].items()]
    lines += [f"deleted the clips from the cache, or deleted: {path}" for path in summary["pruned"]]
    lines += [f"{_TO_DO[place]}: {path}" for place, paths in summary["left_in"].items() for path in paths]
    lines += [f"the video file still exists: {shlex.quote(path)}" for path in summary["video_files_left"]]
    return lines
