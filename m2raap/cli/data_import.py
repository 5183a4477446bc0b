"""`data import`: a corpus from a list of clips in one of many formats, or the synthetic world as a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from data_tools.formats import FORMATS, Format
from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption, ReplaceOption, WorkersOption
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
# Keys of a corpus's source that its line gives in other words, or that a line before it names.
_ELSEWHERE = ("importer", "langs", "columns_not_read", "lists_not_read")
_PROTOCOLS = "; ".join(f"{name}: {', '.join(form.protocols)}" for name, form in FORMATS.items() if form.protocols)


def register(app: typer.Typer) -> None:
    app.command("import", help="Write a corpus from a list of clips, a published data set, or the synthetic world.")(
        import_
    )


def import_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    out: Annotated[Path, typer.Option("--out", help="corpus folder to write")],
    source: Annotated[Path | None, typer.Argument(help="the list or folder to read; none for world")] = None,
    video_dir: Annotated[Path | None, typer.Option("--video-dir", help="folder of the video files")] = None,
    holdout: Annotated[
        int | None, typer.Option("--holdout", min=1, help="move N clips into a benchmark, OUT-holdout")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help=f"which list of the data set ({_PROTOCOLS})")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="seed by which val clips and the holdout are drawn (default 0)")
    ] = None,
    tombstones: Annotated[
        list[Path] | None,
        typer.Option("--tombstones", help="a corpus or file with tombstones, whose clips are left out; repeatable"),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=C", help="world only: set a key of the world, such as train_clips=48; repeatable"
        ),
    ] = None,
    workers: WorkersOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.config import suggestion
    from m2raap.core.replace import replacing

    if kind not in FORMATS:
        raise UsageError(f"data import {kind}: unknown format: {suggestion(kind, FORMATS)}")
    chosen = FORMATS[kind]
    if source is None and chosen.source is not None:
        raise UsageError(f"data import {kind}: give the source to read: {chosen.source}")
    if source is not None and chosen.source is None:
        raise UsageError(f"data import {kind}: this format reads no source; leave {source} out")
    values = {"video_dir": video_dir, "num_holdout": holdout, "protocol": protocol}
    values |= {"seed": seed, "assignments": assignments, "workers": workers}
    options = _options(kind, chosen, {name: value for name, value in values.items() if value is not None})
    if tombstones:
        from m2raap.core.corpus import keep_out

        holdouts = [out.with_name(f"{out.name}-holdout")] if holdout else []
        for corpus in (out / "train", out / "test") if kind == "world" else (out, *holdouts):
            keep_out(corpus, tombstones)
    with replacing(force):
        corpora = chosen.load()(*([] if source is None else [source]), out, **options)
    rows = [
        {"corpus": str(corpus.path), "benchmark": corpus.benchmark, "counts": corpus.counts, "source": corpus.source}
        for corpus in corpora
    ]
    emit(rows, map(_line, rows), as_json)


def _options(kind: str, chosen: Format, options: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the importer. Raises UsageError for an option that the format does not use."""
    from m2raap.core.config import suggestion

    for name in options:
        if name not in chosen.options:
            known = ", ".join(_FLAGS[option] for option in chosen.options)
            others = f"its options are {known}" if known else "it has no options of its own"
            raise UsageError(f"data import {kind}: this format does not use {_FLAGS[name]}; {others}")
    if chosen.protocols:
        protocol = options.get("protocol", None if chosen.needs_protocol else chosen.protocols[0])
        if protocol not in chosen.protocols:
            if protocol is None:
                raise UsageError(f"data import {kind}: give --protocol, one of {', '.join(chosen.protocols)}")
            raise UsageError(f"data import {kind}: --protocol {protocol}: {suggestion(protocol, chosen.protocols)}")
        options = options | {"protocol": protocol}
    if chosen.source is None:
        options = {"seed": 0, "assignments": [], "workers": None} | options
    return options


def _line(row: dict[str, Any]) -> str:
    kind = f"benchmark {row['benchmark']}" if row["benchmark"] else "training corpus"
    counts = ", ".join(f"{value:,} {name}" for name, value in row["counts"].items())
    if langs := row["source"].get("langs"):
        counts += f" ({', '.join(f'{value:,} {lang}' for lang, value in langs.items())})"
    # Settings, which are a table of their own, are in the corpus's manifest.
    single = {name: value for name, value in row["source"].items() if not isinstance(value, dict | list)}
    details = ", ".join(f"{name}: {value}" for name, value in single.items() if name not in _ELSEWHERE)
    return f"{row['corpus']}: {kind}, {counts}" + (f" ({details})" if details else "")
