"""`model`: export adapted models, interpolate between them and their backbones, and import released checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2raap.cli.emit import emit
from m2raap.cli.options import JsonOption

app = typer.Typer(help="Export, interpolate and import adapted models.", no_args_is_help=True, rich_markup_mode=None)
ModelArgument = Annotated[Path, typer.Argument(help="a model folder, or the adapt folder that holds one")]


@app.command(
    "export",
    help="Export a model to open_clip (towers only), onnx (video and text) or hub (with a model card).",
)
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help="open_clip, onnx or hub")],
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    bench: Annotated[
        Path | None, typer.Option("--bench", help="keyframes folder of a benchmark to measure R@1 on")
    ] = None,
    frames: Annotated[int, typer.Option("--frames", min=1, help="onnx: frames per clip; missing ones are masked")] = 8,
    licence: Annotated[
        str | None, typer.Option("--licence", help="hub: licence of the weights, for the model card")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.view import open_view
    from m2raap.export.model_export import export_lines, export_model
    from m2raap.stages.embedder import model_folder

    tree = export_model(model_folder(model), to, out, open_view(bench) if bench else None, frames, licence)
    emit(tree, export_lines(tree, out), as_json)


@app.command("import", help="Make a model folder from a released checkpoint of STAN or Mug-STAN (farewellthree/STAN).")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="the .pth file, which is read without unpickling objects")],
    out: Annotated[Path, typer.Option("--out", help="model folder to write")],
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="backbone of the same shape, open_clip name or local-dir: (default: OpenAI's of these sizes)",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.core.exports import new_folder
    from m2raap.models.config import BackboneConfig
    from m2raap.models.stan_checkpoint import import_stan_checkpoint

    shape = BackboneConfig(model=backbone, random_init=True) if backbone else None
    clip, start = import_stan_checkpoint(checkpoint, shape)
    with new_folder(out) as draft:
        clip.save(draft, {"imported": checkpoint.name, "backbone": start.model_dump(mode="json")})
    temporal = clip.temporal_cfg.model_dump(mode="json")
    line = f"{out}: stan with {temporal['layers']} branch layers on {start.model}; every tensor was used"
    emit({"model": clip.digest, "backbone": start.model, "temporal": temporal}, [line], as_json)


@app.command(
    "interpolate", help="Interpolate the weights of a model and its backbone: one model folder, or a curve of metrics."
)
def interpolate(
    model: ModelArgument,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="share of the adapted model, 0 to 1, in the model written to --out")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="model folder to write")] = None,
    alphas: Annotated[
        str, typer.Option("--alphas", help="points of the curve, from 0 (backbone) to 1 (adapted)")
    ] = "0,0.25,0.5,0.75,1",
    bench: Annotated[
        list[str] | None,
        typer.Option("--bench", metavar="NAME=KEYFRAMES", help="keyframes folder of a benchmark; repeatable"),
    ] = None,
    stills: Annotated[Path | None, typer.Option("--stills", help="csv or jsonl: image, caption_en, caption_zh")] = None,
    gallery: Annotated[
        int | None, typer.Option("--gallery", min=2, help="rank the stills in groups of this size")
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(
            "--floor", help="exit with 4 if the lower bound of a change at alpha 1 is below so many points, e.g. -1.5"
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="run whose report shows the curve")] = None,
    as_json: JsonOption = False,
) -> None:
    from m2raap.cli.options import parse_benches
    from m2raap.core.errors import UsageError
    from m2raap.core.view import open_view
    from m2raap.export.interpolate import check_floor, curve, curve_lines, keep_curve, write_mixture
    from m2raap.export.stills import read_stills
    from m2raap.pipeline.run_folder import RunFolder
    from m2raap.stages.embedder import model_folder

    if (alpha is None) != (out is None):
        raise UsageError(
            "model interpolate: to write a model give both --alpha and --out, for example --alpha 0.5 --out M"
        )
    if alpha is not None and out is not None:
        if bench or stills or floor is not None:
            raise UsageError(
                "model interpolate: --alpha writes a model without measuring it, so leave --bench, --stills and --floor out; "
                "for a curve give --alphas"
            )
        digest = write_mixture(model_folder(model), alpha, out)
        emit({"alpha": alpha, "model": digest}, [f"{out}: alpha {alpha:g} between the backbone and {model}"], as_json)
        return
    try:
        points = [float(part) for part in alphas.split(",")]
    except ValueError:
        raise UsageError(f"--alphas {alphas}: expected numbers such as 0,0.5,1") from None
    if floor is not None and 1.0 not in points:
        raise UsageError(f"--alphas {alphas}: --floor looks at alpha 1; add 1")
    if run is not None:
        RunFolder.open(run)  # so that a wrong --run fails before the work
    views = {name: open_view(path) for name, path in parse_benches(bench).items()}
    rows = curve(model_folder(model), points, views, read_stills(stills) if stills else None, gallery)
    if run is not None:
        keep_curve(run, rows)
    emit({"rows": rows}, curve_lines(rows), as_json)
    if floor is not None:
        check_floor(rows, floor)
