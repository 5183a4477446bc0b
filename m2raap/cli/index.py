"""`index`: clips as a faiss index that `search` and `serve` read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.cli import options
from m2raap.core.errors import M2raapError, UsageError

if TYPE_CHECKING:
    from m2raap.models.config import BackboneConfig

ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="a model folder, an adapt folder, or a backbone's name: builtin:tiny, hf-hub:..."),
]


def register(app: typer.Typer) -> None:
    app.command("index", help="Embed the clips of a view and index them for search.")(index)


def chosen_model(name: str | None) -> Path | BackboneConfig | None:
    """A folder of ours, or a backbone that brings its own weights."""
    from m2raap.models.config import BackboneConfig
    from m2raap.stages.whole import model_folder

    if name is None:
        return None
    if Path(name).is_dir():
        return model_folder(Path(name))
    if ":" not in name:
        raise M2raapError(f"--model {name}: no such folder; give a model folder, an adapt folder, or builtin:tiny")
    return BackboneConfig(model=name)


def index(
    out: options.OutOption,
    view: Annotated[
        Path | None, typer.Argument(metavar="[VIEW]", help="a keyframes folder, or that of any stage after it")
    ] = None,
    model: ModelOption = None,
    kind: Annotated[
        str, typer.Option("--kind", help="auto (by size), flat (exact), hnsw, ivf, or pq (compressed)")
    ] = "auto",
    add: Annotated[bool, typer.Option("--add", help="bring an index up to date: only new clips are embedded")] = False,
    remove: Annotated[
        Path | None,
        typer.Option(
            "--remove", metavar="IDS", help="file of clip ids, one a line, to take out, or keep out, for good"
        ),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.view import open_view
    from m2raap.export.forget import read_ids
    from m2raap.retrieval.index import KINDS
    from m2raap.search.index import make_index

    if kind not in ("auto", *KINDS):
        raise UsageError(f"--kind {kind}: there are auto, {', '.join(KINDS)}")
    if view is None and not remove:
        raise UsageError("index: give a VIEW to index, or --remove IDS to take clips out of --out")
    if view is not None and remove and not add:
        raise UsageError("index: --remove with a VIEW needs --add too: the index is brought up to date, then ids go")
    ids = set(read_ids(remove)) if remove else None
    found = make_index(out, open_view(view) if view else None, chosen_model(model), kind=kind, add=add, remove=ids)
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{out}: {found['clips']:,} clips, {found['kind']}, model {found['model'][:12]}")
    said = {
        "embedded": "embedded",
        "kept": "as they were",
        "removed": "removed",
        "without_frames": "without frames: left out",
        "removed_before": "removed earlier: stay out",
        "elsewhere": "held by another view already",
    }
    typer.echo(", ".join(f"{found[key]:,} {text}" for key, text in said.items() if found[key]))
