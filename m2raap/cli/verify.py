"""`verify`: a run beside what was published for its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.model import show
from m2raap.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    app.command("verify", help="Does a zero-shot run with real weights find what was published for them?")(verify)


def verify(
    run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")],
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="TAG", help="which published weights a file holds, e.g. openai")
    ] = None,
    within: Annotated[
        float | None, typer.Option("--within", min=0, help="points; a larger difference is exit code 4")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.verify import verify as compare
    from m2raap.report.verify import verify_lines

    found = compare(RunFolder.open(run), weights, within)
    show(found, verify_lines(found), as_json)
