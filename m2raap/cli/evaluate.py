"""`evaluate`, and `bank` for its QB-Norm rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli import options
from m2raap.cli.stages import RecipeOption, load


def register(app: typer.Typer) -> None:
    app.command("evaluate", help="Ranks and metrics with intervals, from embeddings.")(evaluate)
    app.command("bank", help="Embed training texts: the bank that evaluate --bank needs for QB-Norm.")(bank)


def evaluate(
    embedded: Annotated[Path, typer.Argument(help="an embed folder")],
    out: options.OutOption,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the bootstrap")] = 0,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="the declared benchmark that this corpus is; default: as it was imported"),
    ] = None,
    protocols: Annotated[
        Path | None, typer.Option("--protocols", help="YAML with benchmarks of your own: name, and their fields")
    ] = None,
    bank: Annotated[Path | None, typer.Option("--bank", help="a bank of training texts: also score by QB-Norm")] = None,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    force: options.ForceOption = False,
    as_json: options.JsonOption = False,
) -> None:
    from m2raap.core.errors import M2raapError
    from m2raap.core.files import read_json
    from m2raap.core.view import open_view
    from m2raap.retrieval.benchmarks import asked_for, read_benchmarks
    from m2raap.stages.bank import Bank
    from m2raap.stages.evaluate import side_lines
    from m2raap.stages.shared import Shared
    from m2raap.stages.whole import EvaluateStage

    if not (embedded / "ids.json").is_file():
        raise M2raapError(f"{embedded}: holds no embeddings (ids.json); give the --out of 'm2raap embed'")
    cfg = load(recipe, assignments).evaluate
    if protocols:
        cfg = cfg.model_copy(update={"benchmarks": cfg.benchmarks | read_benchmarks(protocols)})
    own = None if protocol else open_view(embedded).corpus.benchmark
    name = asked_for(protocol, cfg.benchmarks, "--protocol") if protocol else own or "custom"
    EvaluateStage(cfg, Shared(seed=seed)).run_on(embedded, name, out, force, Bank.open(bank) if bank else None)
    if as_json:
        typer.echo(json.dumps(read_json(out / "results.json"), ensure_ascii=False, sort_keys=True))
        return
    _print(read_json(out / "results.json"))
    for line in side_lines(out):
        typer.echo(line)


def _print(tree: dict[str, Any]) -> None:
    from m2raap.report.console import print_results
    from m2raap.report.data import ResultRow

    name = tree["protocol"] + ("" if tree["card"]["declared"] else " (undeclared)")
    print_results([ResultRow(arm="model", benchmark=name, **row) for row in tree["rows"]])
    for lang, directions in tree["compat"]["rows"].items():
        for direction, row in directions.items():
            if row:
                typer.echo(
                    f"compat {lang} {direction}  R@1 {row['R@1']:.1f}  R@5 {row['R@5']:.1f}  R@10 {row['R@10']:.1f}"
                )
    typer.echo(f"compat: {tree['compat']['label']}")


def bank(
    corpus: Annotated[Path, typer.Argument(help="a training corpus, or the folder of a stage over one")],
    out: options.OutOption,
    model: Annotated[
        Path | None, typer.Option("--model", help="a model folder or an adapt folder; default: the bare backbone")
    ] = None,
    without: Annotated[
        list[Path] | None, typer.Option("--without", help="a benchmark whose texts and videos are left out; repeatable")
    ] = None,
    limit: options.LimitOption = None,
    recipe: RecipeOption = None,
    assignments: options.SetOption = None,
    force: options.ForceOption = False,
) -> None:
    from m2raap.core.files import read_json
    from m2raap.core.view import open_view
    from m2raap.stages.whole import model_folder, run_bank

    loaded = load(recipe, assignments)
    view = open_view(corpus, loaded.langs).limited(limit)
    chosen = model_folder(model) if model else loaded.backbone
    run_bank(view, [open_view(path) for path in without or ()], chosen, out, force)
    counts = read_json(out / "manifest.json")["counts"]
    typer.echo(
        f"{out}: {counts['texts']:,} texts of {counts['clips']:,} clips ({counts['left_out']:,} twins, or of texts and videos "
        "of --without, left out)"
    )
