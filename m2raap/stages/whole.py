"""The stages after training, each signed as a whole: embed, evaluate, bank."""

from __future__ import annotations

from pathlib import Path

from m2raap.core.files import read_json
from m2raap.core.view import View
from m2raap.core.whole import Made, run_whole_stage
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages.bank import Bank, make_bank
from m2raap.stages.embed import EmbedConfig, Embedder, embed
from m2raap.stages.evaluate import evaluate_folder


def model_folder(path: Path) -> Path:
    """The `model/` folder of an adapt stage, or the folder itself where it holds none."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


def run_embed(
    view: View, cfg: EmbedConfig, model: Path | BackboneConfig | Embedder, folder: Path, force: bool = False
) -> None:
    def work(target: Path) -> Made:
        return embed(view, cfg, model, target)

    settings = cfg.model_dump(mode="json")
    run_whole_stage("embed", 2, settings, folder, work, view=view, inputs=_model_input(model), force=force)


def _model_input(model: Path | BackboneConfig | Embedder) -> dict[str, str]:
    if isinstance(model, BackboneConfig):
        return {"model": model.model_dump_json()}
    if not isinstance(model, Path):
        return {"model": model.digest}
    manifest = model.parent / "manifest.json"
    return {"model": read_json(manifest if manifest.exists() else model / "model.json")["digest"]}


def run_evaluate(
    embedded: Path,
    protocol: str,
    seed: int,
    folder: Path,
    force: bool,
    cfg: EvaluateConfig | None = None,
    bank: Bank | None = None,
) -> None:
    cfg = cfg or EvaluateConfig()

    def work(target: Path) -> Made:
        return evaluate_folder(embedded, protocol, seed, target, cfg, bank)

    inputs = {"embed": read_json(embedded / "manifest.json")["digest"]} | ({"bank": bank.digest} if bank else {})
    settings = {"protocol": protocol, "seed": seed, "rows": cfg.model_dump(mode="json")}
    run_whole_stage("evaluate", 3, settings, folder, work, inputs=inputs, force=force)


def run_bank(
    view: View, without: list[View], model: Path | BackboneConfig | Embedder, folder: Path, force: bool
) -> None:
    def work(target: Path) -> Made:
        return make_bank(view, without, model, target)

    inputs = _model_input(model) | {f"without{i}": other.digest for i, other in enumerate(without)}
    run_whole_stage("bank", 2, {}, folder, work, view=view, inputs=inputs, force=force)
