"""The tags that `annotate` has given to clips, as other stages, reports and exports read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.signed import read_manifest, stage_manifest
from m2raap.core.tables import read_all
from m2raap.core.view import View, open_view

ANNOTATE = "annotate"  # the name of the stage, whose module imports torch
LEAST_P = 0.5  # a clip has a tag from this probability on


def probable_tags(signals: Mapping[str, Any]) -> list[str]:
    """The tags of a clip with p >= LEAST_P, the most probable first. Raises M2raapError where a tag has no probability."""
    tags, tags_p = signals.get("tags") or (), signals.get("tags_p") or ()
    if len(tags) != len(tags_p):
        raise M2raapError(
            f"clip {signals.get('clip_id', '')}: has {len(tags)} tags and {len(tags_p)} probabilities; run annotate again"
        )
    return [tag for tag, p in zip(tags, tags_p, strict=True) if p >= LEAST_P]


def tags_of_clips(folder: Path) -> dict[str, list[str]]:
    """clip_id -> its probable tags, of every clip of an annotate folder."""
    columns = ["clip_id", "text_id", "tags", "tags_p"]
    rows = read_all(folder, "signals", columns)
    return {row["clip_id"]: probable_tags(row) for row in rows if row.get("text_id") is None}


def tags_folder(folders: Sequence[Path], view: View) -> Path:
    """The one of several annotate folders that holds the tags of a benchmark.

    Raises M2raapError for a folder that is not of annotate, and where none, or more than one, is of the benchmark's corpus.
    """
    fitting: list[Path] = []
    others: list[str] = []
    for folder in folders:
        tagged = open_view(folder)
        stage = stage_manifest(folder)["stage"] if tagged.folders else "corpus"
        if stage != ANNOTATE:
            raise M2raapError(
                f"{folder}: holds no tags (it is of '{stage}'); give the --out of 'm2raap annotate apply' over the benchmark"
            )
        if (tagged.corpus.digest, tagged.cutoff) == (view.corpus.digest, view.cutoff):
            fitting.append(folder)
        else:
            some = "" if tagged.cutoff is None else "some clips of "
            others.append(f"{folder} holds tags of {some}{tagged.corpus_path}")
    if len(fitting) > 1:
        raise M2raapError(
            f"evaluate.tags: {fitting[0]} and {fitting[1]} both hold tags of {view.corpus_path}; give one"
        )
    if not fitting:
        raise M2raapError(
            f"evaluate.tags: {', '.join(others)}, and not of the benchmark {view.corpus_path}: make its tags with "
            "'m2raap annotate apply EMBEDDED --tagger T --out A', where EMBEDDED is its embed folder"
        )
    return fitting[0]


def tags_of_benchmark(folders: Sequence[Path], embedded: Path) -> dict[str, list[str]]:
    """Video id -> its probable tags, of the benchmark of an embed folder. Raises M2raapError as `tags_folder`."""
    if "view" not in read_manifest(embedded):
        raise M2raapError(
            f"{embedded}: was made without a corpus, so that no tags belong to its videos; leave out the tags"
        )
    return tags_of_clips(tags_folder(folders, open_view(embedded)))
