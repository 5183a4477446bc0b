"""What `compare` found, as text and as a LaTeX table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from m2raap.report.console import print_differences, print_table
from m2raap.report.data import DifferenceRow

METRICS = ("R@1", "R@5", "R@10", "MdR")


def print_comparison(found: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Both sides' rows, their paired differences, the published rows, and what may differ between the sides."""
    stream = sys.stdout if file is None else file
    for bench in found["benches"]:
        print(f"{bench['name']}: {bench['protocol']}{', ' + bench['note'] if bench['note'] else ''}\n", file=stream)
        lines = []
        for row in bench["rows"]:
            numbers = [
                f"{row['metrics'][n]:.1f} ({row['intervals'][n][0]:.1f}-{row['intervals'][n][1]:.1f})" for n in METRICS
            ]
            spread = f"{row['seeds']} seeds, R@1 deviates by {row['deviation_r1']:.1f}" if row["seeds"] > 1 else ""
            lost = f"{row['missing']:,} missing count as misses" if row["missing"] else ""
            note = "; ".join(part for part in (spread, lost) if part)
            lines.append([found[row["run"]], row["lang"], row["direction"], *numbers, f"{row['queries']:,}", note])
        lines += [
            [f"[published] {row['system']}", "en", "t2v", f"{row['r1']:.1f}", "", "", "", "", _cited(row)]
            for row in bench["published"]
        ]
        head = ["run", "lang", "direction", *(f"{name} (95 %)" for name in METRICS), "queries", ""]
        print_table("Results", head, lines, {3, 4, 5, 6, 7}, stream)
        names = {"arm_a": found["a"], "arm_b": found["b"], "benchmark": bench["name"]}
        if bench["differences"]:
            print_differences([DifferenceRow(**names, **row) for row in bench["differences"]], stream)
        for field, values in _unlike(bench):
            print(f"{field}: {values}", file=stream)
        if found["allowed"]:
            print(f"allowed to differ: {', '.join(found['allowed'])}", file=stream)
        if bench["published"]:
            print(
                "published rows: zero-shot, other models and data; no protocol card of theirs was checked", file=stream
            )


def _cited(row: Mapping[str, Any]) -> str:
    return row["source"] + (f"; {row['note']}" if row["note"] else "")


def _unlike(bench: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cards = bench["cards"]
    for field in cards["a"]:
        values = [str(card[field])[:60] for card in cards.values()]
        if len(set(values)) > 1:
            yield field, " | ".join(values)


def as_latex(found: Mapping[str, Any]) -> str:
    """One booktabs table: both sides and the published rows (dagger); the better side of a clear difference is bold."""
    lines = [
        r"\begin{tabular}{lllrrrr}",
        r"\toprule",
        r"run & benchmark & language & R@1 & R@5 & R@10 & MdR \\",
        r"\midrule",
    ]
    cited: list[str] = []
    for bench in found["benches"]:
        clear = {(row["lang"], row["direction"], row["metric"]): row for row in bench["differences"] if row["p"] < 0.05}
        for row in bench["rows"]:
            where = f"{row['lang']} {row['direction']}"
            numbers = []
            for name in METRICS:
                lo, hi = row["intervals"][name]
                won = clear.get((row["lang"], row["direction"], name))
                bold = won is not None and (won["diff"] > 0) == (row["run"] == "a")
                value = f"{row['metrics'][name]:.1f}"
                value = rf"\textbf{{{value}}}" if bold else value
                numbers.append(rf"{value} {{\scriptsize [{lo:.1f}, {hi:.1f}]}}")
            lines.append(rf"{_tex(found[row['run']])} & {_tex(bench['protocol'])} & {where} & {' & '.join(numbers)} \\")
        for row in bench["published"]:
            cited.append(f"% published: {row['system']}: {_cited(row)}")
            lines.append(
                rf"{_tex(row['system'])}$^\dagger$ & {_tex(bench['protocol'])} & en t2v & {row['r1']:.1f} & & & \\"
            )
        if bench["note"]:
            cited.append(f"% {bench['name']}: {bench['note']}")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        "% brackets: 95 % intervals, cluster bootstrap over videos; bold: p < 0.05, paired",
    ]
    if any("dagger" in line for line in lines):
        lines.append("% dagger: as published, zero-shot, other models and data; not scored by us")
    return "\n".join([*lines, *cited])


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text if c.isprintable())
