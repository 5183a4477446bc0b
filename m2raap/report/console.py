"""The tables of the report on stdout: by rich on a terminal, as plain columns into a pipe or file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from m2raap.core.talk import one_line
from m2raap.report.data import (
    BilingualRow,
    CostRow,
    DifferenceRow,
    FrameAblationRow,
    FunnelStage,
    ModuleRow,
    ProgressiveRow,
    PublishedRow,
    ReportData,
    RescoredRow,
    ResultRow,
    TwoWayRow,
    labels_of,
    seed_note,
)
from m2raap.report.multiplicity import comparisons_note, of_progressive
from m2raap.retrieval.rank_counts import MEAN_RECALL
from m2raap.retrieval.significance import bounds_text, change_text

Cell = str
_PROTOCOL_NOTE = ("", "protocols differ")  # index: whether the protocols of the two arms differ


def print_funnel(stages: Sequence[FunnelStage], file: TextIO | None = None) -> None:
    """In, added, dropped (by reason) and out of every stage."""
    rows = [
        [
            stage.stage,
            stage.table,
            f"{stage.rows_in:,}",
            f"{stage.added:,}",
            f"{sum(stage.dropped.values()):,}",
            f"{stage.rows_out:,}",
            ", ".join(
                f"{reason} {count:,}"
                for reason, count in sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))
                if count
            ),
        ]
        for stage in stages
    ]
    print_table("Funnel", ["stage", "table", "in", "added", "dropped", "out", "dropped for"], rows, {2, 3, 4, 5}, file)
    if any(stage.added and (stage.stage, stage.table) == ("caption", "texts") for stage in stages):
        print("texts that caption adds are auxiliary captions of frames\n", file=file)


def print_grading(grading: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Recall per planted fault, precision per reason, in percent."""
    overall = grading["overall"]
    faults = [
        [f"{row['fault']} ({row['level']})", f"{row['planted']:,}", f"{row['caught']:,}", _percent(row["recall"])]
        for row in grading["faults"]
    ]
    faults.append(["all", f"{overall['planted']:,}", f"{overall['caught']:,}", _percent(overall["recall"])])
    print_table("Planted faults", ["fault", "planted", "caught", "recall %"], faults, {1, 2, 3}, file)
    reasons = [
        [row["reason"], f"{row['dropped']:,}", f"{row['right']:,}", _percent(row["precision"])]
        for row in grading["reasons"]
    ]
    reasons.append(["all", f"{overall['dropped']:,}", f"{overall['right']:,}", _percent(overall["precision"])])
    print_table("Dropped", ["reason", "dropped", "right", "precision %"], reasons, {1, 2, 3}, file)


def print_results(rows: Sequence[ResultRow], file: TextIO | None = None) -> None:
    """Metrics, each with its 95 % interval. A note names the rows that are not comparable."""
    names = ("R@1", "R@5", "R@10", MEAN_RECALL, "MdR")
    lines = []
    for row in rows:
        note = "" if row.comparable else f"available n={row.queries:,}, not comparable"
        if row.comparable and row.missing:
            note = f"{row.missing:,} missing count as misses"
        numbers = [_with_interval(row, name) for name in names]
        if row.seeds > 1:
            note = f"{row.seeds} seeds, R@1 {min(row.seeds_r1):.1f} to {max(row.seeds_r1):.1f}" + (
                f"; {note}" if note else ""
            )
        lines.append([row.arm, row.benchmark, row.lang, row.direction, row.slice, *numbers, f"{row.queries:,}", note])
    head = ["arm", "benchmark", "lang", "direction", "slice", *(f"{name} (95 %)" for name in names), "queries", ""]
    print_table("Results", *_without_empty(head, lines), {5, 6, 7, 8, 9, 10}, file)


def print_differences(rows: Sequence[DifferenceRow], file: TextIO | None = None) -> None:
    """Arm a minus arm b in points, by the paired cluster bootstrap over clips."""
    lines = [
        [f"{row.arm_a} - {row.arm_b}", row.benchmark, row.lang, row.direction, row.slice, row.metric,
         f"{row.diff:+.1f}", change_text(row.lo, row.hi), f"{row.p:.3f}",
         "-" if row.smallest is None else f"{row.smallest:.1f}", "yes" if row.lo > 0 or row.hi < 0 else "no",
         _PROTOCOL_NOTE[bool(row.unlike)]]
        for row in rows
    ]  # fmt: skip
    head = [
        "difference",
        "benchmark",
        "lang",
        "direction",
        "slice",
        "metric",
        "points",
        "95 %",
        "p",
        "detectable",
        "excludes 0",
        "",
    ]
    print_table("Paired differences", *_without_empty(head, lines), {6, 7, 8, 9}, file)
    _print_note(len(rows), file)
    _print_unlike({f"{row.arm_a} and {row.arm_b}, {row.benchmark}": row.unlike for row in rows if row.unlike}, file)


def _without_empty(head: list[str], lines: list[list[Cell]]) -> tuple[list[str], list[list[Cell]]]:
    """The table without its last column where all cells of that are empty."""
    return (head, lines) if any(line[-1] for line in lines) else (head[:-1], [line[:-1] for line in lines])


def _print_unlike(fields_of: Mapping[str, Sequence[str]], file: TextIO | None) -> None:
    stream = sys.stdout if file is None else file
    for names, unlike in fields_of.items():
        refused = "protocols differ, so 'm2raap report compare' would refuse to compare them"
        print(f"{names}: {refused}; {'; '.join(unlike)}", file=stream)
    if fields_of:
        print(file=stream)


def _print_note(num_comparisons: int, file: TextIO | None) -> None:
    if note := comparisons_note(num_comparisons):
        print(f"{note}\n", file=sys.stdout if file is None else file)


def print_published(rows: Sequence[PublishedRow], results: Sequence[ResultRow], file: TextIO | None = None) -> None:
    """Published zero-shot results, each beside the arms' values of the same metric on the same benchmark and language."""
    lines = [
        [row.benchmark, row.lang, row.metric, row.system, f"{row.value:.1f}", _beside(row, results),
         row.source + (f"; {row.note}" if row.note else "")]
        for row in rows
    ]  # fmt: skip
    head = ["benchmark", "lang", "metric", "system", "published", "this run", "source"]
    print_table(
        "Published, zero-shot, text to video: other models and data, protocols not checked", head, lines, {4}, file
    )


def _beside(row: PublishedRow, results: Sequence[ResultRow]) -> str:
    """The arms' values that stand beside a published row: of its metric, official, over all queries from text to video."""
    return ", ".join(
        f"{result.arm} {_with_interval(result, row.metric)}"
        for result in results
        if (result.benchmark, result.lang, result.direction, result.scope, result.slice)
        == (row.benchmark, row.lang, "t2v", "official", "all")
    )


def print_rescored(rows: Sequence[RescoredRow], file: TextIO | None = None) -> None:
    """Rescored rows with their labels, and the paired difference of each to the plain cosine of its arm."""
    lines = [
        [row.arm, f"{row.way} ({row.mark})", row.benchmark, row.lang, row.direction, _with_interval(row, "R@1"),
         _with_interval(row, "R@5"), _with_interval(row, "R@10"), _with_interval(row, MEAN_RECALL),
         f"{row.diff:+.1f} ({change_text(row.lo, row.hi)})",
         f"{row.p:.3f}", f"{row.seeds}"]
        for row in rows
    ]  # fmt: skip
    head = ["arm", "way", "benchmark", "lang", "direction", "R@1 (95 %)", "R@5 (95 %)", "R@10 (95 %)",
            f"{MEAN_RECALL} (95 %)", "R@1 to plain cosine", "p", "seeds"]  # fmt: skip
    print_table("Rescored, not the headline", head, lines, set(range(5, len(head))), file)
    _print_note(len(rows), file)
    stream = sys.stdout if file is None else file
    for way, _, label in labels_of(rows):
        print(f"{way}: {label}", file=stream)
    print(file=stream)


def _with_interval(row: RescoredRow | ResultRow, name: str) -> str:
    """The value of a metric with its interval; "-" where it is not in the results, which an older version wrote."""
    return f"{row.metrics[name]:.1f} ({bounds_text(row.intervals[name])})" if name in row.metrics else "-"


def print_bilingual(rows: Sequence[BilingualRow], file: TextIO | None = None) -> None:
    """English and Chinese on the same clips: the paired gap, and how well their ranks agree."""
    lines = []
    for row in rows:
        gap = row.gaps["R@1"]
        lines.append(
            [row.arm, row.benchmark, row.direction, f"{row.clips:,}", f"{gap['en']:.1f}", f"{gap['zh']:.1f}",
             f"{gap['diff']:+.1f} ({change_text(gap['lo'], gap['hi'])})", f"{gap['p']:.3f}",
             "-" if row.spearman is None else f"{row.spearman:.2f}",
             f"{_percent(row.both)}, {_percent(row.only_en)}, {_percent(row.only_zh)}", f"{row.seeds}"]
        )  # fmt: skip
    head = ["arm", "benchmark", "direction", "clips", "R@1 en", "R@1 zh", "en minus zh", "p", "rank correlation",
            "% at rank 1 in both, only en, only zh", "seeds"]  # fmt: skip
    print_table("English and Chinese, the same clips", head, lines, set(range(3, len(head))), file)
    _print_note(len(rows), file)


def print_frame_ablations(rows: Sequence[FrameAblationRow], file: TextIO | None = None) -> None:
    """R@1 with the frames as they are and in every frame ablation, where a temporal module that uses their order loses R@1."""
    lines = [
        [row.arm, row.benchmark, row.lang, row.direction, row.slice, row.frames,
         f"{row.r1:.1f}" + (f" ({bounds_text((row.lo, row.hi))})" if row.lo is not None and row.hi is not None else "")]
        for row in rows
    ]  # fmt: skip
    print_table(
        "Order of frames", ["arm", "benchmark", "lang", "direction", "slice", "frames", "R@1 (95 %)"], lines, {6}, file
    )


def print_two_way(rows: Sequence[TwoWayRow], file: TextIO | None = None) -> None:
    """Two-way accuracy between clips and their twins; nothing where there are none."""
    lines = []
    for row in rows:
        note = (
            f"{row.seeds} seeds, {min(row.seeds_accuracy):.1f} to {max(row.seeds_accuracy):.1f}"
            if row.seeds > 1
            else ""
        )
        accuracy = f"{row.accuracy:.1f} ({bounds_text(row.interval)})"
        lines.append([row.arm, row.way or "-", row.benchmark, row.lang, row.direction, accuracy, f"{row.n:,}", note])
    if lines:
        head = ["arm", "way", "benchmark", "lang", "direction", "accuracy (95 %)", "queries", ""]
        print_table("Two-way accuracy, a clip or its twin, chance 50", *_without_empty(head, lines), {5, 6}, file)


def print_costs(rows: Sequence[CostRow], file: TextIO | None = None) -> None:
    """Seconds of frame extraction, co-training, training and waiting for batches in it, with the R@1 that was reached."""
    names = list(dict.fromkeys(name for row in rows for name in row.r1))
    cotrained = ["co-training s"] if any(row.cotrain_s is not None for row in rows) else []
    lines = [
        [row.arm, row.input, "-" if row.frames_s is None else f"{row.frames_s:.1f}",
         *(["-" if row.cotrain_s is None else f"{row.cotrain_s:.1f}"] if cotrained else []), f"{row.steps:,}",
         f"{row.train_s:.1f}", f"{row.waited_s:.1f}", *(f"{row.r1[n]:.1f}" if n in row.r1 else "-" for n in names)]
        for row in rows
    ]  # fmt: skip
    head = [
        "arm",
        "input",
        "extraction core s",
        *cotrained,
        "steps",
        "training s",
        "waiting s",
        *(f"R@1 {name}" for name in names),
    ]
    print_table("Training time", head, lines, set(range(2, len(head))), file)


def print_modules(rows: Sequence[ModuleRow], file: TextIO | None = None) -> None:
    """Weights (in millions, M), FLOP and time of each arm's modules compared with mean pooling, and the gates
    of the step that was kept."""
    lines = [
        [row.arm, row.module, f"{row.backbone_m:.1f}", f"{row.new_m:.2f}", f"{row.learning_m:.2f}",
         f"{row.gflop:.3g} ({row.gflop / row.mean_gflop:.2f}x)", f"{row.ms:.1f} ({row.ms / row.mean_ms:.2f}x)", _gates_text(row)]
        for row in rows
    ]  # fmt: skip
    head = [
        "arm",
        "module",
        "backbone M",
        "new M",
        "trained M",
        "GFLOP (x mean pooling)",
        "ms (x mean pooling)",
        "gates and norms, kept step",
    ]
    title = "Cost"
    if rows:
        threads = f"{rows[0].threads} thread{'s' if rows[0].threads > 1 else ''}"
        on = f"the CPU, {threads}" if rows[0].device == "cpu" else rows[0].device
        title = f"Cost of one clip of {rows[0].frames} frames; M: million weights; ms on {on}"
    print_table(title, head, lines, {2, 3, 4, 5, 6}, file)


def _gates_text(row: ModuleRow) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in row.gates.items()) or "-"


def print_progressive(rows: Sequence[ProgressiveRow], file: TextIO | None = None) -> None:
    """R@1 and MeanR text to video. Each row adds one thing to the row before it; the table shows the gain and the cost."""
    lines = []
    for row in rows:
        name = row.arm if not row.way else f"{row.arm}, {row.way}"
        seeds = f" ({min(row.seeds_r1):.1f} to {max(row.seeds_r1):.1f})" if len(row.seeds_r1) > 1 else ""
        lines.append(
            [name, row.benchmark, row.lang, f"{row.r1:.1f} [{bounds_text(row.interval, between=', ')}]{seeds}",
             _points(row.step), _points(row.whole),
             f"{row.mean_recall:.1f} [{bounds_text(row.mean_recall_interval, between=', ')}]", _points(row.mean_recall_step),
             "" if row.paper_step is None else f"{row.paper_step:+.1f}",
             f"{row.clips:,}", f"{row.texts:,}",
             f"{row.curation_s:.0f}", f"{row.train_s:.0f}", _PROTOCOL_NOTE[bool(row.unlike or row.unlike_whole)]]
        )  # fmt: skip
    head = ["row", "benchmark", "lang", "R@1 [95 %] (seeds)", "to row before [95 %]", "to first row [95 %]",
            f"{MEAN_RECALL} [95 %]", f"{MEAN_RECALL} to row before [95 %]", "in the paper", "clips", "texts",
            "curation core s", "training s", ""]  # fmt: skip
    print_table("Progressive table, text to video", *_without_empty(head, lines), set(range(3, 13)), file)
    _print_note(of_progressive(rows), file)
    steps = {f"{row.arm} and the row before, {row.benchmark}": row.unlike for row in rows if row.unlike}
    whole = {f"{row.arm} and the first row, {row.benchmark}": row.unlike_whole for row in rows if row.unlike_whole}
    _print_unlike(steps | whole, file)


def _points(difference: Sequence[float] | None) -> str:
    return (
        "-" if difference is None else f"{difference[0]:+.1f} [{bounds_text(difference[1:], sign='+', between=', ')}]"
    )


def print_report(data: ReportData, file: TextIO | None = None) -> None:
    """Prints the tables of the report; slices are in report.html only."""
    stream = sys.stdout if file is None else file
    print(f"{data.title}{' (synthetic world, tiny model)' if data.synthetic else ''}\n", file=stream)
    for note in data.notes:
        print(note, file=stream)
    print(file=stream)
    if data.funnel:
        print_funnel(data.funnel, file)
    if data.grading:
        print_grading(data.grading, file)
    if data.tags:
        from m2raap.report.console_tags import print_taggers  # which prints its tables by this module

        print_taggers(data.tags, file)
    results = [row for row in data.results if row.slice == "all"]
    differences = [row for row in data.differences if row.slice == "all"]
    frame_ablations = [row for row in data.frame_ablations if row.slice == "all"]
    if data.progressive:
        print_progressive(data.progressive, file)
    if results:
        print_results(results, file)
        if note := seed_note(data):
            print(f"{one_line(note)}\n", file=stream)
    if data.published:
        print_published(data.published, data.results, file)
    if data.rescored:
        print_rescored(data.rescored, file)
    if data.bilingual:
        print_bilingual(data.bilingual, file)
    if data.costs:
        print_costs(data.costs, file)
    if data.modules:
        print_modules(data.modules, file)
    if differences:
        print_differences(differences, file)
    if frame_ablations:
        print_frame_ablations(frame_ablations, file)
    print_two_way(data.two_way, file)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def print_table(title: str, head: list[str], rows: list[list[Cell]], right: set[int], file: TextIO | None) -> None:
    """By rich on a terminal, as plain columns elsewhere. `right`: indices of the columns that are aligned right."""
    stream = sys.stdout if file is None else file
    head, *rows = ([one_line(cell) for cell in row] for row in (head, *rows))
    if stream.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(head):  # as Text: rich would read square brackets in a name as markup
            table.add_column(Text(name), justify="right" if number in right else "left", no_wrap=number in right)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console(file=stream).print(table)
        return
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print(title, file=stream)
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), file=stream)
    print(file=stream)
