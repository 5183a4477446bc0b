"""`model`: what becomes of an adapted model: it leaves, is mixed with its backbone, is asked what it forgot; others' come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from m2raap.cli.options import JsonOption

app = typer.Typer(help="Export, mix, examine and import adapted models.", no_args_is_help=True, rich_markup_mode=None)
ModelArgument = Annotated[Path, typer.Argument(help="a model folder, or the adapt folder that holds one")]


@app.command("export", help="To open_clip (towers only), onnx (both halves) or hub (the folder with a model card).")
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help="open_clip, onnx or hub")],
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    bench: Annotated[
        Path | None, typer.Option("--bench", help="the keyframes folder of a benchmark: R@1 is measured on it")
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="of onnx: frames a clip; fewer are masked")] = 8,
    licence: Annotated[
        str | None, typer.Option("--licence", help="of hub: what the weights stand under, for the card")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.view import open_view
    from m2raap.export.model_export import export_lines, export_model
    from m2raap.stages.whole import model_folder

    made = export_model(model_folder(model), to, out, open_view(bench) if bench else None, frames, licence)
    show(made, export_lines(made, out), as_json)


def show(tree: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(tree, ensure_ascii=False, sort_keys=True))
        return
    for line in lines:
        typer.echo(line)


@app.command("import", help="A released checkpoint of STAN or Mug-STAN (farewellthree/STAN) -> a model folder.")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="the .pth file; read without unpickling objects")],
    out: Annotated[Path, typer.Option("--out", help="model folder to write")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone", help="open_clip name or local-dir: that gives the shape; default: OpenAI's by its sizes"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.exports import new_folder
    from m2raap.models.config import BackboneConfig
    from m2raap.models.stan_checkpoint import import_stan_checkpoint

    asked = BackboneConfig(model=backbone, random_init=True) if backbone else None
    clip, start = import_stan_checkpoint(checkpoint, asked)
    with new_folder(out) as draft:
        clip.save(draft, {"imported": checkpoint.name, "backbone": start.model_dump(mode="json")})
    made = {"model": clip.digest, "backbone": start.model, "temporal": clip.temporal_cfg.model_dump(mode="json")}
    show(
        made,
        [f"{out}: stan with {made['temporal']['layers']} branch layers on {start.model}, every tensor placed"],
        as_json,
    )


@app.command(
    "interpolate", help="Mix an adapted model with its backbone: a model folder of one alpha, or a curve over several."
)
def interpolate(
    model: ModelArgument,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="0 the backbone, 1 the adapted model; needs --out")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="model folder to write")] = None,
    alphas: Annotated[str, typer.Option("--alphas", help="of the curve")] = "0,0.25,0.5,0.75,1",
    bench: Annotated[
        list[str] | None,
        typer.Option("--bench", metavar="NAME=KEYFRAMES", help="keyframes folder of a benchmark; repeatable"),
    ] = None,
    stills: Annotated[Path | None, typer.Option("--stills", help="csv or jsonl: image, caption_en, caption_zh")] = None,
    gallery: Annotated[int | None, typer.Option("--gallery", min=2, help="rank that many stills at a time")] = None,
    run: Annotated[Path | None, typer.Option("--run", help="leave the curve in this run, for its report")] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.cli.options import parse_benches
    from m2raap.core.errors import UsageError
    from m2raap.core.view import open_view
    from m2raap.export.interpolate import curve, curve_lines, dial, keep_curve
    from m2raap.export.stills import read_stills
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.stages.whole import model_folder

    if (alpha is None) != (out is None):
        raise UsageError("one mixture needs both: --alpha 0.5 --out FOLDER")
    if alpha is not None and out is not None:
        if bench or stills:
            raise UsageError("--alpha writes one mixture; for a curve leave it out and give --alphas")
        digest = dial(model_folder(model), alpha, out)
        show({"alpha": alpha, "model": digest}, [f"{out}: alpha {alpha:g} between the backbone and {model}"], as_json)
        return
    try:
        wanted = [float(part) for part in alphas.split(",")]
    except ValueError:
        raise UsageError(f"--alphas {alphas}: expected numbers such as 0,0.5,1") from None
    if run is not None:
        RunFolder.open(run)  # before the work, not after it
    views = {name: open_view(path) for name, path in parse_benches(bench).items()}
    rows = curve(model_folder(model), wanted, views, read_stills(stills) if stills else None, gallery)
    if run is not None:
        keep_curve(run, rows)
    show({"rows": rows}, curve_lines(rows), as_json)


@app.command("keeps", help="What adaptation did to image-text retrieval: the paired change in R@1 on held-out stills.")
def keeps(
    model: ModelArgument,
    stills: Annotated[Path, typer.Option("--stills", help="csv or jsonl: image, caption_en, caption_zh")],
    gallery: Annotated[int | None, typer.Option("--gallery", min=2, help="rank that many stills at a time")] = None,
    floor: Annotated[
        float | None, typer.Option("--floor", help="points; a lower bound under it is exit code 4, e.g. -1.5")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.export.interpolate import curve_lines
    from m2raap.export.interpolate import keeps as measured
    from m2raap.export.stills import read_stills
    from m2raap.stages.whole import model_folder

    rows = measured(model_folder(model), read_stills(stills), gallery, floor)
    show({"rows": rows}, curve_lines(rows), as_json)
