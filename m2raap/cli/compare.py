"""`compare`: two runs, their paired difference, published rows beside them, gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command(
        "compare", help="Set two runs beside each other; unlike protocols are refused. Gates end in exit code 4."
    )(compare)


def compare(
    a: Annotated[Path, typer.Argument(help="a run, one arm's folder in it, or an evaluate folder")],
    b: Annotated[Path | None, typer.Argument(help="what to compare it with; none: only a's rows and its gates")] = None,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table (booktabs)")] = False,
    intersect: Annotated[
        bool, typer.Option("--intersect", help="score both again on the clips and texts that both have")
    ] = False,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="a field of the protocol card that may differ; it is said so")
    ] = None,
    min_r1: Annotated[
        float | None, typer.Option("--min-r1", min=0, max=100, help="gate: least text-to-video R@1 of A, in percent")
    ] = None,
    no_worse_than: Annotated[
        Path | None, typer.Option("--no-worse-than", metavar="RUN", help="gate: A's R@1 is not surely below this run's")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the bootstrap")] = 0,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.errors import GateFailed
    from m2raap.report.comparison import as_latex, print_comparison
    from m2raap.stages.showing.compare import alone, failed_gates, open_contender
    from m2raap.stages.showing.compare import compare as compare_them

    ours = open_contender(a)
    found = (
        compare_them(ours, open_contender(b), intersect=intersect, allow=allow or (), seed=seed)
        if b
        else alone(ours, seed)
    )
    against: dict[str, Any] | None = None
    if no_worse_than is not None:
        other = open_contender(no_worse_than)
        against = compare_them(ours, other, intersect=intersect, allow=allow or (), seed=seed)
    failed = failed_gates(found, min_r1, against)
    if as_json:
        typer.echo(json.dumps(found | {"failed_gates": failed}, ensure_ascii=False, sort_keys=True))
    elif latex:
        typer.echo(as_latex(found))
    else:
        print_comparison(found)
    if failed:
        raise GateFailed("gate failed: " + "; ".join(failed))
