from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.report.charts import bar, bar_chart, line_chart, round_ticks, whisker
from m2raap.report.data import Curve

NUMBER = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBER, NUMBER)
def test_ticks_cover_the_range_in_round_steps(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    if high - low < 1e-3:
        return
    ticks = round_ticks(low, high, 5)
    slack = (high - low) * 1e-6
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9


def test_ticks_by_hand() -> None:
    assert round_ticks(0, 400, 5) == [0, 100, 200, 300, 400]
    assert round_ticks(0.12, 0.49, 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert round_ticks(3, 3, 5) == [3]


@given(st.lists(st.tuples(st.integers(0, 10_000), NUMBER), max_size=20))
def test_lines_stay_inside_the_panel(points: list[tuple[float, float]]) -> None:
    svg = str(line_chart([Curve("loss", "a", sorted(points))]))
    for line in re.findall(r'<polyline [^>]*points="([^"]*)"', svg):
        for pair in line.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 520 and 0 <= y <= 240
    assert bool(svg) == bool(points)


def test_a_band_holds_its_line() -> None:
    svg = str(line_chart([Curve("r", "a", [(0, 5.0), (1, 9.0)], [(1.0, 6.0), (8.0, 12.0)])], "alpha"))
    (band,) = re.findall(r'<polygon class="band c0" points="([^"]*)"', svg)
    (line,) = re.findall(r'<polyline class="line c0" points="([^"]*)"', svg)
    (hi0, hi1, lo1, lo0), (y0, y1) = ([float(pair.split(",")[1]) for pair in found.split()] for found in (band, line))
    assert 0 <= hi0 < y0 < lo0 <= 240 and 0 <= hi1 < y1 < lo1 <= 240 and 'aria-label="r over alpha"' in svg


def test_bars_are_as_long_as_their_values() -> None:
    svg = str(bar_chart([("<b>", [(0, 20.0, 15.0, 30.0), (1, 40.0, 30.0, 50.0)])], "title"))
    short, long = (float(w) for w in re.findall(r'<rect class="c[01]" [^>]*width="([\d.]+)"', svg))
    assert long == pytest.approx(2 * short, abs=0.2) and long < 520
    ends = [tuple(map(float, pair)) for pair in re.findall(r'class="error" x1="([\d.]+)" x2="([\d.]+)"', svg)]
    assert ends[1][0] < 12 + long < ends[1][1] <= 508.1 and "<b>" not in svg
    assert bar_chart([("a", [(0, 0.0, 0.0, 0.0)])], "nothing to see") == ""


def test_higher_values_stand_higher() -> None:
    svg = str(line_chart([Curve("r", "a", [(0, 1.0), (1, 9.0)])]))
    (line,) = re.findall(r'points="([^"]*)"', svg)
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in line.split())
    assert x0 < x1 and y0 > y1


def test_whisker_places_the_dot_within_its_span() -> None:
    svg = str(whisker(50, 40, 70, 0, 100))
    (lo, hi) = map(float, re.findall(r'class="span" x1="([\d.]+)" x2="([\d.]+)"', svg)[0])
    dot = float(re.findall(r'cx="([\d.]+)"', svg)[0])
    assert lo < dot < hi
    assert (hi - dot) / (dot - lo) == pytest.approx(2, rel=0.05)
    assert "zero" not in svg and "zero" in whisker(1, 0, 2, -3, 3, mark_zero=True)


def test_bar_shares() -> None:
    assert 'class="kept" width="75.00"' in bar(0.75, 0.25)
    assert 'x="75.00" width="25.00"' in bar(0.75, 0.25)


def test_labels_are_escaped() -> None:
    assert "<b>" not in line_chart([Curve("<b>", "x", [(0, 1), (1, 2)])])
