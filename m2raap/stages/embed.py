"""embed: computes one unit vector for each video and each raw text of a benchmark, with the adapted model or the bare backbone.

No other stage reads the texts of a benchmark. Frame ablations embed the same frames in another order, or one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.engine import torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.folder import plan_of
from m2raap.core.records import Plan
from m2raap.core.spread import spread
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.view import Part, View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.embeddings import Embeddings, MadeWith
from m2raap.stages.caption import CaptionStage
from m2raap.stages.embedder import CaptionedFrames, ClipFrame, Embedder, VideoClipEmbedder, embedder, model_input
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.protocol import describe_frames, frames_digest
from m2raap.stages.rerank import NAME as RERANKED
from m2raap.stages.rerank import ClipParts, RerankConfig, interaction_of, rerank
from m2raap.stages.shared import Shared
from m2raap.stages.source import frame_captions

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

FrameAblation = Literal["shuffled", "reversed", "one_frame", "other_captions"]
# Ways to embed a clip in which its captions differ, and not its frames: reranked, too.
_CAPTION_VARIANTS = ("", "uncaptioned", "other_captions")


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


def embed(
    view: View, cfg: EmbedConfig, model: Path | BackboneConfig | VideoCLIP | Embedder, folder: Path
) -> StageOutput:
    """Writes the files of :class:`Embeddings` and, with cfg.rerank, rerank.npz.

    Raises M2raapError where no video could be decoded, where the benchmark has no text, for reranking with a model that has no
    interaction or is not one of m2raap, and for a length of texts with a model that is not one of m2raap.
    """
    import torch

    torch.set_num_threads(torch_threads())
    loaded = embedder(model, cfg.text_length)
    if cfg.rerank:
        if not isinstance(loaded, VideoClipEmbedder):
            raise M2raapError(
                "embed.rerank needs a model of m2raap and cannot rerank the vectors of another model; set embed.rerank=null"
            )
        loaded.needs = interaction_of(loaded.clip, cfg.rerank)[0].needs
    columns = _Columns(cfg.variants)
    total = view.corpus.counts["clips"]
    with talk.progress(talk.title(folder, "embed"), total) as advance, torch.inference_mode():
        for part in view.parts(("texts", "jpegs")):
            _embed_videos(part, view.langs, cfg, loaded, columns)
            _embed_texts(part, loaded, columns)
            advance(len(part.clips))
    if not columns.video_ids:
        raise M2raapError(
            f"{view.corpus_path}: none of the benchmark's {total} videos could be decoded, so there is nothing to embed"
        )
    if not columns.text_ids:
        raise M2raapError(f"{view.corpus_path}: the benchmark has no texts in {', '.join(view.langs)}")
    frames = describe_frames(view, cfg.num_frames, cfg.captions)
    embeddings = columns.embeddings(MadeWith(frames, loaded.preprocess, loaded.digest))
    files = embeddings.save(folder)
    if cfg.rerank and isinstance(loaded, VideoClipEmbedder):
        tokenize = partial(loaded.clip.backbone.tokenize, text_length=cfg.text_length)
        with torch.inference_mode():
            for variant, parts in columns.parts.items():
                file = f"{RERANKED}-{variant}.npz" if variant else f"{RERANKED}.npz"
                rerank(loaded.clip, cfg.rerank, embeddings.variant(variant), parts, folder / file, tokenize)
                files.append(file)
    counts = {"videos": len(columns.video_ids), "missing": len(columns.missing), "texts": len(columns.text_ids)}
    return StageOutput(files, counts, {"model": loaded.digest})


class _Columns:
    """Collects the columns of :class:`Embeddings`, part by part."""

    def __init__(self, variants: Sequence[str]) -> None:
        self.video_ids: list[str] = []
        self.video_frames: list[str] = []
        self.missing: list[str] = []
        self.categories: dict[str, str] = {}
        self.twins: dict[str, str] = {}
        self.text_ids: list[str] = []
        self.text_video_ids: list[str] = []
        self.text_langs: list[str] = []
        self.texts: list[str] = []
        self.video_blocks: dict[str, list[np.ndarray]] = {variant: [] for variant in variants}
        self.text_blocks: list[np.ndarray] = []
        self.parts: dict[str, list[ClipParts]] = {}

    def embeddings(self, made_with: MadeWith) -> Embeddings:
        plain_VE, *variants_VE = (_joined(blocks) for blocks in self.video_blocks.values())
        return Embeddings(
            video_VE=plain_VE,
            text_TE=_joined(self.text_blocks),
            video_ids=self.video_ids,
            text_ids=self.text_ids,
            text_video_ids=self.text_video_ids,
            text_langs=self.text_langs,
            texts=self.texts,
            video_frames=self.video_frames,
            missing=self.missing,
            categories=self.categories,
            twins=self.twins,
            made_with=made_with,
            variants_VE=dict(zip(list(self.video_blocks)[1:], variants_VE, strict=True)),
        )


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([block for block in blocks if len(block)]).astype(np.float32)


def _embed_videos(part: Part, langs: tuple[str, ...], cfg: EmbedConfig, loaded: Embedder, columns: _Columns) -> None:
    clip_ids = [row["clip_id"] for row in part.clips if row["clip_id"] in part.frames]
    columns.missing += [row["clip_id"] for row in part.clips if row["clip_id"] not in part.frames]
    columns.video_ids += clip_ids
    columns.categories |= {row["clip_id"]: row["category"] for row in part.clips if row["category"]}
    columns.twins |= {row["clip_id"]: row["twin_id"] for row in part.clips if row["twin_id"]}
    clips = [_captioned_frames(part, clip_id, langs, cfg) for clip_id in clip_ids]
    columns.video_frames += [frames_digest(frame.jpeg for frame in frames) for frames in clips]
    for variant, blocks in columns.video_blocks.items():
        chosen = clips if variant != "other_captions" else _with_captions_of_the_next(clips)
        vectors_VE, parts = loaded.videos(
            [_ablated(frames, variant, i, cfg.ablation_seed) for i, frames in zip(clip_ids, chosen, strict=True)]
        )
        blocks.append(vectors_VE)
        if cfg.rerank and variant in _CAPTION_VARIANTS:
            columns.parts.setdefault(variant, []).extend(parts)


def _captioned_frames(part: Part, clip_id: str, langs: tuple[str, ...], cfg: EmbedConfig) -> CaptionedFrames:
    """The clip's frames, as many as `cfg` says, evenly spread over those that are stored."""
    jpegs, times_s = part.frames[clip_id]["jpegs"], part.frames[clip_id]["times_s"]
    captions: Sequence[str | None] = [None] * len(jpegs)
    if cfg.captions:
        captions = frame_captions(part.texts_of[clip_id], len(jpegs), langs)
    places = spread(len(jpegs), cfg.num_frames)
    return [ClipFrame(jpegs[place], captions[place], times_s[place]) for place in places]


def _ablated(frames: CaptionedFrames, variant: str, clip_id: str, seed: int) -> CaptionedFrames:
    frames = [frames[place] for place in frame_order(variant, clip_id, len(frames), seed)]
    return [frame._replace(caption=None) for frame in frames] if variant == "uncaptioned" else frames


def _with_captions_of_the_next(clips: list[CaptionedFrames]) -> list[CaptionedFrames]:
    """The clips of a part, each with the captions of the next one that has any; without captions where no other has."""
    captioned = [place for place, frames in enumerate(clips) if any(frame.caption for frame in frames)]
    exchanged = []
    for place, frames in enumerate(clips):
        later = bisect_right(captioned, place)
        other = captioned[later % len(captioned)] if captioned else place
        texts = [frame.caption for frame in clips[other]] if other != place else [None]
        exchanged.append([frame._replace(caption=texts[i % len(texts)]) for i, frame in enumerate(frames)])
    return exchanged


def _embed_texts(part: Part, loaded: Embedder, columns: _Columns) -> None:
    rows = [row for row in part.texts if row["origin"] != "aux"]
    columns.text_blocks.append(loaded.texts([row["text"] for row in rows]))
    columns.text_ids += [row["text_id"] for row in rows]
    columns.text_video_ids += [row["clip_id"] for row in rows]
    columns.text_langs += [row["lang"] for row in rows]
    columns.texts += [row["text"] for row in rows]


def frame_order(variant: str, clip_id: str, num: int, seed: int) -> list[int]:
    """Indices of the frames that a variant embeds, in its order; 'shuffled' always changes the order of two frames or more."""
    unchanged = list(range(num))
    if variant == "reversed":
        return unchanged[::-1]
    if variant == "one_frame":
        return [num // 2]
    if variant == "shuffled" and num > 1:
        rng = np.random.default_rng([seed, *clip_id.encode()])
        order = unchanged
        while order == unchanged:
            order = [int(i) for i in rng.permutation(num)]
        return order
    return unchanged


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

    def run(self, step: StepInputs) -> bool:
        self.run_on(step.view, step.model or self.shared.backbone, step.folder, step.force)
        return True

    def run_on(self, view: View, model: Path | BackboneConfig | Embedder, folder: Path, force: bool = False) -> None:
        """Embeds a view by an adapted model's folder, a bare backbone, or any other Embedder."""

        def work(target: Path) -> StageOutput:
            return embed(view, self.cfg, model, target)

        run_single_stage(
            self.name, self.version, self.settings(), folder, work, view=view, inputs=model_input(model), force=force
        )
