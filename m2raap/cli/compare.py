"""`compare`: two runs, their paired difference, published rows beside them, thresholds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command(
        "compare",
        help="Set two runs beside each other; unlike protocols are refused. A missed threshold ends in exit code 4.",
    )(compare)


def compare(
    a: Annotated[Path, typer.Argument(help="a run, one arm's folder in it, or an evaluate folder")],
    b: Annotated[
        Path | None, typer.Argument(help="what to compare it with; none: only a's rows and its thresholds")
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table (booktabs)")] = False,
    intersect: Annotated[
        bool, typer.Option("--intersect", help="score both again on the clips and texts that both have")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="a field of the protocol card that may differ; the output says so"),
    ] = None,
    min_r1: Annotated[
        float | None,
        typer.Option(
            "--min-r1",
            min=0,
            max=100,
            help="threshold: least official text-to-video R@1 of A on each of its benchmarks",
        ),
    ] = None,
    no_worse_than: Annotated[
        Path | None,
        typer.Option(
            "--no-worse-than",
            metavar="RUN",
            help="threshold: A's official R@1 is not surely below this run's, on all it has",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the bootstrap")] = 0,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.errors import ThresholdNotMet, UsageError
    from m2raap.report.compare import alone, failed_thresholds
    from m2raap.report.compare import compare as compare_them
    from m2raap.report.comparison import as_latex, print_comparison
    from m2raap.report.contenders import open_contenders

    if intersect and b is None:
        raise UsageError("compare: --intersect needs a second run; a threshold is always on official rows")
    ours, *others = open_contenders([path for path in (a, b, no_worse_than) if path is not None])
    allowed = allow or ()
    # A threshold is on official rows: on the clips that both have, a run that lost half of its videos would pass.
    official = alone(ours, seed, allowed) if b is None or min_r1 is not None else None
    found = official if b is None else compare_them(ours, others[0], intersect=intersect, allow=allowed, seed=seed)
    assert found is not None
    against: dict[str, Any] | None = None
    if no_worse_than is not None:
        against = compare_them(ours, others[-1], allow=allowed, seed=seed)
    failed = failed_thresholds(official or found, min_r1, against)
    if as_json:
        typer.echo(json.dumps(found | {"failed_thresholds": failed}, ensure_ascii=False, sort_keys=True))
    elif latex:
        typer.echo(as_latex(found))
    else:
        print_comparison(found)
    if failed:
        raise ThresholdNotMet("threshold not met: " + "; ".join(failed))
