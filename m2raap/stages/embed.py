"""embed: a benchmark's frames and raw texts -> one unit vector each, by the adapted model or the bare backbone.

Texts of a benchmark are read here and nowhere else. Probes embed the same frames in another order, or one of them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.engine import available_cores
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic, write_json
from m2raap.core.view import View
from m2raap.core.whole import Made
from m2raap.models.config import BackboneConfig, MeanConfig

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP

Probe = Literal["shuffled", "reversed", "one_frame"]
BATCH = 16


class EmbedConfig(Config):
    """How a benchmark is embedded."""

    num_frames: int | None = Field(default=None, ge=1, description="frames a clip; null: all that keyframes stored")
    probes: tuple[Probe, ...] = Field(
        default=(), description="also embed with the frames shuffled, reversed, or one frame only"
    )
    probe_seed: int = 0


def embed(view: View, cfg: EmbedConfig, model: Path | BackboneConfig, folder: Path) -> Made:
    """Writes video.npy (and video-PROBE.npy), text.npy (float32, unit rows) and ids.json."""
    import torch

    torch.set_num_threads(available_cores())
    clip = load_model(model)
    videos: dict[str, list[np.ndarray]] = {name: [] for name in ("video", *(f"video-{p}" for p in cfg.probes))}
    texts: list[np.ndarray] = []
    ids: dict[str, Any] = {
        name: [] for name in ("video_ids", "missing", "text_ids", "text_video_ids", "text_langs", "texts")
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
            jpegs = [_thin(part.frames[clip_id]["jpegs"], cfg.num_frames) for clip_id in here]
            for name in videos:
                orders = [
                    frame_order(name.removeprefix("video-"), i, len(j), cfg.probe_seed)
                    for i, j in zip(here, jpegs, strict=True)
                ]
                picked = [[j[at] for at in order] for j, order in zip(jpegs, orders, strict=True)]
                videos[name].append(_encode_videos(clip, picked))
            rows = [row for row in part.texts if row["origin"] != "aux"]
            texts.append(_encode_texts(clip, [row["text"] for row in rows]))
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
    for name, blocks in (*videos.items(), ("text", texts)):
        _write_npy(folder / f"{name}.npy", np.concatenate([block for block in blocks if len(block)]))
    write_json(folder / "ids.json", ids)
    files = [*(f"{name}.npy" for name in videos), "text.npy", "ids.json"]
    counts = {"videos": len(ids["video_ids"]), "missing": len(ids["missing"]), "texts": len(ids["text_ids"])}
    return Made(files, counts, {"model": clip.digest})


def load_model(model: Path | BackboneConfig) -> VideoCLIP:
    """An adapted model's folder, or a bare backbone with mean pooling."""
    from m2raap.models.backbone import load_backbone
    from m2raap.models.video_clip import VideoCLIP

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


def _thin(jpegs: list[bytes], wanted: int | None) -> list[bytes]:
    if wanted is None or wanted >= len(jpegs):
        return jpegs
    return [jpegs[(2 * i + 1) * len(jpegs) // (2 * wanted)] for i in range(wanted)]


def _encode_videos(clip: VideoCLIP, jpegs: list[list[bytes]]) -> np.ndarray:
    import torch

    from m2raap.models.images import images_from_jpegs

    found = []
    for start in range(0, len(jpegs), BATCH):
        batch = [images_from_jpegs(row, clip.backbone.preprocess) for row in jpegs[start : start + BATCH]]
        most = max(len(images) for images in batch)
        mask_BT = torch.tensor([[t < len(images) for t in range(most)] for images in batch])
        filled = [torch.cat([images, images.new_zeros(most - len(images), *images.shape[1:])]) for images in batch]
        found.append(clip.encode_video(torch.stack(filled), mask_BT).float().numpy())
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def _encode_texts(clip: VideoCLIP, texts: list[str]) -> np.ndarray:
    tokens = clip.backbone.tokenize(texts)
    found = [clip.encode_text(tokens[at : at + 256]).float().numpy() for at in range(0, len(texts), 256)]
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def _write_npy(path: Path, array: np.ndarray) -> None:
    sink = io.BytesIO()
    np.save(sink, array.astype(np.float32), allow_pickle=False)
    write_atomic(path, sink.getvalue())
