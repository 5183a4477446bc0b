"""`score`: ranks of any similarity matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command("score", help="Rank any similarity matrix: rows are texts, columns are videos.")(score)


def score(
    matrix: Annotated[Path, typer.Argument(metavar="SIM.npy", help="similarities, texts x videos")],
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="csv with the columns text,video; default: the diagonal")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.retrieval.score import score_matrix

    found = score_matrix(matrix, pairs)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for direction in ("t2v", "v2t"):
        numbers = "  ".join(
            f"{name} {value:.2f}" for name, value in found[direction].items() if isinstance(value, int | float)
        )
        typer.echo(f"{direction}  {numbers}")
