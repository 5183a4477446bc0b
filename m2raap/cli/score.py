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
    compat: Annotated[
        bool,
        typer.Option("--compat", help="also print what CLIP4Clip's arithmetic makes of it, ties counted several times"),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    from m2raap.retrieval.score import score_matrix

    found = score_matrix(matrix, pairs, compat)
    if as_json:
        typer.echo(json.dumps(found))
        return
    tables = {name: found[name] for name in ("t2v", "v2t", "v2t_rule_b") if name in found}
    tables |= {f"compat {name}": found["compat"][name] for name in ("t2v", "v2t") if compat}
    for direction, table in tables.items():
        bounds = {
            name: f" ({lo:.2f}-{hi:.2f})" for name, (lo, hi) in table.get("intervals", {}).items() if name == "R@1"
        }
        numbers = [
            f"{name} {value:.2f}{bounds.get(name, '')}"
            for name, value in table.items()
            if isinstance(value, int | float)
        ]
        typer.echo(f"{direction}  {'  '.join(numbers)}")
    typer.echo(f"R@k, MdR, MnR, MRR: {found['tie_policy']}")
    typer.echo(f"in brackets: {found['intervals']}")
    if compat:
        typer.echo(f"compat: {found['compat']['label']}")
