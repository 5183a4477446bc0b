"""report: the finished folders of a run -> report.html and report.json. It changes no stage folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from m2raap.core.errors import M2raapError, listed
from m2raap.core.folder import read_timings
from m2raap.core.ledger import Counts
from m2raap.core.lock import locked
from m2raap.core.records import read_rows
from m2raap.core.signed import is_finished, read_manifest
from m2raap.core.stage import DataStage
from m2raap.core.tables import Row, read_all, row_key
from m2raap.core.view import View
from m2raap.pipeline.outlook import outlooks
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe, arms_of, base_arm
from m2raap.pipeline.run_folder import INTERPOLATION, RunFolder
from m2raap.report.cost import read_costs
from m2raap.report.data import (
    CostRow,
    Curve,
    DifferenceRow,
    FunnelStage,
    InterpolationRow,
    ReportData,
    ResultRow,
)
from m2raap.report.examples import dropped_gallery, examples, nearly_dropped
from m2raap.report.grading import grade
from m2raap.report.html import write_report
from m2raap.report.lengths import length_rows
from m2raap.report.progressive import progressive_rows
from m2raap.report.protocols import Protocols, marked, protocol_rows
from m2raap.report.published import published_rows
from m2raap.report.secondary import bilingual_rows, compat_rows, frame_ablation_rows, rescored_rows, two_way_rows
from m2raap.report.tags import by_tag_rows, tag_tables
from m2raap.retrieval.arms import paired, summarise
from m2raap.retrieval.results_file import read_results
from m2raap.retrieval.two_way import two_way_differences
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.cotrain import CotrainStage
from m2raap.stages.evaluate import EvaluateStage, read_ranks
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.shared import DRAWINGS_ONLY
from m2raap.stages.training_log import clusters_together, kept_text, training_curves, training_summary, training_time

_VAL_CHARTS = {  # title of the chart, and the factor of its values
    "mrr": ("MRR x 100 on the val clips", 100.0),
    "r1": ("R@1 on the val clips", 100.0),
    "loss": ("loss on the val clips", 1.0),
}

SYNTHETIC = "synthetic world, tiny model"


def report(run: RunFolder, recipe: Recipe, truth: Path | None = None) -> tuple[ReportData, Path]:
    """Gathers and writes OUT/report/report.html and report.json. `truth` lists planted faults; no other stage reads it."""
    data = gather(run, recipe, truth)
    folder = run.path / "report"
    with locked(folder, below=run.path):
        write_report(data, folder / "report.html", folder / "report.json")
    return data, folder / "report.html"


def gather(run: RunFolder, recipe: Recipe, truth: Path | None) -> ReportData:
    steps = [step for step in run.steps if (step.folder / "manifest.json").exists()]
    if not steps:
        raise M2raapError(
            f"{run.path}: no stage of this run is finished, so there is nothing to report; finish the run first"
        )
    main = base_arm(run.arms()[-1])
    evaluations = evaluations_of(steps)
    protocols = Protocols.of(evaluations)
    results = [
        row
        for (arm, bench), seed_steps in evaluations.items()
        for row in result_rows(arm, bench, seed_steps, recipe.seed)
    ]
    settings = protocol_rows(evaluations, steps, run.inputs.benches)
    synthetic = (
        recipe.backbone.model == "builtin:tiny" and View(run.inputs.data).corpus.source.get("importer") == "world"
    )
    curated = [step for step in steps if step.arm == main and step.is_of(DataStage) and not step.bench]
    return ReportData(
        title=recipe.title or recipe.name,
        synthetic=synthetic,
        headline_arm=main if results else "",
        baseline_arm=run.arms()[0] if results and len(run.arms()) > 1 else "",
        notes=_notes(run, recipe, steps, synthetic),
        results=results,
        lengths=length_rows(run, evaluations, steps, recipe.seed),
        by_tag=by_tag_rows(evaluations, recipe.seed),
        published=published_rows(settings, results),
        compat=compat_rows(evaluations),
        rescored=rescored_rows(evaluations, recipe.seed),
        bilingual=bilingual_rows(evaluations, recipe.seed),
        differences=difference_rows(evaluations, protocols, recipe, main),
        frame_ablations=frame_ablation_rows(evaluations, results, recipe.seed),
        two_way=two_way_rows(evaluations, recipe.seed),
        costs=_costs(steps, recipe, results),
        modules=read_costs(run.path),
        interpolation=read_interpolation(run.path),
        progressive=marked(progressive_rows(steps, recipe), protocols) if recipe.progressive else [],
        curves=_curves(steps),
        funnel=[row for step in curated for row in _funnel(step)],
        tags=tag_tables(run, recipe, steps),
        grading=_grading(run, curated, truth) if truth else None,
        examples=examples(run, steps, main),
        dropped=dropped_gallery(run, curated),
        nearly=nearly_dropped(run, curated),
        protocols=settings,
        protocol=_run_facts(run, recipe),
        timings=_timings(steps),
        recipe=yaml.safe_dump(run.tree["recipe"], sort_keys=False, allow_unicode=True),
    )


def _notes(run: RunFolder, recipe: Recipe, steps: list[Step], synthetic: bool) -> list[str]:
    notes = []
    if recipe.backbone.model == "builtin:tiny" and not synthetic:
        notes.append(f"{DRAWINGS_ONLY}. The results show that the pipeline works, and nothing about retrieval.")
    for step in steps:
        if step.is_of(AdaptStage) and step.owner == step.arm:
            notes.append(f"{step.arm}: {kept_text(training_summary(step.folder))}.")
    return notes + _outdated(run, recipe, steps)


def _outdated(run: RunFolder, recipe: Recipe, steps: list[Step]) -> list[str]:
    """A note where folders of the report were made with other settings or from other content than the run has today."""
    try:
        states = outlooks(run.steps, arms_of(recipe), run.inputs)
    except M2raapError as error:  # such as that code of the user's is gone, which a report does not need
        return [f"Whether the stage folders fit the recipe was not examined: {error}."]
    others = {step.folder: states[step.folder] for step in steps if states[step.folder].state == "redo"}
    names = [f"{folder.relative_to(run.path)} ({state.reason})" for folder, state in others.items()]
    if not names:
        return []
    return [
        f"Outdated: {listed(names, 4)} would be made again by this run, so that numbers below are those of other settings or "
        "inputs; 'm2raap run' with --force brings them up to date."
    ]


def result_rows(arm: str, bench: str, seed_steps: list[Step], seed: int) -> list[ResultRow]:
    """The rows of an arm on a benchmark, averaged over the training seeds where there are several."""
    if len(seed_steps) == 1:
        rows = read_results(seed_steps[0].folder)["rows"]
    else:
        rows = summarise([read_ranks(step.folder / "ranks.parquet") for step in seed_steps], seed)
    return [ResultRow(arm=arm, benchmark=bench, **row) for row in rows]


def evaluations_of(steps: list[Step]) -> dict[tuple[str, str], list[Step]]:
    """The evaluations of every arm on every benchmark: one a training seed."""
    by_arm: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.is_of(EvaluateStage):
            by_arm.setdefault((base_arm(step.arm), step.bench or ""), []).append(step)
    return by_arm


def difference_rows(
    evaluations: dict[tuple[str, str], list[Step]], protocols: Protocols, recipe: Recipe, main: str
) -> list[DifferenceRow]:
    """Paired differences, each with what differs between the two arms' protocols."""
    arms = list(dict.fromkeys(arm for arm, _ in evaluations))
    neighbours = tuple(zip(arms[1:], arms, strict=False)) if recipe.progressive else ()
    pairs = recipe.compare or neighbours or tuple((main, arm) for arm in arms if arm != main)
    rows = []
    for bench in dict.fromkeys(bench for _, bench in evaluations):
        for a, b in pairs:
            if (a, bench) not in evaluations or (b, bench) not in evaluations:
                continue
            tables = [[read_ranks(step.folder / "ranks.parquet") for step in evaluations[arm, bench]] for arm in (a, b)]
            first, unlike = tables[0][0], protocols.unlike(a, b, bench)
            langs = sorted({row["lang"] for row in first})
            slices = [None, *sorted({row["category"] for row in first if row["category"]})]
            for lang in langs:
                for direction in ("t2v", "v2t"):
                    for category in slices:
                        difference = paired(tables[0], tables[1], lang, direction, "R@1", recipe.seed, category)
                        rows.append(DifferenceRow(arm_a=a, arm_b=b, benchmark=bench, **difference, unlike=unlike))
            rows += [
                DifferenceRow(arm_a=a, arm_b=b, benchmark=bench, **difference, unlike=unlike)
                for difference in two_way_differences(tables[0], tables[1], recipe.seed)
            ]
    return rows


def _curves(steps: list[Step]) -> list[Curve]:
    curves = []
    for step in steps:
        if step.owner != step.arm or step.arm != base_arm(step.arm):
            continue
        if step.is_of(CotrainStage):
            curves.append(Curve("co-training loss", step.arm, training_curves(step.folder).loss))
            for name, points in clusters_together(step.folder).items():
                curves.append(Curve("co-training: mean cluster_pmi", f"{step.arm} {name}", points))
        if not step.is_of(AdaptStage):
            continue
        loss, val = training_curves(step.folder)
        curves.append(Curve("training loss", step.arm, loss))
        for name, points in val.items():
            chart, factor = _VAL_CHARTS[name]
            curves.append(Curve(chart, step.arm, [(at, factor * value) for at, value in points]))
    return curves


def _costs(steps: list[Step], recipe: Recipe, results: list[ResultRow]) -> list[CostRow]:
    """One row a trained arm. An arm that decodes while it trains stores no frames; its keyframes stage only checks the files."""
    arms, rows = arms_of(recipe), []
    for step in steps:
        if not step.is_of(AdaptStage) or step.arm != base_arm(step.arm):
            continue
        frames = next(
            other for other in steps if other.arm == step.arm and not other.bench and other.is_of(KeyframesStage)
        )
        raw, cfg = arms[step.arm].adapt.input == "video", arms[step.arm].keyframes
        spent = training_time(step.folder)
        cotrained = [other for other in steps if other.arm == step.arm and other.is_of(CotrainStage)]
        official = [row for row in results if (row.arm, row.direction, row.slice) == (step.arm, "t2v", "all")]
        rows.append(
            CostRow(
                arm=step.arm,
                input="raw video" if raw else f"{cfg.strategy}-{cfg.k} stored",
                steps=spent.steps,
                frames_s=None if raw else sum(row["seconds"] for row in read_timings(frames.folder) if "phase" in row),
                cotrain_s=training_time(cotrained[0].folder).train_s if cotrained else None,
                train_s=spent.train_s,
                waited_s=spent.waited_s,
                r1={f"{row.benchmark} {row.lang}": row.metrics["R@1"] for row in official if row.scope == "official"},
            )
        )
    return rows


def _funnel(step: Step) -> list[FunnelStage]:
    counts = Counts.from_dict(read_manifest(step.folder)["counts"])
    return [
        FunnelStage(step.stage, table, rows.rows_in, rows.added, dict(rows.dropped), rows.rows_out)
        for table, rows in counts.tables.items()
    ]


def dropped_rows(steps: Iterable[Step]) -> Iterable[Row]:
    """Every `dropped` row of data stages, in their order."""
    for step in steps:
        yield from read_all(step.folder, "dropped")


def _grading(run: RunFolder, curated: list[Step], truth: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(truth).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise M2raapError(f"{truth}: cannot be read as a parquet table of planted faults ({error})") from None
    if rows and not {"id", "level", "fault", "repairable"} <= set(rows[0]):
        raise M2raapError(f"{truth}: expected the columns id, level, fault, repairable; found {', '.join(rows[0])}")
    by_reason: dict[str, set[str]] = {}
    for row in dropped_rows(curated):
        by_reason.setdefault(row["reason"], set()).add(row_key(row))
    view = run.inputs.view(run.recipe.langs)
    clip_of_text = {row["text_id"]: row["clip_id"] for part in view.parts() for row in part.texts}
    known_ids = {*clip_of_text, *clip_of_text.values()}
    return grade(by_reason, [row for row in rows if row["id"] in known_ids], clip_of_text)


def _run_facts(run: RunFolder, recipe: Recipe) -> dict[str, str]:
    """Settings and inputs of the whole run, by name. What the results of one arm depend on is in its ProtocolRow."""
    facts = {
        "recipe": recipe.name,
        "seed": str(recipe.seed),
        "languages": ", ".join(recipe.langs),
        "backbone": recipe.backbone.model,
    }
    corpus = View(run.inputs.data).corpus
    facts["training corpus"] = f"{run.inputs.data.name}, {corpus.counts['clips']} clips, digest {corpus.digest}"
    for name, path in run.inputs.benches.items():
        bench = View(path).corpus
        counts = f"{bench.counts['clips']} clips, {bench.counts['texts']} texts"
        facts[f"benchmark {name}"] = f"{bench.benchmark}, {counts}, digest {bench.digest}"
    made_by: dict[str, set[str]] = {}
    for step in run.steps:
        manifest = read_manifest(step.folder) if is_finished(step.folder) else {}
        for name, version in manifest.get("libraries", {}).items():
            made_by.setdefault(name, set()).update(version.split(", "))
    if made_by:
        facts["libraries"] = ", ".join(
            f"{name} {'/'.join(sorted(versions))}" for name, versions in sorted(made_by.items())
        )
    facts["R@k"] = (
        "expected under a random tie-break; 95% intervals: cluster bootstrap over clips, Wilson where all hit or all miss"
    )
    return facts


def _timings(steps: list[Step]) -> list[tuple[str, float]]:
    """Seconds of work by stage folder, summed over the workers of a stage."""
    rows = []
    for step in {step.folder: step for step in reversed(steps)}.values():
        label = os.path.join(step.owner, f"bench-{step.bench}" if step.bench else "", step.stage)
        rows.append((label, sum(row["seconds"] for row in read_timings(step.folder) if "phase" in row)))
    return rows[::-1]


def read_interpolation(run: Path) -> list[InterpolationRow]:
    """The rows that `model interpolate` wrote into a run; none where it was not run."""
    path = run / INTERPOLATION
    return read_rows(InterpolationRow, path) if path.exists() else []
