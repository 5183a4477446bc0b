"""`batch export | import`: what an endpoint would be asked as OpenAI Batch JSONL, and the answers back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from m2raap.cli.options import JsonOption

app = typer.Typer(no_args_is_help=True, help="Ask models by file: OpenAI Batch JSONL, also for 'vllm run-batch'.")


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="batch")


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="the --out of 'm2raap run'")]


@app.command("export", help="Write what a stage of a run still has to ask; nothing is sent.")
def export(
    run: RunArgument,
    stage: Annotated[Literal["rewrite", "caption"], typer.Option("--stage", help="whose requests")],
    out: Annotated[Path, typer.Option("--out", help="the file to write")],
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.llm_requests import export as write

    number, arms = write(run, stage, out)
    if as_json:
        typer.echo(json.dumps({"requests": number, "arms": arms, "file": str(out)}))
    else:
        typer.echo(f"{out}: {number} requests of {', '.join(arms)}; bring the answers back with 'm2raap batch import'")


@app.command(
    "import", help="Put answers into a run's cache; the same run command then uses them and sends nothing twice."
)
def import_(
    run: RunArgument,
    answers: Annotated[Path, typer.Argument(metavar="ANSWERS.jsonl", help="the provider's output file")],
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.llm_requests import take_in

    found = take_in(run, answers)
    if as_json:
        typer.echo(json.dumps(found._asdict()))
        return
    typer.echo(
        f"{found.answers} answers taken in, {found.failed} that failed, {found.unknown} that this run never asked for"
    )
