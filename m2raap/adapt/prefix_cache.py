"""What the frozen first vision layers say about every frame, kept on disk: the training then starts behind them.

B clips, T frames, S = 1 + P tokens, D vision width. float16, one row a clip, memory-mapped.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.batches import LiveImages, PairSource
from m2raap.adapt.checkpoint import write_atomically
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.video_clip import VideoCLIP

CHUNK_CLIPS = 8
SAVE_EVERY_CHUNKS = 64


@dataclass(frozen=True)
class PrefixCache:
    """Tokens that enter the last `depth` vision layers, and which frames are there."""

    tokens_BTSD: np.ndarray
    mask_BT: np.ndarray
    depth: int

    def batch(self, clips: np.ndarray) -> tuple[Tensor, Tensor]:
        """fp32 tokens (B, T, S, D) and mask (B, T)."""
        return torch.from_numpy(self.tokens_BTSD[clips]).float(), torch.from_numpy(self.mask_BT[clips])

    def encode(self, model: VideoCLIP, tokens_BTSD: Tensor, mask_BT: Tensor) -> Tensor:
        """Unit video vectors (B, E)."""
        return model.encode_prefix(tokens_BTSD, mask_BT, self.depth)


def cache_bytes(backbone: Backbone, num_clips: int, num_frames: int) -> int:
    return num_clips * num_frames * backbone.num_tokens * backbone.width * 2


def open_prefix_cache(
    folder: Path,
    key: str,
    source: PairSource,
    backbone: Backbone,
    num_frames: int,
    depth: int,
    progress: Callable[[str, int, int], None],
) -> PrefixCache:
    """The finished cache of this key; makes it, or goes on where an interrupted making stopped.

    Rows do not depend on where it was interrupted: the chunks are the same. Raises M2raapError where the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final, part, state_path = folder / "tokens.npy", folder / "tokens.part", folder / "state.json"
    mask_path = folder / "mask.npy"
    state = json.loads(state_path.read_text()) if state_path.is_file() else {}
    if state.get("key") != key:
        for path in (final, part, mask_path):
            path.unlink(missing_ok=True)
        state = {"key": key, "done": 0}
    shape = (source.num_clips, num_frames, backbone.num_tokens, backbone.width)
    if not final.is_file():
        need = cache_bytes(backbone, source.num_clips, num_frames)
        progress(f"prefix cache: {need / 1e6:.0f} MB in {folder}", 0, source.num_clips)
        if not part.is_file():
            free = shutil.disk_usage(folder).free
            if need > free:
                raise M2raapError(f"the prefix cache needs {need / 1e9:.1f} GB, {folder} has {free / 1e9:.1f}: set adapt.cache=off")
            state["done"] = 0
        mode = "r+" if part.is_file() else "w+"
        tokens = np.lib.format.open_memmap(part, mode=mode, dtype=np.float16, shape=shape)
        mask = np.zeros(shape[:2], bool)
        if state["done"]:
            mask[: state["done"]] = np.load(mask_path, allow_pickle=False)[: state["done"]]
        live = LiveImages(source, backbone.preprocess, num_frames)
        for number, start in enumerate(range(state["done"], source.num_clips, CHUNK_CLIPS), 1):
            stop = min(start + CHUNK_CLIPS, source.num_clips)
            images, there = live.batch(np.arange(start, stop))
            with torch.inference_mode():
                made = backbone.prefix_tokens(images.flatten(0, 1).to(backbone.device), depth).half()
            if not bool(torch.isfinite(made).all()):
                raise M2raapError("the first layers of this backbone leave the range of float16: set adapt.cache=off")
            tokens[start:stop] = made.unflatten(0, images.shape[:2]).cpu().numpy()
            mask[start:stop] = there.numpy()
            progress("prefix cache", stop, source.num_clips)
            if number % SAVE_EVERY_CHUNKS == 0 or stop == source.num_clips:
                tokens.flush()
                _save_mask(mask, mask_path)
                write_atomically(state_path, json.dumps({"key": key, "done": stop}).encode())
        del tokens
        os.replace(part, final)
    return PrefixCache(np.load(final, mmap_mode="r", allow_pickle=False), np.load(mask_path, allow_pickle=False), depth)


def _save_mask(mask: np.ndarray, path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, mask)
    write_atomically(path, buffer.getvalue())
