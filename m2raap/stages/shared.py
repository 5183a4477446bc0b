"""What a recipe says once for all of its stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from m2raap.core.config import Config
from m2raap.models.config import BackboneConfig
from m2raap.video.limits import VideoConfig


class Shared(Config):
    """Keys of a recipe's top that several stages read."""

    backbone: BackboneConfig = Field(
        default_factory=BackboneConfig,
        description="The image-text model that frames and texts are compared by, and adapted.",
    )
    langs: tuple[Literal["en", "zh"], ...] = Field(
        default=("en", "zh"), min_length=1, description="Languages of the texts that are read."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything that is drawn at random.")
    decode: VideoConfig = Field(
        default_factory=VideoConfig, description="Limits of the process that decodes, as `keyframes` has them."
    )


SHARED_KEYS = ("backbone", "langs", "seed")  # at the top of a recipe, and not below a stage
