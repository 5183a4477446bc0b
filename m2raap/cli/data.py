"""`data`: import corpora, examine videos, audit what was dropped, remove clips, and export curated corpora."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli import data_export, data_import, forget
from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption, ReplaceOption, WorkersOption, open_engine, parse_percent
from m2raap.core import talk
from m2raap.core.errors import TooManyRefused, UsageError

app = typer.Typer(
    help="Import, examine, audit and export corpora, and remove clips from them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for register in (data_import.register, data_export.register, forget.register):
    register(app)


@app.command("probe", help="Decode video files completely and print the kind of damage of each.")
def probe(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="files or folders (after -- if named -x)")],
    as_json: JsonOption = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0.001, help="most wall-clock seconds for one file; long films need more")
    ] = 300.0,
    memory_mb: Annotated[
        int, typer.Option("--max-memory-mb", min=512, help="most MiB of memory of one decoder")
    ] = 4096,
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="most pixels of one frame")] = 8192 * 4320,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="most bytes of one file")] = 64 * 1024**3,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="decoders at once (default: cores)")] = None,
    allow_refused: Annotated[
        str | None,
        typer.Option("--allow-refused", metavar="SHARE", help="exit with 3 if more than this share is not ok, e.g. 5%"),
    ] = None,
) -> None:
    from m2raap.video.health import examine_files, find_files, health_line
    from m2raap.video.limits import VideoConfig

    allowed = 1.0 if allow_refused is None else parse_percent(allow_refused)
    limits = VideoConfig(timeout_s=timeout_s, memory_mb=memory_mb, max_pixels=max_pixels, max_bytes=max_bytes)
    files, left_out = find_files(paths)
    for line in left_out:
        talk.log(f"left out: {talk.one_line(line)}")
    rows: list[dict[str, Any]] = []
    with talk.progress("probe", len(files)) as advance:
        for row in examine_files(files, limits, workers or os.cpu_count() or 1):
            rows.append(row)
            advance()
            if not as_json:
                typer.echo(health_line(row))
    emit(rows, (), as_json)
    counts = Counter(row["class"] for row in rows)
    talk.log(
        f"{len(rows)} files: " + (", ".join(f"{n} {name}" for name, n in counts.most_common()) or "no video file found")
    )
    bad = len(rows) - counts["ok"]
    if rows and bad / len(rows) > allowed:
        raise TooManyRefused(f"{bad} of {len(rows)} files are not ok, more than --allow-refused {allow_refused}")


@app.command("split", help="Make a corpus of single-shot clips without texts from long videos.")
def split(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="videos or folders (after -- if named -x)")],
    out: Annotated[Path, typer.Option("--out", help="corpus folder to write")],
    detector: Annotated[
        str, typer.Option("--detector", help="how cuts are found: adaptive, content, hash, histogram or transnetv2")
    ] = "adaptive",
    min_s: Annotated[float, typer.Option("--min-s", min=0, help="drop shots of fewer seconds")] = 1.0,
    max_s: Annotated[
        float, typer.Option("--max-s", min=0.04, help="cut shots of more seconds into equal pieces")
    ] = 60.0,
    cut: Annotated[
        bool, typer.Option("--cut", help="write a video file for every clip (H.264, without sound)")
    ] = False,
    scenes: Annotated[
        Path | None,
        typer.Option(
            "--scenes", help="take the shots from a scene list (CSV) of PySceneDetect, or a folder of NAME-Scenes.csv"
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="most wall-clock seconds for one video")
    ] = 3600.0,
    workers: WorkersOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.config import build
    from m2raap.core.replace import replacing
    from m2raap.stages.split import SplitConfig
    from m2raap.stages.split import split as run_split

    settings = {"detector": detector, "min_s": min_s, "max_s": max_s, "cut": cut, "decode": {"timeout_s": timeout_s}}
    cfg = build(SplitConfig, settings, "split")
    with open_engine("local", workers, None) as engine, replacing(force):
        done = run_split(paths, out, cfg, engine, scenes)
    counts = done.corpus.counts
    tree = {
        "corpus": str(done.corpus.path),
        "videos": done.num_videos,
        "clips": counts["clips"],
        "dropped": done.dropped,
        "left_out": done.left_out,
        "source": done.corpus.source,
    }
    dropped = ", ".join(f"{number:,} {reason}" for reason, number in done.dropped.items()) or "nothing"
    line = f"{out}: {counts['clips']:,} clips of {done.num_videos:,} videos; dropped: {dropped}"
    emit(tree, [line], as_json)


@app.command(
    "audit",
    help="Draw a sheet of dropped and kept texts and clips to label, evaluate a labelled sheet, or write the dataset card.",
)
def audit(
    run: Annotated[Path, typer.Argument(help="a run, or the folder of its last data stage (not with --card)")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="csv sheet to write, with its key beside it; with --card, the card to write"),
    ] = None,
    per_reason: Annotated[
        int, typer.Option("--per-reason", min=1, help="rows of the sheet for each reason, and for what was kept")
    ] = 50,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed by which rows are drawn")] = 0,
    labelled: Annotated[Path | None, typer.Option("--labelled", help="sheet with labels to evaluate")] = None,
    card: Annotated[bool, typer.Option("--card", help="print the dataset card of a run, or write it to --out")] = False,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.audit import draw_sheet, judge_sheet

    if card:
        if labelled is not None:
            raise UsageError("data audit: --card and --labelled cannot be combined; leave one of them out")
        _card(run, out, as_json)
    elif out is not None and labelled is None:
        sheet = draw_sheet(run, out, per_reason, seed)
        counts = ", ".join(f"{count} {reason}" for reason, count in sheet["rows"].items())
        emit(sheet, [f"{out}: fill in the column 'label' with keep or drop ({counts})"], as_json)
    elif labelled is not None and out is None:
        verdict = judge_sheet(run, labelled)
        emit(verdict, _verdict_lines(verdict), as_json)
    else:
        raise UsageError(
            "data audit: give --out SHEET.csv to draw a sheet, --labelled SHEET.csv to evaluate one, or --card"
        )


def _card(run: Path, out: Path | None, as_json: bool) -> None:
    from m2raap.core.files import write_atomic
    from m2raap.export.card import dataset_card

    text = dataset_card(run)
    if out is None:
        emit({"card": text}, [text.removesuffix("\n")], as_json)
    else:
        write_atomic(out, text.encode())
        emit({"file": str(out)}, [f"{out}: written"], as_json)


def _verdict_lines(verdict: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'reason':<20} {'labelled':>8} {'wrong':>6} {'rate':>7}  95% interval"
    for row in verdict["reasons"]:
        low, high = row["interval"]
        interval = f"{low:.1%} to {high:.1%}"
        yield f"{row['reason']:<20} {row['labelled']:>8} {row['wrong']:>6} {row['rate']:>7.1%}  {interval}"
    kept = verdict["kept"]
    if kept["labelled"]:
        low, high = kept["interval"]
        rate = f"{kept['rate']:.1%}, {low:.1%} to {high:.1%}"
        yield f"{kept['agreed']} of {kept['labelled']} kept rows are good ({rate})"
    if verdict["unlabelled"]:
        yield f"{verdict['unlabelled']} rows without a label are not counted"
