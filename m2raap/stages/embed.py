"""embed: computes one unit vector for each video and each raw text of a benchmark, with the adapted model or the bare backbone.

No other stage reads the texts of a benchmark. Frame ablations embed the same frames in another order, or one of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.engine import Engine, map_networks, torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.folder import log_timing, plan_digest, plan_of
from m2raap.core.records import Plan
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.embeddings import Embeddings, MadeWith
from m2raap.stages.caption import CaptionStage
from m2raap.stages.embed_parts import (
    PARTS,
    EmbedTask,
    PartColumns,
    PartVectors,
    cached_embedder,
    embed_part,
    forget_embedder,
    is_written,
    opened_embedder,
    part_vectors,
    read_part_vectors,
)
from m2raap.stages.embedder import Embedder, Precision, VideoClipEmbedder, model_input
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.protocol import describe_frames
from m2raap.stages.rerank import NAME as RERANKED
from m2raap.stages.rerank import ClipParts, RerankConfig, rerank
from m2raap.stages.shared import Shared

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

FrameAblation = Literal["shuffled", "reversed", "one_frame", "other_captions"]


class EmbedConfig(Config):
    """How a benchmark is embedded."""

    num_frames: int | None = Field(
        default=None, ge=1, description="Number of frames of each clip; null: all that the stage keyframes stored."
    )
    frame_ablations: tuple[FrameAblation, ...] = Field(
        default=(),
        description="Ways to embed the clips once more: frames shuffled, frames reversed, one frame only, or with the captions "
        "of another clip (other_captions, which needs captions).",
    )
    text_length: int | None = Field(
        default=None,
        ge=3,
        description="Number of tokens to which texts and captions are cut, start and end token included; null: as many as the "
        "text tower takes. STAN cuts at 32 at test.",
    )
    ablation_seed: int = Field(
        default=0, description="Seed of the order in which the ablation 'shuffled' puts the frames."
    )
    captions: bool = Field(
        default=False,
        description="Whether ACG and the interaction are given auxiliary captions of the benchmark's frames (the stage caption "
        "then runs on them); the clips are then also embedded, and reranked, without captions.",
    )
    precision: Precision = Field(
        default="fp32",
        description="Number type of the towers, where they do not rerank: fp32, or bf16, which is faster on a GPU. With the tiny "
        "model on the synthetic world bf16 changes cosines by at most 0.0035 and no R@1 hit of 192 queries.",
    )
    rerank: RerankConfig | None = Field(
        default=None, description="Settings of reranking by an interaction; null: no reranking."
    )

    @model_validator(mode="after")
    def _captions_to_exchange(self) -> EmbedConfig:
        if "other_captions" in self.frame_ablations and not self.captions:
            raise ValueError(
                "embed.frame_ablations other_captions exchanges captions: set embed.captions to true, or leave it out"
            )
        return self

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants of the clips that are embedded: unchanged (""), every ablation, and without captions."""
        return ("", *self.frame_ablations, *(["uncaptioned"] if self.captions else []))


def refuse_without_frames(view: View) -> None:
    """Raises M2raapError for a corpus that no stage has read, so that there are no frames of it."""
    if not view.folders:
        raise M2raapError(
            f"{view.corpus_path}: has no key-frames; give the folder that 'm2raap keyframes' makes from it"
        )


def embed(
    view: View, cfg: EmbedConfig, model: Path | BackboneConfig | VideoCLIP | Embedder, folder: Path
) -> StageOutput:
    """Writes the files of :class:`Embeddings` and, with cfg.rerank, rerank.npz; all parts are embedded in this process.

    Raises M2raapError where no video could be decoded, where the benchmark has no text, for reranking with a model that has no
    interaction or is not one of m2raap, and for a length of texts with a model that is not one of m2raap.
    """
    import torch

    torch.set_num_threads(torch_threads())
    loaded = opened_embedder(model, cfg)

    def parts() -> Iterator[PartVectors]:
        with talk.progress(talk.title(folder, "embed"), view.corpus.counts["clips"]) as advance:
            for part in view.parts(("texts", "jpegs")):
                yield part_vectors(part, view.langs, cfg, loaded)
                advance(len(part.clips))

    return _joined(view, cfg, loaded, folder, parts())


def _joined(view: View, cfg: EmbedConfig, loaded: Embedder, folder: Path, parts: Iterable[PartVectors]) -> StageOutput:
    """Writes the stage's files from the vectors of all parts, and reranks. Raises as `embed`."""
    import torch

    columns = PartColumns()
    video_VE: dict[str, list[np.ndarray]] = {variant: [] for variant in cfg.variants}
    text_TE: list[np.ndarray] = []
    units: dict[str, list[ClipParts]] = {}
    for vectors in parts:
        columns.add(vectors.columns)
        text_TE.append(vectors.text_TE)
        for variant, rows in vectors.video_VE.items():
            video_VE[variant].append(rows)
        for variant, of_clips in vectors.units.items():
            units.setdefault(variant, []).extend(of_clips)
    if not columns.video_ids:
        raise M2raapError(
            f"{view.corpus_path}: none of the benchmark's {view.corpus.counts['clips']} videos could be decoded, so there is "
            "nothing to embed"
        )
    if not columns.text_ids:
        raise M2raapError(f"{view.corpus_path}: the benchmark has no texts in {', '.join(view.langs)}")
    frames = describe_frames(view, cfg.num_frames, cfg.captions)
    embeddings = Embeddings(
        video_VE=_stacked(video_VE[""]),
        text_TE=_stacked(text_TE),
        variants_VE={variant: _stacked(blocks) for variant, blocks in video_VE.items() if variant},
        made_with=MadeWith(frames, loaded.preprocess, loaded.digest),
        **vars(columns),
    )
    files = embeddings.save(folder)
    if cfg.rerank and isinstance(loaded, VideoClipEmbedder):
        tokenize = partial(loaded.clip.backbone.tokenize, text_length=cfg.text_length)
        for variant, of_clips in units.items():
            file = f"{RERANKED}-{variant}.npz" if variant else f"{RERANKED}.npz"
            with torch.inference_mode():  # in fp32: an interaction's scores are compared to the sixth digit
                rerank(loaded.clip, cfg.rerank, embeddings.variant(variant), of_clips, folder / file, tokenize)
            files.append(file)
    counts = {"videos": len(columns.video_ids), "missing": len(columns.missing), "texts": len(columns.text_ids)}
    return StageOutput(files, counts, {"model": loaded.digest})


def _stacked(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([block for block in blocks if len(block)]).astype(np.float32)


class EmbedStage(SingleStage[EmbedConfig]):
    """Embed a benchmark, or any folder of videos: one vector a clip, one a text."""

    name = "embed"
    config = EmbedConfig
    version = 4
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

    def plan(self, step: StepInputs) -> Plan:
        inputs = model_input(step.model or self.shared.backbone)
        return plan_of(self.name, self.version, step.view, self.settings(), inputs)

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if self.cfg.precision == "fp32":  # what folders were made with that name no precision
            del settings["precision"]
        return settings

    def run(self, step: StepInputs) -> bool:
        model = step.model or self.shared.backbone
        return self.run_on(step.view, model, step.folder, step.force, step.engine, step.share)

    def run_on(
        self,
        view: View,
        model: Path | BackboneConfig | Embedder,
        folder: Path,
        force: bool = False,
        engine: Engine | None = None,
        share: tuple[int, int] = (1, 1),
    ) -> bool:
        """Embeds a view by an adapted model's folder, a bare backbone, or any other Embedder; False where parts of other shares
        are still missing. With an `engine` parts are embedded by its workers, unless the model is an Embedder in this process.

        Raises M2raapError for a view without key-frames, and as `embed`.
        """
        alone = engine is None or not isinstance(model, Path | BackboneConfig)
        refuse_without_frames(view)

        def embed_share(target: Path, plan: str) -> bool:
            assert engine is not None and isinstance(model, Path | BackboneConfig)
            tasks = [EmbedTask(view, self.cfg, model, target, part, plan) for part in range(view.num_parts)]
            _map([task for task in tasks if task.part % share[1] == share[0] - 1], engine, target)
            return all(map(is_written, tasks))

        def work(target: Path) -> StageOutput:
            if alone:
                return embed(view, self.cfg, model, target)
            assert isinstance(model, Path | BackboneConfig)
            plan = plan_digest(target)
            tasks = [EmbedTask(view, self.cfg, model, target, part, plan) for part in range(view.num_parts)]
            return _joined(view, self.cfg, cached_embedder(model, self.cfg), target, map(_finished_part, tasks))

        finished = run_single_stage(
            self.name,
            self.version,
            self.settings(),
            folder,
            work,
            view=view,
            inputs=model_input(model),
            force=force,
            share=share,
            work_on_share=None if alone else embed_share,
        )
        forget_embedder()
        if finished:
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        return finished


def _map(tasks: list[EmbedTask], engine: Engine, folder: Path) -> None:
    total = tasks[0].view.corpus.counts["clips"] if tasks else 0
    with talk.progress(talk.title(folder, "embed"), total) as advance:
        for index, (num_clips, seconds, on) in map_networks(engine, embed_part, tasks):
            log_timing(folder, "embed", seconds, part=tasks[index].part, device=on)
            advance(num_clips)


def _finished_part(task: EmbedTask) -> PartVectors:
    vectors = read_part_vectors(task)
    if vectors is None:
        raise M2raapError(f"{task.folder / PARTS}: part {task.part} was damaged or removed; run the same command again")
    return vectors
