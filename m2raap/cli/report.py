"""`report`: the page of a run, comparisons of runs, and a check of a corpus for suspicious data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption, TruthOption, refuse_ignored
from m2raap.core.errors import ThresholdNotMet, UsageError
from m2raap.core.talk import one_line

if TYPE_CHECKING:
    from m2raap.report.data import ReportData

EXAMPLES_A_FINDING = 3

app = typer.Typer(
    help="Write the report of a run, compare runs, look for suspicious data.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("write", help="Write report.html over a run.")
def write(
    run: Annotated[Path, typer.Argument(help="the --out of 'm2raap run'")],
    truth: TruthOption = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.config import build
    from m2raap.pipeline.recipe import Recipe
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.report import report as write_report

    folder = RunFolder.open(run)
    emit_report(*write_report(folder, build(Recipe, folder.tree["recipe"], str(run / "run.json")), truth), as_json)


def emit_report(data: ReportData, path: Path, as_json: bool) -> None:
    """Prints the tables of a report and the path of its page."""
    from m2raap.report.console import print_report
    from m2raap.report.data import to_json

    def tables() -> None:
        print_report(data)
        typer.echo(f"\nreport: {path}")

    emit(to_json(data), tables, as_json)


@app.command(
    "compare",
    help="Compare two runs, or one with published results, if their protocols allow it. A missed threshold is exit code 4.",
)
def compare(
    context: typer.Context,
    a: Annotated[Path, typer.Argument(help="a run, one arm's folder in it, or an evaluate folder")],
    b: Annotated[
        Path | None, typer.Argument(help="what to compare A with (default: print the rows of A and check thresholds)")
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="print a LaTeX table (booktabs)")] = False,
    intersect: Annotated[
        bool, typer.Option("--intersect", help="compare on the clips and texts that both have")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="a field of the protocol that may differ; the output says so"),
    ] = None,
    min_r1: Annotated[
        float | None,
        typer.Option(
            "--min-r1",
            min=0,
            max=100,
            help="threshold: the least official text-to-video R@1 that A needs on each of its benchmarks",
        ),
    ] = None,
    no_worse_than: Annotated[
        Path | None,
        typer.Option(
            "--no-worse-than",
            metavar="RUN",
            help="threshold: A's official R@1 must not be significantly below this run's, on each of its benchmarks",
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="compare the zero-shot run A of released weights with the results published for them"
        ),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="TAG",
            help="with --published: which released weights the weight file holds, e.g. openai",
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option("--within", min=0, help="with --published: a difference of more points is exit code 4"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="seed of the bootstrap")] = 0,
    as_json: JsonOption = False,
) -> None:
    if published:
        used = ("a", "published", "weights", "within", "as_json")
        refuse_ignored(context, "report compare --published", used)
        _compare_with_published(a, weights, within, as_json)
        return
    if weights is not None or within is not None:
        raise UsageError("report compare: --weights and --within need --published")
    from m2raap.report.compare import alone, failed_thresholds
    from m2raap.report.compare import compare as compare_contenders
    from m2raap.report.comparison import as_latex, print_comparison
    from m2raap.report.contenders import open_contenders

    if intersect and b is None:
        raise UsageError(
            "report compare: --intersect needs a second run B; thresholds are checked on official rows only"
        )
    ours, *others = open_contenders([path for path in (a, b, no_worse_than) if path is not None])
    allowed = allow or ()
    # Thresholds are checked on official rows: on the clips that both have, a run without half of the videos could pass.
    official = alone(ours, seed, allowed) if b is None or min_r1 is not None else None
    comparison = (
        official if b is None else compare_contenders(ours, others[0], intersect=intersect, allow=allowed, seed=seed)
    )
    assert comparison is not None
    against: dict[str, Any] | None = None
    if no_worse_than is not None:
        against = compare_contenders(ours, others[-1], allow=allowed, seed=seed)
    failed = failed_thresholds(official or comparison, min_r1, against)
    if latex and not as_json:
        typer.echo(as_latex(comparison))
    else:
        emit(comparison | {"failed_thresholds": failed}, lambda: print_comparison(comparison), as_json)
    if failed:
        raise ThresholdNotMet("threshold not met: " + "; ".join(failed))


def _compare_with_published(run: Path, weights: str | None, within: float | None, as_json: bool) -> None:
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.report.verify import verify, verify_lines

    rows = verify(RunFolder.open(run), weights, within)
    emit(rows, verify_lines(rows), as_json)


@app.command("lint", help="Look for copies, generic captions and leaks in a corpus or benchmark, without changing it.")
def lint(
    corpus: Annotated[
        Path, typer.Argument(help="a corpus, or its keyframes folder, whose frames are then compared too")
    ],
    against: Annotated[
        Path | None, typer.Option("--against", help="training data that is searched for texts and clips of CORPUS")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.view import open_view
    from m2raap.report.lint import lint as look

    findings = look(open_view(corpus), open_view(against) if against else None)
    emit(findings, _lint_lines(findings), as_json)


def _lint_lines(tree: Mapping[str, Any]) -> Iterator[str]:
    texts = ", ".join(f"{count:,} {lang} texts" for lang, count in tree["texts"].items())
    yield f"{tree['clips']:,} clips ({tree['clips_with_frames']:,} with frames), {texts}"
    for row in tree["findings"]:
        share = f"{row['count']:,} of {row['of']:,}" if row["of"] >= row["count"] else f"{row['count']:,}"
        yield f"{row['what']}{' ' + row['lang'] if row['lang'] else ''}: {share}: {row['says']}"
        for example in row["examples"][:EXAMPLES_A_FINDING]:
            names = example if isinstance(example, list | str) else example["text"]
            yield "    " + one_line(", ".join(names) if isinstance(names, list) else str(names))[:140]
    if not tree["findings"]:
        yield "nothing found"
    yield from tree["not_looked_at"]
