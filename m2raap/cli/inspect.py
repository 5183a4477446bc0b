"""`status`, `explain`, `doctor`: the progress and integrity of a run, the history of one clip, the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption
from m2raap.core.errors import M2raapError


def register(app: typer.Typer) -> None:
    app.command("status", help="Print the progress of a run; with --verify, check every folder against its manifest.")(
        status
    )
    app.command("explain", help="Print what every stage measured and decided about one clip.")(explain)
    app.command("doctor", help="Check the installation for known faults.")(doctor)


def status(
    folder: Annotated[
        Path, typer.Argument(help="the --out of 'm2raap run'; with --verify any run, stage or corpus folder")
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="read every corpus and stage folder at or below it, and compare it with its manifest"
        ),
    ] = False,
    forgotten: Annotated[
        Path | None,
        typer.Option(
            "--forgotten",
            metavar="CORPUS",
            help="search the folder for clips that were removed from this corpus, or that this tombstone file lists",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    if forgotten is not None:
        _search_forgotten(folder, forgotten, as_json)
        return
    if verify:
        _verify(folder, as_json)
        return
    from m2raap.pipeline.inspect import status as status_of
    from m2raap.pipeline.run_folder import RunFolder

    run = RunFolder.open(folder)
    rows = status_of(run)
    emit(rows, map(_status_line, rows), as_json)
    _ = run.inputs  # raises where a corpus is not the one that the run has read


def _status_line(row: dict[str, Any]) -> str:
    from m2raap.core import talk
    from m2raap.core.ledger import Counts
    from m2raap.core.libraries import other_versions

    clips = Counts.from_dict(row.get("counts", {})).clips
    flow = f"{clips.rows_in} -> {clips.rows_out} clips" if clips.rows_in else ""
    done = ""
    if "parts" in row:
        done = f"{row['scored']}/{row['parts']} parts scored"
    elif "step" in row:
        done = f"after step {row['step']:,}"
    line = f"{row['state']:<11} {row['folder']:<44} {flow or done:<28} {', '.join(row['arms'])}"
    line += f" on {talk.one_line(', '.join(row['devices']))}" if row.get("devices") else ""
    differences = other_versions(row.get("libraries", {}))
    return f"{line}\n{'':<11} made with {differences}" if differences else line


def flow_lines(row: dict[str, Any]) -> list[str]:
    """The lines in which `run --until` prints a row of `status`: rows in, added, kept, and dropped by reason."""
    from m2raap.core.ledger import Counts

    lines = [f"{row['folder']}: {row['state']}"]
    for name, rows in Counts.from_dict(row.get("counts", {})).tables.items():
        if rows.expected:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(rows.dropped.items(), key=lambda i: -i[1]))
            added = f" and {rows.added:,} added" if rows.added else ""
            lines.append(f"  {rows.rows_in:,} {name} in{added}, {rows.rows_out:,} kept; dropped: {reasons or 'none'}")
    return lines


def _verify(folder: Path, as_json: bool) -> None:
    from m2raap.pipeline.inspect import check

    rows = check(folder)
    emit(rows, ("\n  ".join([f"{row['state']:<11} {row['folder']}", *row["faults"]]) for row in rows), as_json)
    damaged = sum(row["state"] == "damaged" for row in rows)
    if damaged:
        raise M2raapError(f"{damaged} of {len(rows)} folders are damaged; make a stage again with --force")


def explain(
    clip_id: Annotated[str, typer.Argument(help="a clip's id")],
    run: Annotated[Path, typer.Option("--in", help="a run, a stage folder or a corpus")],
    as_json: JsonOption = False,
) -> None:
    from m2raap.pipeline.explain import explain as explain_clip
    from m2raap.pipeline.explain import tell

    story = explain_clip(run, clip_id)
    emit(story, tell(story), as_json)


def doctor(as_json: JsonOption = False) -> None:
    from m2raap.pipeline.doctor import examine

    findings = examine()
    lines = (f"{finding['state']:<5} {finding['what']}: {finding['detail']}" for finding in findings)
    emit(findings, lines, as_json)
    bad = [finding["what"] for finding in findings if finding["state"] == "bad"]
    if bad:
        raise M2raapError(f"doctor found {len(bad)} fault{'s' if len(bad) > 1 else ''}: {', '.join(bad)}")


def _search_forgotten(folder: Path, source: Path, as_json: bool) -> None:
    from m2raap.export.leftovers import forgotten_hashes, leftovers

    if not folder.exists():
        raise M2raapError(f"{folder}: no such folder")
    places = list(leftovers(folder, forgotten_hashes(source)))
    tree = [{"path": str(row.path), "place": row.place} for row in places]
    by_file: dict[Path, list[str]] = {}
    for row in places:
        by_file.setdefault(row.path, []).append(str(row))
    lines = [f"{first} (and {len(more)} more in this file)" if more else first for first, *more in by_file.values()]
    emit(
        tree,
        lines if places else [f"{folder}: contains nothing of the clips that {source} has forgotten"],
        as_json,
    )
    if places:
        raise M2raapError(f"{folder}: {len(places):,} places contain something of forgotten clips, or cannot be read")
