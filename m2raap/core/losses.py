"""A stage that has lost everything, or the videos of too many clips, is no success: the command stops with exit code 3."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from m2raap.core import talk
from m2raap.core.errors import NO_TEXT_LEFT, TooManyRefused
from m2raap.core.ledger import Counts
from m2raap.core.signed import read_manifest
from m2raap.core.tables import read_all
from m2raap.core.view import View

MISSING_FILE = "missing_file"
NO_VIDEOS = "vectors and labels, no videos"  # `holds` in the source of a corpus whose list has no videos


def refuse_losses(folder: Path, view: View, allow_refused: float) -> None:
    """Raises TooManyRefused where a finished data stage left no clip, or where a larger share than `allow_refused` of the clips
    of a training corpus has no video file. On a benchmark, which drops nothing, all clips have to be missing.

    `view`: what the stage read.
    """
    counts = Counts.from_dict(read_manifest(folder)["counts"])
    total, reasons = counts.clips.rows_in, dict(counts.clips.dropped)
    if view.is_benchmark:
        reasons = dict(Counter(row["reason"] for row in read_all(folder, "missing")))
    lost = sum(reasons.values())
    by_number = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{reason} {number:,}" for reason, number in by_number) or "it was given none"
    if lost >= total:
        advice = _advice(by_number[0][0] if by_number else "", view, folder)
        raise TooManyRefused(f"{folder}: no clip of {total:,} is left ({named}); {advice}")
    missing = reasons.get(MISSING_FILE, 0)
    if not view.is_benchmark and missing > allow_refused * total:
        raise TooManyRefused(
            f"{folder}: {missing:,} of {total:,} clips ({missing / total:.1%}) are lost as {MISSING_FILE}, and --allow-refused "
            f"is {allow_refused:.1%}; {_advice(MISSING_FILE, view, folder)}"
        )
    if not view.is_benchmark and lost > total / 2:
        talk.log(
            f"{talk.title(folder, folder.name)}: {lost:,} of {total:,} clips were dropped ({named}); "
            f"{_advice(by_number[0][0], view, folder)}"
        )


def _advice(reason: str, view: View, folder: Path) -> str:
    if reason == MISSING_FILE and view.corpus.source.get("holds") == NO_VIDEOS:
        return f"the corpus holds {NO_VIDEOS}; use stages that read no videos"
    if reason == MISSING_FILE:
        return (
            f"the videos are looked for below {view.corpus.video_root}: put them back there or import the list again with their "
            "folder, then run the same command with --force"
        )
    if reason == NO_TEXT_LEFT:
        return (
            f"'m2raap explain CLIP --in {folder}' shows why; clips that come without texts in {', '.join(view.langs)} need the "
            "stages caption and rewrite (recipe footage), or filter.keep_without_text for filter alone"
        )
    if not reason:
        return "the stage before it, or the corpus, has no clips"
    return f"'m2raap explain CLIP --in {folder}' shows scores and thresholds; change the limits or the corpus"
