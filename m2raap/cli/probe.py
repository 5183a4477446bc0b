"""`probe`: a full decode of each file, and its class."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.options import JsonOption, parse_percent
from m2raap.core import talk
from m2raap.core.errors import TooManyRefused


def register(app: typer.Typer) -> None:
    app.command("probe", help="Decode files or folders of them, and say what is wrong with each.")(probe)


def probe(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="files or folders (after -- if named -x)")],
    as_json: JsonOption = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.001, help="wall clock of one file; long films need more")
    ] = 300.0,
    memory_mb: Annotated[int, typer.Option("--max-memory-mb", min=512, help="address space of a decoder")] = 4096,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="of one frame")] = 8192 * 4320,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="of one file")] = 64 * 1024**3,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="decoders at once (default: cores)")] = None,
    allow_refused: Annotated[
        str | None,
        typer.Option("--allow-refused", metavar="SHARE", help="exit with 3 if more than 5% (say) are not ok"),
    ] = None,
) -> None:
    from collections import Counter

    from m2raap.stages.probe import find_files, probe_files, told
    from m2raap.video.limits import VideoConfig

    allowed = 1.0 if allow_refused is None else parse_percent(allow_refused)
    limits = VideoConfig(timeout_s=timeout_s, memory_mb=memory_mb, max_pixels=max_pixels, max_bytes=max_bytes)
    files, left_out = find_files(paths)
    for line in left_out:
        talk.log(f"left out: {talk.one_line(line)}")
    rows: list[dict[str, Any]] = []
    with talk.progress("probe", len(files)) as advance:
        for row in probe_files(files, limits, workers or os.cpu_count() or 1):
            rows.append(row)
            advance()
            if not as_json:
                typer.echo(told(row))
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    counts = Counter(row["class"] for row in rows)
    talk.log(
        f"{len(rows)} files: " + (", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing to read")
    )
    bad = len(rows) - counts["ok"]
    if rows and bad / len(rows) > allowed:
        raise TooManyRefused(f"{bad} of {len(rows)} files are not ok, more than --allow-refused {allow_refused}")
