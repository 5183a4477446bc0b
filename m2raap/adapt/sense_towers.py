"""Small towers over a clip's motion, sound and captions, each to a unit vector.

B clips, E size of a vector, S segments, F bands, G grid, K clusters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2raap.video.motion import GRID, MOTION_SHAPE, NUM_SEGMENTS
from m2raap.video.sound import FLOOR_DB, SOUND_SHAPE

WIDTH, SIZE = 64, 128
_USUAL_FLOW = 0.25  # long sides of the picture a second


class MotionTower(nn.Module):
    """Convolutions over time of the flow in the cells of a grid, to a unit vector (B, E)."""

    def __init__(self) -> None:
        super().__init__()
        cells = GRID * GRID * MOTION_SHAPE[-1]
        self.layers = nn.Sequential(
            nn.Conv1d(cells, WIDTH, 3, padding=1), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Flatten(),
            nn.Linear(WIDTH * NUM_SEGMENTS, SIZE),
        )  # fmt: skip

    @staticmethod
    def prepared(values_BSGGC: Tensor) -> Tensor:
        """(B, C', S): what the layers read; small and large flows are told apart, and sudden ones bounded."""
        return torch.asinh(values_BSGGC.float() / _USUAL_FLOW).flatten(2).transpose(1, 2)

    @classmethod
    def summary(cls, values_BSGGC: Tensor) -> Tensor:
        """(B, 384): the same in a row."""
        return cls.prepared(values_BSGGC).flatten(1)

    def forward(self, values_BSGGC: Tensor) -> Tensor:
        return F.normalize(self.layers(self.prepared(values_BSGGC)), dim=-1)


class SoundTower(nn.Module):
    """Convolutions over time and bands of the power, to a unit vector (B, E)."""

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, WIDTH // 4, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv2d(WIDTH // 4, WIDTH // 2, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(WIDTH // 2, WIDTH, 3, stride=2, padding=1), nn.GELU(),
            nn.AdaptiveAvgPool2d((6, 8)), nn.Flatten(), nn.Linear(WIDTH * 48, size),
        )  # fmt: skip

    @staticmethod
    def prepared(db_BSF: Tensor) -> Tensor:
        """(B, 1, S, F) power from 0, of silence, to about 1."""
        return (db_BSF.float() - FLOOR_DB)[:, None] / -FLOOR_DB

    @classmethod
    def summary(cls, db_BSF: Tensor) -> Tensor:
        """(B, 384): means over four segments and four bands."""
        return F.adaptive_avg_pool2d(cls.prepared(db_BSF), (24, 16)).flatten(1)

    def forward(self, db_BSF: Tensor) -> Tensor:
        return F.normalize(self.layers(self.prepared(db_BSF)), dim=-1)


class TextTower(nn.Module):
    """Two layers on the vector of a caption by the untrained text tower, to a unit vector (B, E)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(embed_dim, 2 * SIZE), nn.GELU(), nn.Linear(2 * SIZE, SIZE))

    @staticmethod
    def prepared(text_BE: Tensor) -> Tensor:
        return text_BE.float()

    summary = prepared

    def forward(self, text_BE: Tensor) -> Tensor:
        # Unit vectors of E dimensions have elements of about 1 / sqrt(E).
        return F.normalize(self.layers(self.prepared(text_BE) * text_BE.shape[1] ** 0.5), dim=-1)


SHAPES: dict[str, tuple[int, ...]] = {"motion": MOTION_SHAPE, "sound": SOUND_SHAPE}


def new_tower(modality: str, embed_dim: int) -> MotionTower | SoundTower | TextTower:
    """A tower for a modality beside the frames. `embed_dim`: size of the vectors of captions."""
    if modality == "motion":
        return MotionTower()
    return SoundTower() if modality == "sound" else TextTower(embed_dim)
