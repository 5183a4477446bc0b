"""`check`, `status`, `explain`, `doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.options import JsonOption
from m2raap.core.errors import M2raapError


def register(app: typer.Typer) -> None:
    app.command("check", help="Verify every corpus and stage folder below a folder against its manifest.")(check)
    app.command("status", help="How far a run is.")(status)
    app.command("explain", help="Tell a clip's whole story.")(explain)
    app.command("doctor", help="Look for what is known to break this stack.")(doctor)


def check(
    folder: Annotated[Path, typer.Argument(help="a run, stage or corpus folder")],
    forgotten: Annotated[
        Path | None,
        typer.Option(
            "--forgotten",
            metavar="CORPUS",
            help="look for what this corpus (or tombstone file) has forgotten, in any folder, instead",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    if forgotten is not None:
        _check_forgotten(folder, forgotten, as_json)
        return
    from m2raap.pipeline.inspect import check as check_folder

    rows = check_folder(folder)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            typer.echo("\n  ".join([f"{row['state']:<11} {row['folder']}", *row["faults"]]))
    damaged = sum(row["state"] == "damaged" for row in rows)
    if damaged:
        raise M2raapError(f"{damaged} of {len(rows)} folders are damaged; --force makes a stage again")


def _check_forgotten(folder: Path, source: Path, as_json: bool) -> None:
    from m2raap.export.leftovers import forgotten_hashes, leftovers

    if not folder.exists():
        raise M2raapError(f"{folder}: no such folder")
    places = list(leftovers(folder, forgotten_hashes(source)))
    if as_json:
        typer.echo(json.dumps([{"path": str(row.path), "place": row.place} for row in places], ensure_ascii=False))
    else:
        typer.echo("\n".join(map(str, places)) or f"{folder}: holds nothing of what {source} has forgotten")
    if places:
        raise M2raapError(
            f"{folder}: {len(places):,} places hold something of forgotten clips, or cannot be looked into"
        )


def status(run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")], as_json: JsonOption = False) -> None:
    from m2raap.pipeline.inspect import status as status_of
    from m2raap.pipeline.run_folder import RunFolder

    rows = status_of(RunFolder.open(run))
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        counts = row.get("counts", {})
        flow = f"{counts['clips_in']} -> {counts['clips_out']} clips" if "clips_in" in counts else ""
        parts = f"{row['scored']}/{row['parts']} parts scored" if "parts" in row else ""
        typer.echo(f"{row['state']:<11} {row['folder']:<44} {flow or parts:<28} {', '.join(row['arms'])}")


def explain(
    clip_id: Annotated[str, typer.Argument(help="a clip's id")],
    run: Annotated[Path, typer.Option("--in", help="a run, or a stage's folder")],
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.inspect import explain as explain_clip
    from m2raap.pipeline.inspect import tell

    story = explain_clip(run, clip_id)
    typer.echo(json.dumps(story, ensure_ascii=False) if as_json else "\n".join(tell(story)))


def doctor(as_json: JsonOption = False) -> None:
    from m2raap.pipeline.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps(findings, ensure_ascii=False))
    else:
        for finding in findings:
            typer.echo(f"{finding['state']:<5} {finding['what']}: {finding['detail']}")
    bad = [finding["what"] for finding in findings if finding["state"] == "bad"]
    if bad:
        raise M2raapError(f"doctor found {len(bad)} fault{'s' if len(bad) > 1 else ''}: {', '.join(bad)}")
