"""What a report says of tags: the tagger of every annotate folder of a run with the most frequent tags, and results by tag."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.core.errors import M2raapError
from m2raap.core.files import read_regular
from m2raap.core.signed import stage_manifest
from m2raap.core.tables import read_all
from m2raap.core.view import View, open_view
from m2raap.models.builtin import BUILTIN
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of, base_arm
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.data import ResultRow
from m2raap.report.protocols import Evaluations
from m2raap.report.tag_table import TaggerFigures, TagRow, TagTable
from m2raap.retrieval.results_file import read_results
from m2raap.retrieval.tag_slices import tag_rows
from m2raap.stages.evaluate import read_ranks
from m2raap.stages.tag_counts import TagCounts
from m2raap.stages.tag_signals import ANNOTATE

if TYPE_CHECKING:
    from m2raap.annotate.tagger import Tagger

MOST_TAGS = 30
OF_DRAWINGS = (
    "builtin:tiny was trained on drawings of coloured shapes only, and this corpus is not the synthetic world: these tags come "
    "from its frame vectors, so that neither they nor the figures of the tagger mean anything for real clips"
)


def by_tag_rows(evaluations: Evaluations, seed: int) -> list[ResultRow]:
    """Every arm on every benchmark by tag; none for evaluations without tags. `evaluations`: one step for each training seed."""
    rows = []
    for (arm, bench), steps in evaluations.items():
        if len(steps) == 1:
            of_arm = read_results(steps[0].folder).get("by_tag", [])
        else:
            of_arm = tag_rows([read_ranks(step.folder / "ranks.parquet") for step in steps], seed)
        rows += [ResultRow(arm=arm, benchmark=bench, **row) for row in of_arm]
    return rows


def tag_tables(run: RunFolder, recipe: Recipe, steps: Sequence[Step]) -> list[TagTable]:
    """The table of each finished annotate folder. Raises M2raapError for a damaged folder."""
    arms_at: dict[Path, list[str]] = {}
    for step in steps:
        if step.stage == ANNOTATE and not step.bench and base_arm(step.arm) not in arms_at.get(step.folder, ()):
            arms_at.setdefault(step.folder, []).append(base_arm(step.arm))
    recipes = arms_of(recipe)
    return [_table(run, folder, arms, recipes[arms[0]]) for folder, arms in arms_at.items()]


def _table(run: RunFolder, folder: Path, arms: list[str], recipe: Recipe) -> TagTable:
    counts, of_clip, of_texts = TagCounts(), {}, {}
    for row in read_all(folder, "signals", ["clip_id", "text_id", "tags", "tags_p", "tags_named"]):
        if row["text_id"] is None:
            of_clip[row["clip_id"]] = row
        else:
            of_texts.setdefault(row["clip_id"], []).append(row)
    for clip_id, row in of_clip.items():
        counts.add(row, of_texts.get(clip_id, ()))
    tagger, notes = _tagger(folder, recipe.annotate.tagger)
    ordered = counts.ordered()
    scores = _scores(tagger) if tagger else {}
    rows = [TagRow(tag, counts.clips[tag], counts.named[tag]) for tag in ordered[:MOST_TAGS]]
    view = View(run.inputs.data)
    drawings = recipe.backbone.model in BUILTIN and view.corpus.source.get("importer") != "world"
    return TagTable(
        arms=arms,
        clips=counts.num_clips,
        clips_with_tags=counts.num_with_tags,
        figures=_figures(tagger) if tagger else None,
        notes=notes,
        warning=OF_DRAWINGS if drawings and _reads_frames(folder) else "",
        rows=[replace(row, **scores.get(row.tag, {})) for row in rows],
        rows_left_out=len(ordered) - len(rows),
    )


def _tagger(folder: Path, given_path: Path | None) -> tuple[Tagger | None, list[str]]:
    """The tagger of an annotate folder, None where it is not there any more, and sentences on it.

    Raises M2raapError where the tagger inside the folder is damaged.
    """
    from m2raap.annotate.tagger import TAGGER, Tagger
    from m2raap.stages.annotate import FOLDER, tagger_folder

    used = stage_manifest(folder)["settings"]["dependencies"].get("tagger")
    if used is None:
        if not (folder / FOLDER / TAGGER).exists():
            return None, ["The folder holds no tagger any more: run annotate again to see its figures."]
        tagger = Tagger.load(folder / FOLDER)
        seen = (
            "each clip has the tags of the member that has not seen it"
            if tagger.cfg.folds > 1
            else "so that it has seen the clips to which it gives tags (annotate.fit.folds is 1)"
        )
        return tagger, [f"The tagger was fitted on the clips of this corpus; {seen}."]
    lost = f"The tagger that was given is not at {given_path} any more, so that its figures are not shown."
    try:
        tagger = Tagger.load(tagger_folder(given_path)) if given_path else None
    except M2raapError as error:
        return None, [f"The tagger that was given cannot be read ({error}), so that its figures are not shown."]
    if tagger is None or tagger.digest != used:
        return None, [lost]
    return tagger, [
        "The tagger was given: its figures are those of the corpus on which it was fitted, not of this one."
    ]


def _figures(tagger: Tagger) -> TaggerFigures:
    metrics: Mapping[str, Any] = tagger.tree["metrics"]
    return TaggerFigures(
        labels=len(tagger.labels),
        fitted_on=tagger.labels.num_clips,
        unseen_clips=metrics["unseen_clips"],
        gap=metrics["gap"],
        gap_95=list(metrics["gap_95"]) if all(map(_is_number, metrics["gap_95"])) else None,
        mean_ap=metrics["map"],
        mean_ap_labels=metrics["map_labels"],
        hit_at_1=metrics["hit_at_1"],
        perr=metrics["perr"],
        calibration_error=metrics.get("calibration_error"),
    )


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _scores(tagger: Tagger) -> dict[str, dict[str, Any]]:
    """Tag -> ap, ap_low, ap_high, unseen_clips of labels.csv, whose rows are those of the labels in their order: its names are
    changed where a spreadsheet would read them as formulas. Raises M2raapError for a file of another shape."""
    path = tagger.folder / "labels.csv"
    rows = list(csv.DictReader(io.StringIO(read_regular(path).decode("utf-8"), newline="")))
    try:
        return {
            name: {key: float(row[key]) if row[key] else None for key in ("ap", "ap_low", "ap_high")}
            | {"unseen_clips": int(row["unseen_clips"])}
            for name, row in zip(tagger.labels.names_L, rows, strict=True)
        }
    except (KeyError, ValueError, TypeError) as error:
        raise M2raapError(
            f"{path}: has not a row with figures for each label ({error}); fit the tagger again"
        ) from None


def _reads_frames(folder: Path) -> bool:
    """Whether the tags come from vectors of the backbone, and not from such as the corpus was imported with."""
    from m2raap.stages.annotate_inputs import vector_folder

    view = open_view(folder, current=False)
    before = replace(view, folders=view.folders[:-1])
    return vector_folder(before) != view.corpus_path
