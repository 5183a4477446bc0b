"""`audit` and `card`: what people judge, and what people read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption
from m2raap.core.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command(
        "audit", help="Draw a blind sheet of dropped and kept texts and clips to label, or judge a labelled one."
    )(audit)
    app.command("card", help="Write a dataset card from the ledger of a run.")(card)


def audit(
    run: Annotated[Path, typer.Argument(help="a run, or the folder of its last data stage")],
    out: Annotated[Path | None, typer.Option("--out", help="sheet to write, a csv; its key goes beside it")] = None,
    per_reason: Annotated[int, typer.Option("--per-reason", min=1, help="rows of each reason, and as many kept")] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the draw")] = 0,
    labelled: Annotated[Path | None, typer.Option("--labelled", help="a sheet with its label column filled in")] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.audit import draw_sheet, judge_sheet

    if (out is None) == (labelled is None):
        raise UsageError("audit: give --out SHEET.csv to draw a sheet, or --labelled SHEET.csv to judge one")
    if out is not None:
        drawn = draw_sheet(run, out, per_reason, seed)
        counts = ", ".join(f"{count} {reason}" for reason, count in drawn["rows"].items())
        typer.echo(json.dumps(drawn) if as_json else f"{out}: fill in the column 'label' with keep or drop ({counts})")
        return
    assert labelled is not None
    found = judge_sheet(run, labelled)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    typer.echo(f"{'reason':<20} {'labelled':>8} {'wrong':>6} {'rate':>7}  95% interval")
    for row in found["reasons"]:
        low, high = row["interval"]
        typer.echo(
            f"{row['reason']:<20} {row['labelled']:>8} {row['wrong']:>6} {row['rate']:>7.1%}  {low:.1%} to {high:.1%}"
        )
    kept = found["kept"]
    if kept["labelled"]:
        low, high = kept["interval"]
        agreed = (
            f"{kept['agreed']} of {kept['labelled']} kept rows are good ({kept['rate']:.1%}, {low:.1%} to {high:.1%})"
        )
        typer.echo(agreed)
    if found["unlabelled"]:
        typer.echo(f"{found['unlabelled']} rows have no label and are not counted")


def card(
    run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")],
    out: Annotated[Path | None, typer.Option("--out", help="file to write; default: print it")] = None,
) -> None:
    from m2raap.core.files import write_atomic
    from m2raap.export.card import dataset_card

    text = dataset_card(run)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
        typer.echo(f"{out}: written")
