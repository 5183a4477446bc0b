"""`evaluate`: ranks and metrics of an embed folder or of a similarity matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2raap.cli import options
from m2raap.cli.emit import emit
from m2raap.cli.stages import RecipeOption
from m2raap.core import talk
from m2raap.core.errors import M2raapError, UsageError

if TYPE_CHECKING:
    from m2raap.pipeline.recipe import Recipe
    from m2raap.stages.bank import Bank


def register(app: typer.Typer) -> None:
    app.command(
        "evaluate", help="Compute ranks, metrics and intervals from embeddings or from a similarity matrix (SIM.npy)."
    )(evaluate)


def evaluate(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="EMBEDDED|SIM.npy", help="an embed folder, or similarities of texts (rows) and videos (columns)"
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="folder to write, for an embed folder; results of a matrix are printed")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="seed of the bootstrap (default 0)")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", help="name of the declared benchmark that this is (default: the name at the import)"
        ),
    ] = None,
    protocols: Annotated[
        Path | None, typer.Option("--protocols", help="YAML file that declares benchmarks of your own by name")
    ] = None,
    tags: Annotated[
        Path | None,
        typer.Option(
            "--tags",
            metavar="ANNOTATED",
            help="also results by tag, of the --out of 'm2raap annotate apply EMBEDDED' (as evaluate.tags in a recipe)",
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            "--bank",
            help="also score by QB-Norm with a bank of training texts, or with a training corpus, from which a bank without "
            "the benchmark's texts and videos is written to OUT-bank",
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            help="with --bank CORPUS: the model or adapt folder of the embeddings (default: the bare backbone)",
        ),
    ] = None,
    without: Annotated[
        list[Path] | None,
        typer.Option("--without", help="with --bank CORPUS: another benchmark to leave out of the bank; repeatable"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="with --bank CORPUS: use only so many clips of it")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="for SIM.npy: csv with the columns text,video (default: the diagonal)"),
    ] = None,
    compat: Annotated[
        bool,
        typer.Option(
            "--compat", help="for SIM.npy: also the metrics as CLIP4Clip computes them, which counts ties several times"
        ),
    ] = False,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    if source.suffix == ".npy":
        options.refuse_ignored(context, f"evaluate {source}", ("source", "pairs", "compat", "as_json"))
        _evaluate_matrix(source, pairs, compat, as_json)
        return
    if (pairs is not None or compat) and not source.is_file():
        raise UsageError(f"evaluate {source}: --pairs and --compat are for a matrix, SIM.npy; leave them out")
    if source.is_file():
        raise UsageError(f"evaluate {source}: a matrix of scores is read from .npy; write it with np.save(path, array)")
    if out is None:
        raise UsageError(f"evaluate {source}: give --out FOLDER for the results")
    if bank is None and not (model is None and without is None and limit is None):
        raise UsageError("evaluate: --model, --without and --limit are settings of a new bank; give --bank CORPUS too")
    from m2raap.core.view import open_view
    from m2raap.pipeline.recipe import load_for_stage
    from m2raap.retrieval.benchmarks import asked_for, read_benchmarks
    from m2raap.stages.evaluate import EvaluateStage, side_lines
    from m2raap.stages.shared import Shared

    if not (source / "ids.json").is_file():
        raise M2raapError(f"{source}: the folder holds no embeddings (ids.json); give the --out of 'm2raap embed'")
    loaded = load_for_stage("evaluate", recipe, assignments)
    cfg = loaded.evaluate
    if protocols:
        cfg = cfg.model_copy(update={"benchmarks": cfg.benchmarks | read_benchmarks(protocols)})
    if tags is not None:
        cfg = cfg.model_copy(update={"tags": (tags,)})
    imported_as = None if protocol else open_view(source).corpus.benchmark
    name = asked_for(protocol, cfg.benchmarks, "--protocol") if protocol else imported_as or "custom"
    texts = _open_bank(bank, source, model, without or [], limit, loaded, out, force) if bank else None
    EvaluateStage(cfg, Shared(seed=seed or 0)).run_on(source, name, out, force, texts)
    from m2raap.retrieval.results_file import read_results

    tree = read_results(out)

    def tables() -> None:
        _print_results(tree)
        for line in side_lines(out):
            typer.echo(line)

    emit(tree, tables, as_json)


def _open_bank(
    path: Path,
    embedded: Path,
    model: Path | None,
    without: list[Path],
    limit: int | None,
    recipe: Recipe,
    out: Path,
    force: bool,
) -> Bank:
    """The bank in the folder `path`, or a new one beside `out`, made from the training corpus `path`.

    Raises UsageError for settings of a new bank where `path` is one already.
    """
    from m2raap.core.view import open_view
    from m2raap.stages.bank import IDS, Bank, run_bank
    from m2raap.stages.embedder import model_folder

    if (path / IDS).is_file():
        if model is not None or without or limit is not None:
            raise UsageError(
                f"--bank {path}: this is a finished bank; --model, --without and --limit apply to a new one, leave them out"
            )
        return Bank.open(path)
    folder = out.with_name(f"{out.name}-bank")
    excluded = [open_view(benchmark) for benchmark in (embedded, *without)]
    view = open_view(path, recipe.langs).limited(limit)
    source = model_folder(model) if model else recipe.backbone
    run_bank(view, excluded, source, folder, force, recipe.embed.text_length)
    from m2raap.core.signed import read_manifest

    counts = read_manifest(folder)["counts"]
    talk.log(
        f"{folder}: bank of {counts['texts']:,} texts of {counts['clips']:,} clips; {counts['left_out']:,} texts were left "
        "out, which are repeated or belong to the benchmark or its videos"
    )
    return Bank.open(folder)


def _print_results(tree: dict[str, Any]) -> None:
    from m2raap.report.console import print_results
    from m2raap.report.console_tags import print_by_tag
    from m2raap.report.data import ResultRow

    name = tree["protocol"]["name"] + ("" if tree["protocol"]["declared"] else " (undeclared)")
    print_results([ResultRow(arm="model", benchmark=name, **row) for row in tree["rows"]])
    print_by_tag([ResultRow(arm="model", benchmark=name, **row) for row in tree.get("by_tag", [])])
    for lang, directions in tree["compat"]["rows"].items():
        for direction, row in directions.items():
            if row:
                typer.echo(
                    f"compat {lang} {direction}  R@1 {row['R@1']:.1f}  R@5 {row['R@5']:.1f}  R@10 {row['R@10']:.1f}"
                )
    typer.echo(f"compat: {tree['compat']['label']}")


def _evaluate_matrix(matrix: Path, pairs: Path | None, compat: bool, as_json: bool) -> None:
    from m2raap.retrieval.score import score_matrix

    tree = score_matrix(matrix, pairs, compat)
    for note in tree["notes"]:
        talk.log(f"{matrix}: {note}")
    emit(tree, _matrix_lines(tree), as_json)


def _matrix_lines(tree: dict[str, Any]) -> Iterator[str]:
    from m2raap.retrieval.significance import bounds_text

    tables = {name: tree[name] for name in ("t2v", "v2t", "v2t_rule_b") if name in tree}
    if "compat" in tree:
        tables |= {f"compat {name}": tree["compat"][name] for name in ("t2v", "v2t")}
    for direction, table in tables.items():
        bounds = {
            name: f" ({bounds_text((lo, hi), 2)})"
            for name, (lo, hi) in table.get("intervals", {}).items()
            if name in ("R@1", "MeanR")
        }
        numbers = [
            f"{name} {value:.2f}{bounds.get(name, '')}"
            for name, value in table.items()
            if isinstance(value, int | float)
        ]
        yield f"{direction}  {'  '.join(numbers)}"
    yield f"R@k, MeanR (mean of R@1, R@5, R@10), MdR, MnR, MRR: {tree['tie_policy']}"
    yield f"in brackets: {tree['intervals']}"
    if "compat" in tree:
        yield f"compat: {tree['compat']['label']}"
