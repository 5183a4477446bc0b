"""Published results: each is shown beside values of its own metric, and cited."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from m2raap.report.console import print_published
from m2raap.report.data import ProtocolRow, ReportData, ResultRow
from m2raap.report.html import render
from m2raap.report.multiplicity import comparisons_note
from m2raap.report.published import published, published_rows
from m2raap.retrieval.benchmarks import BENCHMARKS

M2RAAP = {
    ("msrvtt-1ka-jsfusion", "en"): (65.3, 65.7),
    ("didemo-paragraph", "en"): (66.8, 63.2),
    ("lsmdc-1k", "en"): (40.0, 40.2),
    ("activitynet-paragraph", "en"): (63.7, 64.6),
    ("vatex-val", "en"): (75.5, 79.0),
    ("vatex-val", "zh"): (68.5, 74.3),
    ("youku", "zh"): (50.8, 59.4),
}


def test_the_values_of_the_papers_figure_are_no_recall_at_1() -> None:
    rows = {
        (row["system"], row["benchmark"], row["lang"]): row["metrics"]
        for name in BENCHMARKS
        for row in published(name)
        if "figure 1" in row["source"]
    }
    assert rows == {
        (system, *where): {"MeanR": value}
        for where, values in M2RAAP.items()
        for system, value in zip(("best before M2-RAAP", "M2-RAAP"), values, strict=True)
    }


def test_rows_are_cited_and_in_order() -> None:
    for name, benchmark in BENCHMARKS.items():
        rows = published(name)
        assert all(len(row["source"]) > 10 and row["lang"] in benchmark.langs and row["metrics"] for row in rows)
        keys = [(row["metrics"].get("MeanR", -1), row["metrics"].get("R@1", -1)) for row in rows]
        assert keys == sorted(keys)


@pytest.fixture
def didemo(sample: Callable[..., ReportData]) -> ReportData:
    """The sample's results as if its benchmark were DiDeMo."""
    data = sample()
    protocols = [replace(row, protocol={**(row.protocol or {}), "name": "didemo-paragraph"}) for row in data.protocols]
    return replace(data, protocols=protocols, published=published_rows(protocols, data.results))


def test_the_report_shows_each_metric_in_a_table_of_its_own(didemo: ReportData) -> None:
    assert {row.lang for row in didemo.published} == {"en"} and {row.benchmark for row in didemo.published} == {
        "world-motion"
    }
    page = render(didemo)
    section = page[page.index('<section id="published">') :]
    r1, mean_recall = section[: section.index("</section>")].split('<div class="card results">')[1:]
    assert "R@1 · world-motion" in r1 and "MeanR · world-motion" in mean_recall
    assert "63.2" in mean_recall and "66.8" in mean_recall and "57.9" not in mean_recall
    assert "57.9" in r1 and "63.2" not in r1 and "66.8" not in r1
    for row in didemo.results:
        if (row.lang, row.direction, row.scope, row.slice) == ("en", "t2v", "official", "all"):
            assert f"{row.metrics['MeanR']:.1f}" in mean_recall and f"{row.metrics['R@1']:.1f}" in r1
    assert 'id="published"' not in render(replace(didemo, published=[]))


def test_the_console_shows_ours_in_the_same_metric(didemo: ReportData) -> None:
    out = io.StringIO()
    print_published(didemo.published, didemo.results, out)
    (line,) = [line for line in out.getvalue().splitlines() if " M2-RAAP  " in line and "best before" not in line]
    (ours,) = [
        row
        for row in didemo.results
        if (row.arm, row.lang, row.direction, row.scope, row.slice)
        == ("STAN on clean data", "en", "t2v", "official", "all")
    ]
    assert "MeanR" in line and "63.2" in line and f"STAN on clean data {ours.metrics['MeanR']:.1f} (" in line


def test_results_of_an_older_version_have_no_mean_recall(didemo: ReportData) -> None:
    def without(row: ResultRow) -> ResultRow:
        tables = [{k: v for k, v in t.items() if k != "MeanR"} for t in (row.metrics, row.pessimistic, row.intervals)]
        return replace(row, metrics=tables[0], pessimistic=tables[1], intervals=tables[2])

    data = replace(didemo, results=[without(row) for row in didemo.results])
    assert "Beside published results" in render(data)
    out = io.StringIO()
    print_published(data.published, data.results, out)
    assert "mean pooling, adapted -" in out.getvalue()


def test_an_undeclared_benchmark_has_none(sample: Callable[..., ReportData]) -> None:
    data = sample()
    assert (
        published_rows([*data.protocols, ProtocolRow("b", "", [], None, None, False, {}, {}, {})], data.results) == []
    )


def test_tables_say_how_many_comparisons_they_hold(sample: Callable[..., ReportData]) -> None:
    assert comparisons_note(1) == comparisons_note(0) == ""
    assert comparisons_note(1_000).startswith(
        "1,000 comparisons; neither intervals nor p are corrected for their number"
    )
    assert "about 2.0 of the intervals" in comparisons_note(40)
    data = sample()
    page = render(replace(data, differences=data.differences * 9))
    assert "36 comparisons; neither intervals nor p are corrected" in page and "about 1.8 of the intervals" in page
    assert f"{len(data.rescored)} comparisons; neither" in page
    assert "8 comparisons; neither" in page, "of four interpolations on two sets"
