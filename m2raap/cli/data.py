"""`data import`: from other people's lists, or from the synthetic world, to a corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.cli.options import JsonOption, SetOption, WorkersOption
from m2raap.core.errors import UsageError

if TYPE_CHECKING:
    from m2raap.core.corpus import Corpus

app = typer.Typer(help="Bring corpora in.", no_args_is_help=True, rich_markup_mode=None)
FORMATS = ("table", "msrvtt", "world")


@app.callback()
def _data() -> None:
    pass


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    out: Annotated[Path, typer.Option("--out", help="corpus folder to write")],
    source: Annotated[Path | None, typer.Argument(help="the list or folder to read; world needs none")] = None,
    video_dir: Annotated[Path | None, typer.Option("--video-dir", help="where the video files lie")] = None,
    holdout: Annotated[
        int | None, typer.Option("--holdout", min=1, help="table: cut a benchmark of N clips out, as OUT-holdout")
    ] = None,
    protocol: Annotated[str, typer.Option("--protocol", help="msrvtt: 1ka or full")] = "1ka",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    assignments: SetOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a corpus folder."""
    if kind not in FORMATS:
        raise UsageError(f"data import {kind}: formats are {', '.join(FORMATS)}")
    if (source is None) != (kind == "world"):
        raise UsageError(
            f"data import {kind}: " + ("needs no source" if kind == "world" else "give the list or folder to read")
        )
    if assignments and kind != "world":
        raise UsageError(f"data import {kind}: takes no --set")
    if kind == "world":
        from data_tools.world.importer import import_world

        made = import_world(out, seed=seed, assignments=assignments or [], workers=workers)
    elif kind == "msrvtt":
        from data_tools.msrvtt import import_msrvtt

        assert source is not None
        made = import_msrvtt(source, out, protocol=protocol, video_dir=video_dir)
    else:
        from data_tools.table import import_table

        assert source is not None
        made = import_table(source, out, video_dir=video_dir, num_holdout=holdout, seed=seed)
    _show(made, as_json)


def _show(made: list[Corpus], as_json: bool) -> None:
    rows = [
        {"corpus": str(corpus.path), "benchmark": corpus.benchmark, "counts": corpus.counts, "source": corpus.source}
        for corpus in made
    ]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        kind = f"benchmark {row['benchmark']}" if row["benchmark"] else "training corpus"
        counts = ", ".join(f"{value:,} {name}" for name, value in row["counts"].items())
        details = ", ".join(f"{name}: {value}" for name, value in row["source"].items() if name != "importer")
        typer.echo(f"{row['corpus']}: {kind}, {counts}" + (f" ({details})" if details else ""))
