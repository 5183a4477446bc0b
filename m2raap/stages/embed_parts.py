"""embed on one part: the vectors of its clips and texts, in this process or in a worker, which writes them to parts/.

The batches of a part hold nothing of other parts, so that the vectors do not depend on the number of workers or on --parts.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core.config import digest
from m2raap.core.engine import device, release_gpu_memory, torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.folder import refuse_redone
from m2raap.core.records import as_object
from m2raap.core.signed import NPY_ERRORS
from m2raap.core.spread import spread
from m2raap.core.view import Part, View
from m2raap.models.config import BackboneConfig
from m2raap.stages.embedder import CaptionedFrames, ClipFrame, Embedder, VideoClipEmbedder, embedder, model_input
from m2raap.stages.protocol import frames_digest
from m2raap.stages.rerank import ClipParts, interaction_of
from m2raap.stages.source import frame_captions

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP
    from m2raap.stages.embed import EmbedConfig

PARTS = "parts"  # in the folder of an embed stage that is not finished
# Raised for a part that is absent or damaged.
_DAMAGED = (*NPY_ERRORS, KeyError, IndexError, zipfile.BadZipFile, M2raapError)
# Ways to embed a clip in which its captions differ, and not its frames: reranked, too.
_CAPTION_VARIANTS = ("", "uncaptioned", "other_captions")


@dataclass
class PartColumns:
    """The columns of :class:`Embeddings` that are lists, for some clips and texts in their order."""

    video_ids: list[str] = field(default_factory=list)
    video_frames: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    categories: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    text_ids: list[str] = field(default_factory=list)
    text_video_ids: list[str] = field(default_factory=list)
    text_langs: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, other: PartColumns) -> None:
        for column in fields(self):
            mine, more = getattr(self, column.name), getattr(other, column.name)
            mine.update(more) if isinstance(mine, dict) else mine.extend(more)


@dataclass
class PartVectors:
    """A part's columns and vectors. `units`: variant -> what an interaction reads of every clip; empty without reranking."""

    columns: PartColumns
    text_TE: np.ndarray
    video_VE: dict[str, np.ndarray]
    units: dict[str, list[ClipParts]]


@dataclass(frozen=True)
class EmbedTask:
    """One part of an embed stage, with all that a worker process needs for it."""

    view: View
    cfg: EmbedConfig
    model: Path | BackboneConfig
    folder: Path
    part: int
    plan: str  # digest of the folder's plan, which must not change while the task runs


def opened_embedder(model: Path | BackboneConfig | VideoCLIP | Embedder, cfg: EmbedConfig) -> Embedder:
    """The model, which also gives the units of clips where cfg.rerank needs them. Raises M2raapError where it has none."""
    loaded = embedder(model, cfg.text_length, cfg.precision)
    if cfg.rerank:
        if not isinstance(loaded, VideoClipEmbedder):
            raise M2raapError(
                "embed.rerank needs a model of m2raap and cannot rerank the vectors of another model; set embed.rerank=null"
            )
        loaded.needs = interaction_of(loaded.clip, cfg.rerank)[0].needs
    return loaded


def embed_part(task: EmbedTask) -> tuple[int, float, str]:
    """Writes the vectors of a part to parts/, unless they are there. Returns its number of clips, the seconds and the device."""
    import torch

    started = time.monotonic()
    part = task.view.part(task.part, ("texts", "jpegs"))
    if read_part_vectors(task) is None:
        torch.set_num_threads(torch_threads())
        loaded = cached_embedder(task.model, task.cfg)
        vectors = part_vectors(part, task.view.langs, task.cfg, loaded)
        refuse_redone(task.folder, task.plan)
        path = _path(task)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, _packed(vectors, task.plan))
    return len(part.clips), time.monotonic() - started, device()


def cached_embedder(model: Path | BackboneConfig, cfg: EmbedConfig) -> Embedder:
    """As `opened_embedder`, once in each process: loading takes seconds, so the last one is kept."""
    return _embedder(model, cfg, digest(model_input(model)), device())  # pyright: ignore[reportArgumentType]  # they hash


@lru_cache(maxsize=1)
def _embedder(model: Path | BackboneConfig, cfg: EmbedConfig, content: str, on: str) -> Embedder:
    return opened_embedder(model, cfg)


def forget_embedder() -> None:
    """Releases the model that `cached_embedder` keeps, whose memory the next stage may need."""
    _embedder.cache_clear()
    release_gpu_memory()


def part_vectors(part: Part, langs: tuple[str, ...], cfg: EmbedConfig, loaded: Embedder) -> PartVectors:
    """The vectors of a part, whose texts and JPEGs are read."""
    import torch

    columns = PartColumns(
        video_ids=[row["clip_id"] for row in part.clips if row["clip_id"] in part.frames],
        missing=[row["clip_id"] for row in part.clips if row["clip_id"] not in part.frames],
        categories={row["clip_id"]: row["category"] for row in part.clips if row["category"]},
        twins={row["clip_id"]: row["twin_id"] for row in part.clips if row["twin_id"]},
    )
    clips = [_captioned_frames(part, clip_id, langs, cfg) for clip_id in columns.video_ids]
    columns.video_frames = [frames_digest(frame.jpeg for frame in frames) for frames in clips]
    video_VE: dict[str, np.ndarray] = {}
    units: dict[str, list[ClipParts]] = {}
    with torch.inference_mode():
        for variant in cfg.variants:
            chosen = clips if variant != "other_captions" else _with_captions_of_the_next(clips)
            video_VE[variant], of_clips = loaded.videos(
                [
                    _ablated(frames, variant, clip_id, cfg.ablation_seed)
                    for clip_id, frames in zip(columns.video_ids, chosen, strict=True)
                ]
            )
            if cfg.rerank and variant in _CAPTION_VARIANTS:
                units[variant] = of_clips
        rows = [row for row in part.texts if row["origin"] != "aux"]
        text_TE = loaded.texts([row["text"] for row in rows])
    columns.text_ids = [row["text_id"] for row in rows]
    columns.text_video_ids = [row["clip_id"] for row in rows]
    columns.text_langs = [row["lang"] for row in rows]
    columns.texts = [row["text"] for row in rows]
    return PartVectors(columns, text_TE, video_VE, units)


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


# -- parts/ -------------------------------------------------------------------------------------------------------------


def _path(task: EmbedTask) -> Path:
    return task.folder / PARTS / f"part-{task.part:05d}.npz"


def _packed(vectors: PartVectors, plan: str) -> bytes:
    """The part as an .npz that needs no pickle: `columns` is JSON, `video/VARIANT` and `text` are vectors, and
    `units/VARIANT/CLIP/NAME` is one array of a clip's units."""
    described = {"plan": plan, "columns": asdict(vectors.columns)}
    arrays: dict[str, np.ndarray] = {
        "columns": np.frombuffer(json.dumps(described).encode(), np.uint8),
        "text": vectors.text_TE,
    }
    arrays |= {f"video/{variant}": rows for variant, rows in vectors.video_VE.items()}
    for variant, of_clips in vectors.units.items():
        for clip, units in enumerate(of_clips):
            arrays |= {f"units/{variant}/{clip}/{name}": array for name, array in units.items()}
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **arrays)
    return sink.getvalue()


def is_written(task: EmbedTask) -> bool:
    """Whether a worker has written a part of this plan; of its vectors none is read."""
    try:
        with np.load(_path(task), allow_pickle=False) as archive:
            return _described(archive, task) is not None
    except _DAMAGED:
        return False


def _described(archive: Any, task: EmbedTask) -> dict[str, Any] | None:
    """What a part says of itself; None for one of another plan."""
    described = json.loads(archive["columns"].tobytes())
    return described if described["plan"] == task.plan else None


def read_part_vectors(task: EmbedTask) -> PartVectors | None:
    """The vectors that a worker has written for a part; None where they are absent, damaged, or of another plan."""
    path = _path(task)
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            if (described := _described(archive, task)) is None:
                return None
            columns = as_object(PartColumns, described["columns"], path)
            video_VE = {variant: archive[f"video/{variant}"] for variant in task.cfg.variants}
            units: dict[str, list[ClipParts]] = {}
            if task.cfg.rerank:
                of_variant = [variant for variant in task.cfg.variants if variant in _CAPTION_VARIANTS]
                units = {variant: [{} for _ in columns.video_ids] for variant in of_variant}
                for key in archive.files:
                    if key.startswith("units/"):
                        _, variant, clip, name = key.split("/")
                        units[variant][int(clip)][name] = archive[key]
            return PartVectors(columns, archive["text"], video_VE, units)
    except _DAMAGED:
        return None
