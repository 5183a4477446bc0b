from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

from m2raap.report.console import (
    print_bilingual,
    print_costs,
    print_differences,
    print_funnel,
    print_grading,
    print_report,
    print_rescored,
    print_results,
    print_two_way,
)
from m2raap.report.data import FunnelStage, ReportData, seed_note
from m2raap.report.html import render


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_columns_into_a_pipe() -> None:
    out = io.StringIO()
    stages = [
        FunnelStage("filter", "clips", 1400, 0, {"empty": 2, "not_media": 18, "black": 0}, 1380),
        FunnelStage("caption", "texts", 90, 10, {}, 100),
    ]
    print_funnel(stages, out)
    assert out.getvalue() == (
        "Funnel\n"
        "stage    table     in  added  dropped    out  dropped for\n"
        "filter   clips  1,400      0       20  1,380  not_media 18, empty 2\n"
        "caption  texts     90     10        0    100\n"
        "\n"
        "texts that caption adds are auxiliary captions of frames\n"
        "\n"
    )


def test_results_and_grading(sample: Callable[..., ReportData]) -> None:
    data = sample()
    assert data.grading is not None
    out = io.StringIO()
    print_results(data.results, out)
    print_grading(data.grading, out)
    text = out.getvalue()
    assert "available n=118, not comparable" in text
    assert "2 missing count as misses" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["black", "(clip)", "10", "9", "90.0"] in lines
    assert ["mismatch", "19", "16", "84.2"] in lines
    assert "\x1b" not in text


def test_one_training_seed_is_named(sample: Callable[..., ReportData]) -> None:
    """The first arm was not trained."""
    data, out = sample(), io.StringIO()
    arms = list(dict.fromkeys(row.arm for row in data.results))
    data = replace(data, costs=[replace(data.costs[0], arm=arm) for arm in arms[1:]])
    note = f"{', '.join(arms[1:])}: one training seed. A difference smaller than the spread between seeds means nothing"
    print_report(data, out)
    assert f"\n{note}" in out.getvalue() and note in render(data)
    assert not seed_note(replace(data, results=[replace(row, seeds=3, seeds_r1=[1, 2, 3]) for row in data.results]))
    assert not seed_note(replace(data, costs=[])), "nothing was trained"


def test_training_time_stands_beside_what_it_reached(sample: Callable[..., ReportData]) -> None:
    out = io.StringIO()
    print_costs(sample().costs, out)
    assert out.getvalue() == (
        "Training time\n"
        "arm     input              extraction core s  steps  training s  waiting s"
        "  R@1 world-motion en  R@1 world-motion zh\n"
        "raw     raw video                          -    400       731.5      522.2"
        "                 51.0                 49.2\n"
        "m2raap  keyframe-8 stored               71.0    400       108.0        0.0"
        "                 52.3                    -\n"
        "\n"
    )


def test_two_way_accuracy_names_chance_and_way(sample: Callable[..., ReportData]) -> None:
    out = io.StringIO()
    print_two_way(sample().two_way, out)
    title, _, *lines = out.getvalue().splitlines()
    assert title == "Two-way accuracy, a clip or its twin, chance 50"
    assert "81.5 (72.5-90.5)       60  3 seeds, 79.5 to 83.5" in lines[1] and "shuffled" in lines[2]
    print_two_way([], empty := io.StringIO())
    assert not empty.getvalue()


def test_what_stands_beside_the_headline_is_labelled(sample: Callable[..., ReportData]) -> None:
    data, out = sample(), io.StringIO()
    print_differences(data.differences, out)
    print_rescored(data.rescored, out)
    print_bilingual(data.bilingual, out)
    lines = out.getvalue().splitlines()
    assert [line.endswith("protocols differ") for line in lines[2:6]] == [True, False, False, False]
    refused = [line for line in lines if "world-motion: protocols differ" in line]
    assert len(refused) == 1 and "frames: keyframe-8 and uniform-12" in refused[0]
    assert any("dual_softmax (transductive)" in line and "+2.5 (+0.5 to +4.5)" in line for line in lines)
    assert "rerank: late interaction (mug) over the first 50" in lines
    assert any("+1.8 (-3.0 to +6.5)" in line and "40.0, 10.0, 9.0" in line for line in lines)


def test_terminal_tables_take_names_literally() -> None:
    out = Terminal()
    print_funnel([FunnelStage("[bold]x[/bold]\x1b[2J", "clips", 1, 0, {}, 1)], out)
    assert "[bold]x[/bold]" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_notes_column_only_where_there_is_a_note(sample: Callable[..., ReportData]) -> None:
    rows = [row for row in sample().results if not row.missing and row.comparable]
    out = io.StringIO()
    print_results(rows, out)
    assert out.getvalue().splitlines()[1].split()[-1] == "queries"
