"""`forget`: take clips out of a corpus for good, and name what was made from them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command("forget", help="Remove clips from corpora for good, and name what was made from them.")(forget)


def forget(
    corpora: Annotated[list[Path], typer.Argument(metavar="CORPUS...", help="corpora that the clips leave")],
    clips: Annotated[list[str] | None, typer.Option("--clip", metavar="ID", help="id of a clip; repeatable")] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            help="file with a clip id a line; without ids, what the corpora have forgotten before is looked for",
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            metavar="FOLDER",
            help="what was made from the corpora (run, stage, export, index): its caches are pruned, and what in it still "
            "holds the clips is named; repeatable",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="why, kept beside the hashes in tombstones.json")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.forget import forget as forget_clips
    from m2raap.export.forget import read_ids

    summary = forget_clips(corpora, [*(clips or ()), *(read_ids(ids) if ids else ())], runs or (), reason)
    emit(summary, _lines(summary), as_json)


_TO_DO = {
    "stages": "still holds them, 'm2raap run' with --force makes it again",
    "models": "was trained with them and stays as it is until it is trained again",
    "indexes": "still holds them, 'm2raap search index --add' brings it up to date",
    "exports": "still holds them, export again into a new folder",
    "corpora": "still holds them, give it to forget, too",
    "files": "still holds them or cannot be looked into, yours to edit",
}


def _lines(summary: dict[str, Any]) -> list[str]:
    unknown = f"; {summary['not_found']} ids are in none of the corpora" if summary["not_found"] else ""
    lines = [f"forgotten: {summary['clips']} clips{unknown}"]
    lines += [f"  {count:>6} left {corpus}" for corpus, count in summary["corpora"].items()]
    lines += [f"pruned: {path}" for path in summary["pruned"]]
    lines += [f"{_TO_DO[place]}: {path}" for place, paths in summary["left_in"].items() for path in paths]
    lines += [f"the video file is still there: {shlex.quote(path)}" for path in summary["video_files_left"]]
    return lines
