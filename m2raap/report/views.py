"""Arranges report data as the page shows it: groups, pivots, shared axes. It makes no HTML except the small charts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from markupsafe import Markup

from m2raap.report.charts import NUM_COLOURS, bar, bar_chart, line_chart, whisker
from m2raap.report.data import (
    Curve,
    DroppedItem,
    FrameAblationRow,
    FunnelStage,
    ProtocolRow,
    ReportData,
    ResultRow,
    labels_of,
    seed_note,
)
from m2raap.report.multiplicity import comparisons_note, of_progressive
from m2raap.retrieval.tag_slices import LEAST_VIDEOS, MOST_TAGS

LANGUAGES = {"en": "English", "zh": "Chinese"}
DIRECTIONS = {
    "t2v": "text to video",
    "v2t": "video to text",
    "v2t_rule_b": "video to text, rule b (among all captions)",
}
MISSING_SHOWN = 50  # ids of missing clips shown for one protocol; report.json has all
T = TypeVar("T")


def view(data: ReportData) -> dict[str, Any]:
    """Everything that the template needs, with the data itself as `data`."""
    return {
        "data": data,
        "tiles": _tiles(data),
        "progressive": [
            {"benchmark": benchmark, "lang": lang, "rows": rows}
            for (benchmark, lang), rows in _grouped(data.progressive, lambda row: (row.benchmark, row.lang))
        ],
        "interpolation": _interpolation(data),
        "results": _results(data),
        "seed_note": seed_note(data),
        "rescored": [
            {"benchmark": benchmark, "lang": lang, "direction": direction, "rows": rows}
            for (benchmark, lang, direction), rows in _grouped(
                data.rescored, lambda row: (row.benchmark, row.lang, row.direction)
            )
        ],
        "ways": labels_of(data.rescored),
        "published": [
            {
                "benchmark": benchmark,
                "lang": lang,
                "metric": metric,
                "rows": rows,
                "arms": [
                    row
                    for row in _whole(data)
                    if (row.benchmark, row.lang, row.direction, row.scope) == (benchmark, lang, "t2v", "official")
                    and metric in row.metrics
                ],
            }
            for (benchmark, lang, metric), rows in _grouped(
                data.published, lambda row: (row.benchmark, row.lang, row.metric)
            )
        ],
        "notes": {
            "progressive": comparisons_note(of_progressive(data.progressive)),
            "differences": comparisons_note(len(data.differences)),
            "rescored": comparisons_note(len(data.rescored)),
            "bilingual": comparisons_note(len(data.bilingual)),
            "interpolation": comparisons_note(sum(row.alpha > 0 for row in data.interpolation)),
        },
        "bilingual": [
            {"benchmark": benchmark, "direction": direction, "rows": rows}
            for (benchmark, direction), rows in _grouped(data.bilingual, lambda row: (row.benchmark, row.direction))
        ],
        "protocols": [_protocol(row) for row in data.protocols],
        "differences": _differences(data),
        "differing": _differing(data),
        "slices": _slices([row for row in data.results if row.scope == "official" and row.slice != "all"]),
        "lengths": _slices(data.lengths),
        "by_tag": _by_tag(data.by_tag),
        "least_videos": LEAST_VIDEOS,
        "most_tags": MOST_TAGS,
        "frame_ablations": _frame_ablations(data),
        "two_way": [
            {"benchmark": benchmark, "lang": lang, "direction": direction, "rows": rows}
            for (benchmark, lang, direction), rows in _grouped(
                data.two_way, lambda row: (row.benchmark, row.lang, row.direction)
            )
        ],
        "charts": _charts(data.curves),
        "cost_names": list(dict.fromkeys(name for row in data.costs for name in row.r1)),
        "with_cotraining": any(row.cotrain_s is not None for row in data.costs),
        "funnel": _funnel(data.funnel),
        "dropped": _dropped(data),
        "timings": _timings(data),
        "examples": _grouped(data.examples, lambda example: (example.kind, example.arm)),
        "languages": LANGUAGES,
        "directions": DIRECTIONS,
    }


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[tuple[Any, list[T]]]:
    """Items by key, in order of first appearance."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())


def _whole(data: ReportData) -> list[ResultRow]:
    return [row for row in data.results if row.slice == "all"]


def _protocol_names(data: ReportData) -> dict[tuple[str, str], str]:
    """Benchmark and arm -> the name of its protocol; "" where the benchmark has one for all arms."""
    return {(row.benchmark, arm): row.name for row in data.protocols for arm in row.arms}


def _tiles(data: ReportData) -> list[dict[str, Any]]:
    tiles, protocols = [], _protocol_names(data)
    official = [row for row in _whole(data) if row.scope == "official" and row.direction == "t2v"]
    for row in official:
        if row.arm != data.headline_arm:
            continue
        base = [
            other
            for other in official
            if other.arm == data.baseline_arm and (other.benchmark, other.lang) == (row.benchmark, row.lang)
        ]
        unlike = bool(base) and protocols.get((row.benchmark, row.arm)) != protocols.get((row.benchmark, base[0].arm))
        tiles.append(
            {
                "row": row,
                "interval": row.intervals["R@1"],
                "baseline": base[0] if base else None,
                "unlike": unlike,
            }
        )
    return tiles


def _results(data: ReportData) -> list[dict[str, Any]]:
    """Headline tables, and below each all metrics: expected, pessimistic, and by CLIP4Clip's arithmetic."""
    protocol_of = _protocol_names(data)
    compat = {(row.benchmark, row.lang, row.direction, row.arm): row for row in data.compat}
    tables = []
    for (benchmark, lang, direction), rows in _grouped(_whole(data), lambda r: (r.benchmark, r.lang, r.direction)):
        bounds = [row.intervals["R@1"] for row in rows]
        low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
        margin = max(1.0, 0.06 * (high - low))
        low, high = max(0.0, low - margin), min(100.0, high + margin)
        tables.append(
            {
                "benchmark": benchmark,
                "lang": lang,
                "direction": direction,
                "axis": (low, high),
                "rows": [
                    (row, whisker(row.metrics["R@1"], *row.intervals["R@1"], axis_lo=low, axis_hi=high)) for row in rows
                ],
                "protocols": [protocol_of.get((benchmark, row.arm), "") for row in rows],
                "compat": [compat.get((benchmark, lang, direction, row.arm)) for row in rows],
                "ties": max(row.tied_queries for row in rows),
                "gallery": max(row.gallery for row in rows),
            }
        )
    return tables


def _differing(data: ReportData) -> list[tuple[str, list[str]]]:
    """(two arms and a benchmark, fields) for the pairs of arms whose protocols differ on a benchmark."""
    differing = {
        (f"{row.arm_a} and {row.arm_b} on {row.benchmark}", tuple(row.unlike)) for row in data.differences if row.unlike
    }
    return [(pair, list(fields)) for pair, fields in sorted(differing)]


def _differences(data: ReportData) -> list[tuple[Any, Any]]:
    if not data.differences:
        return []
    reach = max(1.0, *(max(abs(row.lo), abs(row.hi)) for row in data.differences))
    return [(row, whisker(row.diff, row.lo, row.hi, -reach, reach, mark_zero=True)) for row in data.differences]


def _pivot(rows: list[T], line: Callable[[T], str], column: Callable[[T], str]) -> dict[str, Any]:
    """Rows as a table of lines by columns; a cell without a row is None."""
    columns = list(dict.fromkeys(column(row) for row in rows))
    cells = {(line(row), column(row)): row for row in rows}
    return {
        "columns": columns,
        "lines": [
            (name, [cells.get((name, title)) for title in columns]) for name in dict.fromkeys(line(row) for row in rows)
        ],
    }


def _slices(rows: list[ResultRow]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "lang": lang,
            "direction": direction,
            **_pivot(group, lambda r: r.arm, lambda r: f"{r.slice} ({r.queries})"),
        }
        for (benchmark, lang, direction), group in _grouped(rows, lambda r: (r.benchmark, r.lang, r.direction))
    ]


def _by_tag(rows: list[ResultRow]) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "lang": lang,
            "direction": direction,
            **_pivot(group, lambda r: f"{r.slice} ({r.queries})", lambda r: r.arm),
        }
        for (benchmark, lang, direction), group in _grouped(rows, lambda r: (r.benchmark, r.lang, r.direction))
    ]


def _frame_ablations(data: ReportData) -> list[dict[str, Any]]:
    return [
        {
            "benchmark": benchmark,
            "lang": lang,
            "direction": direction,
            "slice": name,
            "chart": _frame_ablation_chart(group) if name == "all" else "",
            **_pivot(group, lambda r: r.arm, lambda r: r.frames),
        }
        for (benchmark, lang, direction, name), group in _grouped(
            data.frame_ablations, lambda r: (r.benchmark, r.lang, r.direction, r.slice)
        )
    ]


def _frame_ablation_chart(rows: list[FrameAblationRow]) -> Markup:
    """Bars of every arm; a frame ablation has the colour that its column of the table has in the legend."""
    colour = {frames: number for number, frames in enumerate(dict.fromkeys(row.frames for row in rows))}
    return bar_chart(
        [
            (arm, [(colour[r.frames], r.r1, r.r1 if r.lo is None else r.lo, r.r1 if r.hi is None else r.hi) for r in group])
            for arm, group in _grouped(rows, lambda row: row.arm)
        ],
        "R@1 by frame ablation",
    )  # fmt: skip


def _interpolation(data: ReportData) -> list[dict[str, Any]]:
    """A chart for each language and direction, a line for each set, and the numbers of every set."""
    groups = []
    for (lang, direction), rows in _grouped(data.interpolation, lambda row: (row.lang, row.direction)):
        sets = _grouped(sorted(rows, key=lambda row: row.alpha), lambda row: row.set)
        curves = [
            Curve("R@1", name, [(row.alpha, row.r1) for row in group], [(row.lo, row.hi) for row in group])
            for name, group in sets
        ]
        groups.append(
            {
                "lang": lang,
                "direction": direction,
                "sets": [{"set": name, "what": group[0].what, "rows": group} for name, group in sets],
                "svg": line_chart(curves, "alpha"),
                "legend": list(enumerate(name for name, _ in sets)),
            }
        )
    return groups


def _protocol(row: ProtocolRow) -> dict[str, Any]:
    """A protocol with its first missing clips, grouped by reason."""
    first_missing = list(row.missing.items())[:MISSING_SHOWN]
    return {
        "row": row,
        "missing": _grouped(first_missing, lambda item: item[1]),
        "rest": len(row.missing) - len(first_missing),
        "preprocess": _grouped(row.preprocess.items(), lambda item: item[1]),
    }


def _charts(curves: list[Curve]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "svg": line_chart(group),
            "legend": [(number % NUM_COLOURS, curve) for number, curve in enumerate(group) if curve.points],
        }
        for name, group in _grouped(curves, lambda curve: curve.chart)
    ]


def _funnel(stages: list[FunnelStage]) -> list[dict[str, Any]]:
    tables = []
    for table, group in _grouped(stages, lambda stage: stage.table):
        widest = max(1, *(stage.rows_in + stage.added for stage in group))
        lines = []
        for stage in group:
            lost = sum(stage.dropped.values())
            assert stage.rows_in + stage.added == stage.rows_out + lost, stage
            reasons = sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))
            lines.append((stage, lost, bar(stage.rows_out / widest, lost / widest), [r for r in reasons if r[1]]))
        first, last = group[0].rows_in, group[-1].rows_out
        tables.append({"table": table, "lines": lines, "first": first, "last": last})
    return tables


def _dropped(data: ReportData) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for stage in data.funnel:
        for reason, rows in stage.dropped.items():
            counts[reason] = counts.get(reason, 0) + rows
    dropped: dict[str, list[DroppedItem]] = dict(_grouped(data.dropped, lambda item: item.reason))
    nearly: dict[str, list[DroppedItem]] = dict(_grouped(data.nearly, lambda item: item.reason))
    return [
        {
            "reason": reason,
            "count": counts.get(reason),
            "kinds": [
                (title, items.get(reason, [])) for title, items in (("dropped", dropped), ("nearly dropped", nearly))
            ],
        }
        for reason in dict.fromkeys((*dropped, *nearly))
    ]


def _timings(data: ReportData) -> list[tuple[str, float, Any]]:
    longest = max((seconds for _, seconds in data.timings), default=0.0)
    return [(stage, seconds, bar(seconds / max(longest, 1e-9), 0.0)) for stage, seconds in data.timings]
