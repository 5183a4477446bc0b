"""What the frozen vision layers say about every frame, kept on disk: the training then starts behind them.

`prefix` keeps the tokens that enter the last layers, `levels` all that the temporal module reads of them.
B clips, V levels (1 for prefix), T frames, S tokens a frame, D vision width. float16, one row a clip, memory-mapped.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import LiveImages, PairSource
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.models.video_clip import VideoCLIP

CHUNK_CLIPS = 8
SAVE_EVERY_CHUNKS = 64


@dataclass(frozen=True)
class CachePlan:
    """What to keep: `depth` is how many last vision layers the prefix stops before."""

    kind: Literal["prefix", "levels"]
    depth: int
    num_frames: int

    def tokens_of(self, model: VideoCLIP, images_BTCHW: Tensor) -> Tensor:
        """(B, V, T, S, D)"""
        prefix = model.backbone.prefix_tokens(images_BTCHW.flatten(0, 1), self.depth).unflatten(
            0, images_BTCHW.shape[:2]
        )
        if self.kind == "prefix":
            return prefix[:, None]
        there = torch.ones(prefix.shape[:2], dtype=torch.bool, device=prefix.device)  # each frame is kept by itself
        return torch.stack(model.levels_of_prefix(prefix, there, self.depth), 1)

    def shape(self, model: VideoCLIP, num_clips: int) -> tuple[int, ...]:
        size = model.backbone.preprocess.image_size
        with torch.inference_mode():
            one = self.tokens_of(model, torch.zeros(1, 1, 3, size, size, device=model.backbone.device))
        return num_clips, one.shape[1], self.num_frames, *one.shape[3:]

    def num_bytes(self, model: VideoCLIP, num_clips: int) -> int:
        return 2 * math.prod(self.shape(model, num_clips))


@dataclass(frozen=True)
class PrefixCache:
    """Tokens of all clips, and which frames are there."""

    plan: CachePlan
    tokens_BVTSD: np.ndarray
    mask_BT: np.ndarray
    time_dim: ClassVar[int] = 2

    def batch(self, clips: np.ndarray, epoch: int | None = None) -> tuple[Tensor, Tensor]:
        """fp32 tokens (B, V, T, S, D) and mask (B, T); the same in every epoch."""
        return torch.from_numpy(self.tokens_BVTSD[clips]).float(), torch.from_numpy(self.mask_BT[clips])

    def frame_vectors(self, model: VideoCLIP, tokens_BVTSD: Tensor, mask_BT: Tensor) -> Tensor:
        """Frame vectors (B, T, E), not unit."""
        if self.plan.kind == "prefix":
            levels = model.levels_of_prefix(tokens_BVTSD[:, 0], mask_BT, self.plan.depth)
        else:
            levels = list(tokens_BVTSD.unbind(1))
        return model.frame_vectors(levels, mask_BT)


def open_prefix_cache(
    folder: Path,
    key: str,
    source: PairSource,
    model: VideoCLIP,
    plan: CachePlan,
    progress: Callable[[str, int, int], None],
) -> PrefixCache:
    """The finished cache of this key; makes it, or goes on where an interrupted making stopped.

    Rows do not depend on where it was interrupted: the chunks are the same.
    Raises M2raapError where the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, part, state_path = folder / "tokens.npy", folder / "tokens.part", folder / "state.json"
    mask_path = folder / "mask.npy"
    state = json.loads(state_path.read_text()) if state_path.is_file() else {}
    if state.get("key") != key:
        for path in (final, part, mask_path):
            path.unlink(missing_ok=True)
        state = {"key": key, "done": 0}
    backbone, num_frames = model.backbone, plan.num_frames
    shape = plan.shape(model, source.num_clips)
    if not final.is_file():
        need = plan.num_bytes(model, source.num_clips)
        progress(f"cache of the {plan.kind}: {need / 1e6:.0f} MB in {folder}", 0, source.num_clips)
        if not part.is_file():
            free = shutil.disk_usage(folder).free
            if need > free:
                raise M2raapError(
                    f"the cache needs {need / 1e9:.1f} GB, {folder} has {free / 1e9:.1f}: set adapt.cache=off"
                )
            state["done"] = 0
        mode = "r+" if part.is_file() else "w+"
        tokens = np.lib.format.open_memmap(part, mode=mode, dtype=np.float16, shape=shape)
        mask = np.zeros((source.num_clips, num_frames), bool)
        if state["done"]:
            mask[: state["done"]] = np.load(mask_path, allow_pickle=False)[: state["done"]]
        live = LiveImages(source, backbone.preprocess, num_frames)
        for number, start in enumerate(range(state["done"], source.num_clips, CHUNK_CLIPS), 1):
            stop = min(start + CHUNK_CLIPS, source.num_clips)
            images, there = live.batch(np.arange(start, stop))
            with torch.inference_mode():
                made = plan.tokens_of(model, images.to(backbone.device)).half()
            if not bool(torch.isfinite(made).all()):
                raise M2raapError("the vision layers of this backbone leave the range of float16: set adapt.cache=off")
            tokens[start:stop] = made.cpu().numpy()
            mask[start:stop] = there.numpy()
            progress(f"cache of the {plan.kind}", stop, source.num_clips)
            if number % SAVE_EVERY_CHUNKS == 0 or stop == source.num_clips:
                tokens.flush()
                _save_mask(mask, mask_path)
                write_atomic(state_path, json.dumps({"key": key, "done": stop}).encode())
        del tokens
        os.replace(part, final)
    return PrefixCache(plan, np.load(final, mmap_mode="r", allow_pickle=False), np.load(mask_path, allow_pickle=False))


def _save_mask(mask: np.ndarray, path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, mask)
    write_atomic(path, buffer.getvalue())
