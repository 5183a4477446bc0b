"""`split`: long videos -> a corpus of single-shot clips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption, WorkersOption, open_engine


def register(app: typer.Typer) -> None:
    app.command("split", help="Turn long videos into a corpus of single-shot clips, without texts.")(split)


def split(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="videos or folders (after -- if named -x)")],
    out: Annotated[Path, typer.Option("--out", help="corpus folder to write")],
    detector: Annotated[
        str, typer.Option("--detector", help="adaptive, content, hash, histogram or transnetv2")
    ] = "adaptive",
    min_s: Annotated[float, typer.Option("--min-s", min=0, help="shorter shots are dropped")] = 1.0,
    max_s: Annotated[float, typer.Option("--max-s", min=0.04, help="longer shots become equal pieces")] = 60.0,
    cut: Annotated[bool, typer.Option("--cut", help="write every clip as a file of its own (H.264, no sound)")] = False,
    scenes: Annotated[
        Path | None,
        typer.Option("--scenes", help="a scene list (CSV) of PySceneDetect, or a folder of NAME-Scenes.csv"),
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1, help="wall clock of one video")] = 3600.0,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.config import build
    from m2raap.stages.split import SplitConfig
    from m2raap.stages.split import split as run_split

    settings = {"detector": detector, "min_s": min_s, "max_s": max_s, "cut": cut, "decode": {"timeout_s": timeout_s}}
    cfg = build(SplitConfig, settings, "split")
    with open_engine("local", workers, None) as engine:
        done = run_split(paths, out, cfg, engine, scenes)
    counts = done.corpus.counts
    result = {
        "corpus": str(done.corpus.path),
        "videos": done.num_videos,
        "clips": counts["clips"],
        "dropped": done.dropped,
        "left_out": done.left_out,
        "source": done.corpus.source,
    }
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
        return
    dropped = ", ".join(f"{number:,} {reason}" for reason, number in done.dropped.items()) or "nothing"
    typer.echo(f"{out}: {counts['clips']:,} clips of {done.num_videos:,} videos; dropped: {dropped}")
