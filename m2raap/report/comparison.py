"""Shows the result of `compare` as text and as a LaTeX table."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from m2raap.report.console import print_differences, print_table, print_two_way
from m2raap.report.data import DifferenceRow, TwoWayRow
from m2raap.report.multiplicity import comparisons_note
from m2raap.retrieval.rank_counts import MEAN_RECALL
from m2raap.retrieval.significance import bounds_text

METRICS = ("R@1", "R@5", "R@10", MEAN_RECALL, "MdR")


def print_comparison(comparison: Mapping[str, Any], file: TextIO | None = None) -> None:
    """Prints both runs' rows, the paired differences, the published rows, and the fields in which the protocols differ."""
    stream = sys.stdout if file is None else file
    for bench in comparison["benches"]:
        print(f"{bench['name']}: {bench['protocol']}{', ' + bench['note'] if bench['note'] else ''}\n", file=stream)
        lines = []
        for row in bench["rows"]:
            numbers = [f"{row['metrics'][n]:.1f} ({bounds_text(row['intervals'][n])})" for n in METRICS]
            spread = f"{row['seeds']} seeds, R@1 deviates by {row['deviation_r1']:.1f}" if row["seeds"] > 1 else ""
            lost = f"{row['missing']:,} missing count as misses" if row["missing"] else ""
            note = "; ".join(part for part in (spread, lost) if part)
            lines.append([comparison[row["run"]], row["lang"], row["direction"], *numbers, f"{row['queries']:,}", note])
        lines += [
            [f"[published] {row['system']}", row["lang"], "t2v", *_published_values(row), "", _cited(row)]
            for row in bench["published"]
        ]
        head = ["run", "lang", "direction", *(f"{name} (95 %)" for name in METRICS), "queries", ""]
        print_table("Results", head, lines, set(range(3, 4 + len(METRICS))), stream)
        print_two_way(list(_two_way_rows(comparison, bench)), stream)
        names = {"arm_a": comparison["a"], "arm_b": comparison["b"], "benchmark": bench["name"]}
        if bench["differences"]:
            print_differences([DifferenceRow(**names, **row) for row in bench["differences"]], stream)
        for field, values in _differing_fields(bench):
            print(f"{field}: {values}", file=stream)
        if bench["unlike"]:
            print(
                f"allowed to differ: {', '.join(bench['unlike'])}: these runs were not measured in the same way",
                file=stream,
            )
        if bench["published"]:
            print(
                "published rows: zero-shot results of other models and data, whose protocols were not checked",
                file=stream,
            )
    for sentence in _lacking(comparison):
        print(sentence, file=stream)


def _two_way_rows(comparison: Mapping[str, Any], bench: Mapping[str, Any]) -> Iterator[TwoWayRow]:
    for row in bench["two_way"]:
        numbers = {name: value for name, value in row.items() if name != "run"}
        yield TwoWayRow(comparison[row["run"]], bench["name"], "", **numbers)


def _lacking(comparison: Mapping[str, Any]) -> list[str]:
    return [
        f"Not compared: {comparison[run]} has no {', '.join(names)}"
        for run, names in comparison["lacking"].items()
        if names
    ]


def _published_values(row: Mapping[str, Any]) -> list[str]:
    """A published row's values in the columns of their metrics; it has no others."""
    return [f"{row['metrics'][name]:.1f}" if name in row["metrics"] else "" for name in METRICS]


def _cited(row: Mapping[str, Any]) -> str:
    return row["source"] + (f"; {row['note']}" if row["note"] else "")


def _differing_fields(bench: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    protocols = bench["protocols"]
    for field in protocols["a"]:
        values = [str(protocol[field])[:60] for protocol in protocols.values()]
        if len(set(values)) > 1:
            yield field, " | ".join(values)


def as_latex(comparison: Mapping[str, Any]) -> str:
    """A booktabs table with notes on its rows below it, in one minipage.

    It holds the rows of both runs and the published rows, which have a dagger. The better run is bold where p < 0.05, but not
    where the protocols differ. Numbered notes at the benchmark of a row tell of missing videos, an intersection, several
    training seeds, or protocols that differ.
    """
    notes = _Notes()
    lines, cited, bold = [], [], False
    for bench in comparison["benches"]:
        clear = {(row["lang"], row["direction"], row["metric"]): row for row in bench["differences"] if row["p"] < 0.05}
        for row in bench["rows"]:
            numbers = []
            for name in METRICS:
                won = clear.get((row["lang"], row["direction"], name))
                value = f"{row['metrics'][name]:.1f}"
                if won is not None and not bench["unlike"] and (won["diff"] > 0) == (row["run"] == "a"):
                    value, bold = rf"\textbf{{{value}}}", True
                numbers.append(rf"{value} {{\scriptsize [{bounds_text(row['intervals'][name], between=', ')}]}}")
            protocol = _tex(bench["protocols"][row["run"]]["name"]) + (", intersection" if bench["note"] else "")
            marks = notes.marks(_footnotes_of(row, bench))
            where = f"{row['lang']} {row['direction']}"
            lines.append(rf"{_tex(comparison[row['run']])} & {protocol}{marks} & {where} & {' & '.join(numbers)} \\")
        for row in bench["published"]:
            cited.append(f"{row['system']}: {_cited(row)}")
            head = rf"{_tex(row['system'])}$^\dagger$ & {_tex(bench['protocol'])} & {row['lang']} t2v"
            lines.append(rf"{head} & {' & '.join(_published_values(row))} \\")
    sentences = [rf"$^{{{number}}}$ {_tex(text)}." for number, text in enumerate(notes.texts, 1)]
    sentences.append(
        r"Brackets: 95\,\% intervals, cluster bootstrap over videos, Wilson where all hit or all miss."
        + (" Bold: $p < 0.05$, paired." if bold else "")
    )
    sentences.append(rf"{MEAN_RECALL}: the mean of R@1, R@5 and R@10.")
    if note := comparisons_note(sum(len(bench["differences"]) for bench in comparison["benches"])):
        sentences.append(_tex(f"{note}."))
    sentences += [
        _tex(
            f"{row.arm} on {row.benchmark}, {row.lang} {row.direction}: two-way accuracy between a clip and its twin (chance 50) "
            f"{row.accuracy:.1f} [{bounds_text(row.interval, between=', ')}]."
        )
        for bench in comparison["benches"]
        for row in _two_way_rows(comparison, bench)
    ]
    sentences += [_tex(f"{sentence}.") for sentence in _lacking(comparison)]
    if cited:
        sentences.append(r"$^\dagger$ As published, zero-shot, other models and data; not scored by us. ")
        sentences[-1] += _tex(". ".join(dict.fromkeys(cited)) + ".")
    return "\n".join(
        [
            r"\begin{minipage}{\linewidth}",
            r"\centering",
            rf"\begin{{tabular}}{{lll{'r' * len(METRICS)}}}",
            r"\toprule",
            rf"run & benchmark & language & {' & '.join(METRICS)} \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\raggedright\footnotesize",
            *[rf"{text}\par" for text in sentences],
            r"\end{minipage}",
        ]
    )


class _Notes:
    """The notes below a table, without repetition."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def marks(self, texts: list[str]) -> str:
        self.texts += [text for text in texts if text not in self.texts]
        numbers = ",".join(str(self.texts.index(text) + 1) for text in texts)
        return f"$^{{{numbers}}}$" if numbers else ""


def _footnotes_of(row: Mapping[str, Any], bench: Mapping[str, Any]) -> list[str]:
    sentences = []
    if bench["note"]:
        sentences.append(f"Both scored again {bench['note']}")
    if bench["unlike"]:
        values = dict(_differing_fields(bench))
        fields = "; ".join(f"{name} ({values[name]})" if name in values else name for name in bench["unlike"])
        sentences.append(
            f"The protocols of these rows differ in {fields}: they were not measured in the same way, and none is bold"
        )
    if row["missing"]:
        sentences.append(f"{row['missing']:,} of {row['queries']:,} queries are of missing videos and count as misses")
    if row["seeds"] > 1:
        sentences.append(f"Mean of {row['seeds']} training seeds")
    return sentences


def _tex(text: str) -> str:
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
        "<": r"\textless{}", ">": r"\textgreater{}",
    }  # fmt: skip
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text if c.isprintable())
