"""`data export`: a curated corpus as a flat copy in a format of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption
from m2raap.core.errors import UsageError

if TYPE_CHECKING:
    from m2raap.core.exports import Exporter, Media
    from m2raap.core.view import View

FORMATS = ("webdataset", "videofolder", "data-juicer", "csv", "youtube8m", "youtube8m-predictions")


def register(app: typer.Typer) -> None:
    app.command("export", help="Write what curation kept as a flat copy, in a format of other tools.")(export_)


def exporters(view: View | None = None) -> dict[str, Exporter]:
    """Format -> its exporter. `view`: what is exported; formats that number its labels need it to write."""
    from data_tools.export_csv import Csv
    from data_tools.export_jsonl import DataJuicer
    from data_tools.export_videofolder import VideoFolder
    from data_tools.export_webdataset import WebDataset
    from data_tools.export_youtube8m import Predictions, YouTube8M

    made_of_media = (WebDataset(), VideoFolder(), DataJuicer(), Csv())
    return dict(zip(FORMATS, (*made_of_media, YouTube8M(view), Predictions(view)), strict=True))


def export_(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    curated: Annotated[Path, typer.Argument(help="a run, the folder of a data stage, or a corpus")],
    out: Annotated[Path, typer.Option("--out", help="folder to write, which must not exist")],
    langs: Annotated[str, typer.Option("--langs", help="languages of the texts to write")] = "en,zh",
    frames: Annotated[
        bool | None,
        typer.Option(
            "--frames/--videos",
            help="copy key-frames, or video files (default: what is usual for the format); of youtube8m: frame-level records",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.config import suggestion
    from m2raap.core.corpus import LANGS
    from m2raap.export.corpus import curated_view, export

    if kind not in FORMATS:
        raise UsageError(f"data export {kind}: unknown format: {suggestion(kind, FORMATS)}")
    languages = tuple(langs.split(","))
    if not languages or set(languages) - set(LANGS):
        raise UsageError(f"--langs {langs}: expected one or more of {','.join(LANGS)}, separated by commas")
    media: Media | None = None if frames is None else "frames" if frames else "videos"
    view = curated_view(curated, languages)
    signed = export(view, exporters(view)[kind], kind, out, media)
    counts = ", ".join(f"{value:,} {name}" for name, value in signed["counts"].items())
    emit(signed, [f"{out}: {kind}, {counts}"], as_json)
