"""`lint`: copies, generic captions, faults of texts, and test data in training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption
from m2raap.core.talk import one_line

SHOWN = 3


def register(app: typer.Typer) -> None:
    app.command(
        "lint", help="Look for copies, generic captions and leaks in a corpus or benchmark; nothing is changed."
    )(lint)


def lint(
    corpus: Annotated[Path, typer.Argument(help="a corpus, or its keyframes folder: then videos are looked at too")],
    against: Annotated[
        Path | None, typer.Option("--against", help="training data: what of CORPUS stands in it?")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.view import open_view
    from m2raap.report.lint import lint as look

    found = look(open_view(corpus), open_view(against) if against else None)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, sort_keys=True))
        return
    texts = ", ".join(f"{count:,} {lang} texts" for lang, count in found["texts"].items())
    typer.echo(f"{found['clips']:,} clips ({found['clips_with_frames']:,} with frames), {texts}")
    for row in found["findings"]:
        share = f"{row['count']:,} of {row['of']:,}" if row["of"] >= row["count"] else f"{row['count']:,}"
        typer.echo(f"{row['what']}{' ' + row['lang'] if row['lang'] else ''}: {share}: {row['says']}")
        for example in row["examples"][:SHOWN]:
            said = example if isinstance(example, list | str) else example["text"]
            typer.echo("    " + one_line(", ".join(said) if isinstance(said, list) else str(said))[:140])
    if not found["findings"]:
        typer.echo("nothing found")
    for sentence in found["not_looked_at"]:
        typer.echo(sentence)
