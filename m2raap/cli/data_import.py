"""`data import`: writes a corpus from a published or own list, or from the synthetic world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from data_tools.formats import FORMATS, Format
from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption, WorkersOption
from m2raap.core.errors import UsageError

# Option of an importer -> the flag that sets it.
_FLAGS = {
    "video_dir": "--video-dir",
    "num_holdout": "--holdout",
    "protocol": "--protocol",
    "seed": "--seed",
    "assignments": "--set",
    "workers": "--workers",
}
_PROTOCOLS = "; ".join(f"{name}: {', '.join(form.protocols)}" for name, form in FORMATS.items() if form.protocols)


def register(app: typer.Typer) -> None:
    app.command("import", help="Write a corpus from a list or folder of others, or from the synthetic world.")(import_)


def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    out: Annotated[Path, typer.Option("--out", help="corpus folder to write")],
    source: Annotated[Path | None, typer.Argument(help="the list or folder to read; world takes none")] = None,
    video_dir: Annotated[Path | None, typer.Option("--video-dir", help="folder of the video files")] = None,
    holdout: Annotated[
        int | None, typer.Option("--holdout", min=1, help="number of clips to write as a benchmark, to OUT-holdout")
    ] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help=_PROTOCOLS)] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="seed of the val rows, the holdout or the world (default 0)")
    ] = None,
    tombstones: Annotated[
        list[Path] | None,
        typer.Option("--tombstones", help="corpora or files that list clips which were forgotten elsewhere"),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="set a key of world: train_clips=200, faults.mojibake=0.1 ..."),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    if kind not in FORMATS:
        raise UsageError(f"data import {kind}: formats are {', '.join(FORMATS)}")
    chosen = FORMATS[kind]
    if source is None and chosen.source is not None:
        raise UsageError(f"data import {kind}: give the source to read: {chosen.source}")
    if source is not None and chosen.source is None:
        raise UsageError(f"data import {kind}: takes no source; leave '{source}' out")
    values = {"video_dir": video_dir, "num_holdout": holdout, "protocol": protocol}
    values |= {"seed": seed, "assignments": assignments, "workers": workers}
    options = _options(kind, chosen, {name: value for name, value in values.items() if value is not None})
    if tombstones:
        from m2raap.core.corpus import keep_out

        holdouts = [out.with_name(f"{out.name}-holdout")] if holdout else []
        for corpus in (out / "train", out / "test") if kind == "world" else (out, *holdouts):
            keep_out(corpus, tombstones)
    corpora = chosen.load()(*([] if source is None else [source]), out, **options)
    rows = [
        {"corpus": str(corpus.path), "benchmark": corpus.benchmark, "counts": corpus.counts, "source": corpus.source}
        for corpus in corpora
    ]
    emit(rows, map(_line, rows), as_json)


def _options(kind: str, chosen: Format, options: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the importer. Raises UsageError for an option that the format does not take."""
    for name in options:
        if name not in chosen.options:
            known = ", ".join(_FLAGS[option] for option in chosen.options)
            raise UsageError(f"data import {kind}: takes no {_FLAGS[name]}; it takes {known}")
    if chosen.protocols:
        protocol = options.get("protocol", None if chosen.needs_protocol else chosen.protocols[0])
        if protocol not in chosen.protocols:
            refused = f"--protocol {protocol}: " if protocol else "give --protocol: "
            raise UsageError(f"data import {kind}: {refused}{kind} has {', '.join(chosen.protocols)}")
        options = options | {"protocol": protocol}
    if chosen.source is None:
        options = {"seed": 0, "assignments": [], "workers": None} | options
    return options


def _line(row: dict[str, Any]) -> str:
    kind = f"benchmark {row['benchmark']}" if row["benchmark"] else "training corpus"
    counts = ", ".join(f"{value:,} {name}" for name, value in row["counts"].items())
    details = ", ".join(f"{name}: {value}" for name, value in row["source"].items() if name != "importer")
    return f"{row['corpus']}: {kind}, {counts}" + (f" ({details})" if details else "")
