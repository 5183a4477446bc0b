"""`forget`: take clips out of everything that was made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.data_export import exporters
from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command("forget", help="Remove clips from corpora, stage folders, embeddings, caches, reports and exports.")(
        forget
    )


def forget(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="corpora, what was made from them (runs, exports), and files of your own scores: all that is to change",
        ),
    ],
    ids: Annotated[
        Path | None,
        typer.Option("--ids", help="file with a clip id a line; none: what the corpora have forgotten before"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.forget import forget as forget_clips
    from m2raap.export.forget import read_ids

    done = forget_clips(folders, read_ids(ids) if ids else [], exporters())
    typer.echo(json.dumps(done, ensure_ascii=False, sort_keys=True) if as_json else "\n".join(_tell(done)))


def _tell(done: dict[str, Any]) -> list[str]:
    lines = [
        f"forgotten: {done['clips']} clips"
        + (f"; {done['not_found']} ids are in none of them" if done["not_found"] else "")
    ]
    lines += [f"  {count:>6} left {folder}" for folder, count in done["folders"].items()]
    for checkpoint in done["checkpoints"]:
        counts = ", ".join(f"{n} {split}" for split, n in checkpoint["clips"].items())
        lines.append(
            f"still knows them: {checkpoint['model']} (digest {checkpoint['digest']}) was made with {counts} clips"
        )
    lines += [f"removed whole, make it again: {folder}" for folder in done["removed_whole"]]
    lines += [f"still names them, yours to edit: {path}" for path in done["still_named_in"]]
    lines += [f"the video file is still there: {path}" for path in done["video_files_left"]]
    return lines
