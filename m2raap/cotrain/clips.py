"""The clips that co-training reads, and the vectors of any of them in every modality.

N clips, B clips of a batch, T frames, E size of a modality's vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.distributed import DistContext
from m2raap.adapt.modalities import Modalities
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.readers import Report, choose_cache, frame_reader
from m2raap.adapt.sense_towers import MotionTower, SoundTower, TextTower
from m2raap.adapt.sources import PairSource
from m2raap.adapt.state import FrameReader
from m2raap.core.ahead import ahead
from m2raap.core.errors import M2raapError
from m2raap.cotrain.config import CotrainConfig
from m2raap.cotrain.model import Towers, as_adapt
from m2raap.models.video_clip import VideoCLIP

BATCH_CLIPS, ROWS_AT_ONCE = 64, 8192
_NO_CACHE_GB = 1e-6


@dataclass(frozen=True)
class Clips:
    """What reads the frames of the clips, and what else they hold."""

    frames: FrameReader
    others: Modalities

    def inner_vectors(self, clip: VideoCLIP, inputs: Tensor, mask_BT: Tensor) -> Tensor:
        """Unit vectors (B, E) inside the temporal module of what `frames` has read, by a model on the device of `inputs`."""
        return clip.inner_vectors(self.frames.levels(clip, inputs, mask_BT), mask_BT)


def open_frames(cfg: CotrainConfig, source: PairSource, clip: VideoCLIP, caches: Path, report: Report) -> FrameReader:
    """What reads the frames: a cache of what frozen layers make of them, where it is not too large.

    Raises M2raapError where the cache cannot be written.
    """
    adapt, decoding = as_adapt(cfg), Decoding()
    try:
        open_cache, _ = choose_cache(adapt, clip, [source], caches, report, DistContext(), decoding)
        return frame_reader(adapt, clip, source, source.frames_digest, True, decoding, None, open_cache)
    except M2raapError as error:  # cotrain has no such key, and does without a cache that would be too large
        raise M2raapError(str(error).replace("adapt.cache=off", f"cotrain.cache_limit_gb={_NO_CACHE_GB}")) from None


@torch.inference_mode()
def encode(towers: Towers, clips: Clips, rows: np.ndarray, raw: bool = False) -> dict[str, np.ndarray]:
    """Of each modality the unit vectors (N, E) in float32 of these clips; NaN for clips without it.

    `raw`: of modalities beside the frames a summary of the values, which is what is clustered before a tower has learnt.
    """
    place = towers.clip.backbone.device
    towers.eval()
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in ("frames", *towers.others)}
    batches = [rows[start : start + BATCH_CLIPS] for start in range(0, len(rows), BATCH_CLIPS)]
    read = ahead(clips.frames.batch, batches, threads=1, num_ahead=2)
    for batch, (inputs, mask_BT) in zip(batches, read, strict=True):
        frames_BE = clips.inner_vectors(towers.clip, inputs.to(place), mask_BT.to(place))
        vectors["frames"].append(frames_BE.cpu().numpy())
        for name, tower in towers.others.items():
            assert isinstance(tower, MotionTower | SoundTower | TextTower)
            values = clips.others.batch(name, batch)
            vector_BE = (tower.summary(values) if raw else tower(values.to(place)).float().cpu()).numpy()
            vectors[name].append(np.where(clips.others.present(name, batch)[:, None], vector_BE, np.float32("nan")))
    return {name: np.concatenate(parts) for name, parts in vectors.items()}


@torch.inference_mode()
def encode_all(towers: Towers, others: Modalities, name: str) -> np.ndarray:
    """Unit vectors (N, E) of all rows of a modality, of which a clip may have several."""
    values, tower = others.values[name], towers.others[name]
    place = towers.clip.backbone.device
    parts = []
    for start in range(0, len(values), ROWS_AT_ONCE):
        block = torch.from_numpy(np.array(values[start : start + ROWS_AT_ONCE]))
        parts.append(tower(block.to(place)).float().cpu().numpy())
    return np.concatenate(parts)
