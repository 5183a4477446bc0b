"""embed: a benchmark's frames and raw texts -> one unit vector each, by the adapted model or the bare backbone.

Texts of a benchmark are read here and nowhere else. Probes embed the same frames in another order, or one of them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.engine import torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic, write_json
from m2raap.core.spread import spread
from m2raap.core.view import View
from m2raap.core.whole import StageOutput
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.stages.protocol import frames_digest, frames_said, preprocess_said
from m2raap.stages.rerank import NAME as RERANKED
from m2raap.stages.rerank import MugRerankConfig, rerank
from m2raap.stages.source import frame_captions

if TYPE_CHECKING:
    from m2raap.models.acg import Captions
    from m2raap.models.video_clip import VideoCLIP

Probe = Literal["shuffled", "reversed", "one_frame"]
BATCH = 16


class EmbedConfig(Config):
    """How a benchmark is embedded."""

    num_frames: int | None = Field(default=None, ge=1, description="frames a clip; null: all that keyframes stored")
    probes: tuple[Probe, ...] = Field(
        default=(), description="also embed with the frames shuffled, reversed, or one frame only"
    )
    probe_seed: int = 0  # of the shuffled frames
    captions: bool = Field(
        default=False,
        description="give ACG auxiliary captions of the benchmark's frames (the stage caption then runs on them); "
        "what it finds without them is embedded beside it",
    )
    mug: MugRerankConfig | None = Field(default=None, description="also rerank the first candidates by Mug")

    @property
    def variants(self) -> tuple[str, ...]:
        """What is embedded: the clips as they are, and every probe."""
        return ("", *self.probes, *(["uncaptioned"] if self.captions else []))


Shown = list[tuple[bytes, str | None]]  # a clip's frames, and the caption of each


class Embedder(Protocol):
    """What embeds a benchmark: a model of ours (`Own`), or anybody's behind the same face (m2raap.interop)."""

    digest: str
    preprocess: str  # in words, for the protocol card

    def videos(self, clips: list[Shown]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Video vectors (V, E); and of every clip unit frame vectors (F, E) and which are there (F,), where there are any."""
        ...

    def texts(self, texts: list[str]) -> np.ndarray:
        """Text vectors (N, E)."""
        ...


class Own:
    """A VideoCLIP as an Embedder."""

    def __init__(self, clip: VideoCLIP) -> None:
        self.clip = clip
        self.digest = clip.digest
        self.preprocess = preprocess_said(clip.backbone.preprocess)

    def videos(self, clips: list[Shown]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        return _encode_videos(self.clip, clips)

    def texts(self, texts: list[str]) -> np.ndarray:
        return encode_texts(self.clip, texts)


def embed(
    view: View, cfg: EmbedConfig, model: Path | BackboneConfig | VideoCLIP | Embedder, folder: Path
) -> StageOutput:
    """Writes video.npy (and video-PROBE.npy), text.npy (float32, unit rows), ids.json, and rerank.npz where Mug is asked."""
    import torch

    torch.set_num_threads(torch_threads())
    by = embedder(model)
    if cfg.mug and not isinstance(by, Own):
        raise M2raapError("embed.mug reranks by a model of m2raap; of another's vectors there is nothing to rerank by")
    videos: dict[str, list[np.ndarray]] = {variant: [] for variant in cfg.variants}
    frames: list[tuple[np.ndarray, np.ndarray]] = []
    texts: list[np.ndarray] = []
    ids: dict[str, Any] = {
        name: []
        for name in ("video_ids", "video_frames", "missing", "text_ids", "text_video_ids", "text_langs", "texts")
    }
    ids["categories"] = {}
    total = view.corpus.counts["clips"]
    with talk.progress(f"{folder.parent.name}/embed", total) as advance, torch.inference_mode():
        for part in view.parts(("texts", "jpegs")):
            here = [row["clip_id"] for row in part.clips if row["clip_id"] in part.frames]
            ids["missing"] += [row["clip_id"] for row in part.clips if row["clip_id"] not in part.frames]
            ids["video_ids"] += here
            for row in part.clips:
                if row["category"]:
                    ids["categories"][row["clip_id"]] = row["category"]
            shown = []
            for clip_id in here:
                jpegs = part.frames[clip_id]["jpegs"]
                said = (
                    frame_captions(part.texts_of[clip_id], len(jpegs), view.langs)
                    if cfg.captions
                    else [None] * len(jpegs)
                )
                shown.append([(jpegs[place], said[place]) for place in spread(len(jpegs), cfg.num_frames)])
            ids["video_frames"] += [frames_digest(jpeg for jpeg, _ in row) for row in shown]
            for variant, found in videos.items():
                orders = [frame_order(variant, i, len(row), cfg.probe_seed) for i, row in zip(here, shown, strict=True)]
                picked: list[Shown] = [[row[at] for at in order] for row, order in zip(shown, orders, strict=True)]
                if variant == "uncaptioned":
                    picked = [[(jpeg, None) for jpeg, _ in row] for row in picked]
                vectors_VE, of_frames = by.videos(picked)
                found.append(vectors_VE)
                frames += of_frames if variant == "" and cfg.mug else []
            rows = [row for row in part.texts if row["origin"] != "aux"]
            texts.append(by.texts([row["text"] for row in rows]))
            ids["text_ids"] += [row["text_id"] for row in rows]
            ids["text_video_ids"] += [row["clip_id"] for row in rows]
            ids["text_langs"] += [row["lang"] for row in rows]
            ids["texts"] += [row["text"] for row in rows]
            advance(len(part.clips))
    if not ids["video_ids"]:
        raise M2raapError(
            f"{view.corpus_path}: none of the benchmark's {total} videos could be decoded: nothing to embed"
        )
    if not ids["text_ids"]:
        raise M2raapError(f"{view.corpus_path}: the benchmark has no texts in {', '.join(view.langs)}")
    arrays = {f"video{'-' if variant else ''}{variant}.npy": blocks for variant, blocks in videos.items()}
    whole = {
        name: np.concatenate([block for block in blocks if len(block)])
        for name, blocks in (arrays | {"text.npy": texts}).items()
    }
    for name, array in whole.items():
        write_npy(folder / name, array)
    ids["made_with"] = {
        "frames": frames_said(view, cfg.num_frames, cfg.captions),
        "preprocess": by.preprocess,
        "model": by.digest,
    }
    write_json(folder / "ids.json", ids)
    files = [*whole, "ids.json"]
    if cfg.mug and isinstance(by, Own):
        with torch.inference_mode():
            frames_VFE, mask_VF = _stacked(frames)
            vectors = (whole["text.npy"], whole["video.npy"], frames_VFE, mask_VF)
            rerank(by.clip, cfg.mug, ids["texts"], ids["text_langs"], *vectors, folder)
        files.append(RERANKED)
    counts = {"videos": len(ids["video_ids"]), "missing": len(ids["missing"]), "texts": len(ids["text_ids"])}
    return StageOutput(files, counts, {"model": by.digest})


def embedder(model: Path | BackboneConfig | VideoCLIP | Embedder) -> Embedder:
    """What `load_model` gives, as an Embedder; an Embedder stays as it is."""
    from m2raap.models.video_clip import VideoCLIP

    return Own(load_model(model)) if isinstance(model, Path | BackboneConfig | VideoCLIP) else model


def load_model(model: Path | BackboneConfig | VideoCLIP) -> VideoCLIP:
    """An adapted model's folder, or a bare backbone with mean pooling; what is a model already stays as it is."""
    from m2raap.models.families import load_backbone
    from m2raap.models.video_clip import VideoCLIP

    if isinstance(model, VideoCLIP):
        return model
    return VideoCLIP.load(model) if isinstance(model, Path) else VideoCLIP(load_backbone(model), MeanConfig())


def frame_order(probe: str, clip_id: str, num: int, seed: int) -> list[int]:
    """Which frames, in which order. 'shuffled' is never the given order (of two frames or more)."""
    given = list(range(num))
    if probe == "reversed":
        return given[::-1]
    if probe == "one_frame":
        return [num // 2]
    if probe == "shuffled" and num > 1:
        rng = np.random.default_rng([seed, *clip_id.encode()])
        order = given
        while order == given:
            order = [int(i) for i in rng.permutation(num)]
        return order
    return given


def _encode_videos(clip: VideoCLIP, clips: list[Shown]) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Unit video vectors (V, E); and of every clip the unit frame vectors (F, E) and which are there (F,)."""
    import torch

    from m2raap.models.images import images_from_jpegs

    found, of_frames = [], []
    for start in range(0, len(clips), BATCH):
        here = clips[start : start + BATCH]
        batch = [images_from_jpegs([jpeg for jpeg, _ in row], clip.backbone.preprocess) for row in here]
        most = max(len(images) for images in batch)
        mask_BT = torch.tensor([[t < len(images) for t in range(most)] for images in batch])
        filled = [torch.cat([images, images.new_zeros(most - len(images), *images.shape[1:])]) for images in batch]
        vectors_BTE = clip.frame_vectors_of_images(torch.stack(filled), mask_BT)
        found.append(clip.pool(vectors_BTE, mask_BT, _captions(clip, here, most)).float().numpy())
        unit_BTE = torch.nn.functional.normalize(vectors_BTE, dim=-1).float().numpy()
        of_frames += list(zip(unit_BTE, mask_BT.numpy(), strict=True))
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32), of_frames


def _captions(clip: VideoCLIP, clips: list[Shown], num_frames: int) -> Captions | None:
    """Features of the frames' captions; None where no frame has one. Each distinct caption is encoded once."""
    import torch

    known = sorted({said for row in clips for _, said in row if said is not None})
    if not known:
        return None
    number = {said: i for i, said in enumerate(known)}
    rows = [[number.get(said, -1) if said else -1 for _, said in row] + [-1] * (num_frames - len(row)) for row in clips]
    rows_BT = torch.tensor(rows)
    return torch.from_numpy(encode_texts(clip, known))[rows_BT.clamp(min=0)], rows_BT >= 0


def _stacked(frames: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(V, F, E) and (V, F), padded to the clip with most frames."""
    most = max(len(mask) for _, mask in frames)
    vectors = np.zeros((len(frames), most, frames[0][0].shape[1]), np.float32)
    there = np.zeros((len(frames), most), bool)
    for row, (vectors_FE, mask_F) in enumerate(frames):
        vectors[row, : len(mask_F)], there[row, : len(mask_F)] = vectors_FE, mask_F
    return vectors, there


def encode_texts(clip: VideoCLIP, texts: list[str]) -> np.ndarray:
    """(N, E) float32, unit rows."""
    tokens = clip.backbone.tokenize(texts)
    found = [clip.encode_text(tokens[at : at + 256]).float().numpy() for at in range(0, len(texts), 256)]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def write_npy(path: Path, array: np.ndarray) -> None:
    sink = io.BytesIO()
    np.save(sink, array.astype(np.float32), allow_pickle=False)
    write_atomic(path, sink.getvalue())
