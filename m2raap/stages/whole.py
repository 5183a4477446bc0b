"""The stages after training, each signed as a whole: embed, evaluate, and the bank of QB-Norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2raap.core.config import what_is_made
from m2raap.core.files import read_json
from m2raap.core.stage import Stage, StepInputs
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages.bank import Bank, make_bank
from m2raap.stages.caption import CaptionStage
from m2raap.stages.embed import EmbedConfig, Embedder, embed
from m2raap.stages.evaluate import evaluate_folder
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.shared import Shared


def model_folder(path: Path) -> Path:
    """The `model/` folder of an adapt stage, or the folder itself where it holds none."""
    return path / "model" if (path / "model" / "model.json").is_file() else path


class EmbedStage(Stage[EmbedConfig]):
    """Embed a benchmark, or any folder of videos: one vector a clip, one a text."""

    name = "embed"
    config = EmbedConfig
    version = 2
    on_training = False
    on_benchmarks = True

    def __init__(self, cfg: EmbedConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())

    @property
    def reads_stages(self) -> tuple[str, ...]:
        """The data stages that a benchmark passes before it is embedded."""
        return (KeyframesStage.name, CaptionStage.name) if self.cfg.captions else (KeyframesStage.name,)

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone]

    def run(self, step: StepInputs) -> bool:
        self.run_on(step.view, step.model or self.shared.backbone, step.folder, step.force)
        return True

    def run_on(self, view: View, model: Path | BackboneConfig | Embedder, folder: Path, force: bool = False) -> None:
        """Embeds a view by an adapted model's folder, a bare backbone, or anybody's model behind the same face."""

        def work(target: Path) -> StageOutput:
            return embed(view, self.cfg, model, target)

        run_single_stage(
            self.name, self.version, self.settings(), folder, work, view=view, inputs=_model_input(model), force=force
        )


def _model_input(model: Path | BackboneConfig | Embedder) -> dict[str, str]:
    if isinstance(model, BackboneConfig):
        return {"model": model.model_dump_json()}
    if not isinstance(model, Path):
        return {"model": model.digest}
    manifest = model.parent / "manifest.json"
    return {"model": read_json(manifest if manifest.exists() else model / "model.json")["digest"]}


class EvaluateStage(Stage[EvaluateConfig]):
    """Rank and score an embedded benchmark, with intervals."""

    name = "evaluate"
    config = EvaluateConfig
    version = 3
    needs = ("embed",)
    on_training = False
    on_benchmarks = True

    def __init__(self, cfg: EvaluateConfig, shared: Shared | None = None) -> None:
        super().__init__(cfg, shared or Shared())
        self.protocol = ""

    def settings(self) -> dict[str, Any]:
        return {"protocol": self.protocol, "seed": self.shared.seed, "rows": what_is_made(self.cfg)}

    def run(self, step: StepInputs) -> bool:
        self.run_on(step.parents[-1], step.view.corpus.benchmark or "", step.folder, step.force)
        return True

    def run_on(
        self, embedded: Path, protocol: str, folder: Path, force: bool = False, bank: Bank | None = None
    ) -> None:
        """Evaluates an embed folder under a benchmark's protocol; `bank`: training texts for QB-Norm."""
        self.protocol = protocol

        def work(target: Path) -> StageOutput:
            return evaluate_folder(embedded, protocol, self.shared.seed, target, self.cfg, bank)

        inputs = {"embed": read_json(embedded / "manifest.json")["digest"]} | ({"bank": bank.digest} if bank else {})
        run_single_stage(self.name, self.version, self.settings(), folder, work, inputs=inputs, force=force)


def run_bank(
    view: View, without: list[View], model: Path | BackboneConfig | Embedder, folder: Path, force: bool
) -> None:
    def work(target: Path) -> StageOutput:
        return make_bank(view, without, model, target)

    inputs = _model_input(model) | {f"without{i}": other.digest for i, other in enumerate(without)}
    run_single_stage("bank", 2, {}, folder, work, view=view, inputs=inputs, force=force)
