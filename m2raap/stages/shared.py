"""Settings that a recipe gives once for all of its stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from m2raap.core import talk
from m2raap.core.config import Config
from m2raap.core.view import View
from m2raap.models.builtin import BUILTIN
from m2raap.models.config import BackboneConfig
from m2raap.video.limits import VideoConfig


class Shared(Config):
    """Top-level keys of a recipe that several stages read."""

    backbone: BackboneConfig = Field(
        default_factory=BackboneConfig,
        description="The image-text model that compares frames with texts and that is adapted.",
    )
    langs: tuple[Literal["en", "zh"], ...] = Field(
        default=("en", "zh"), min_length=1, description="Languages of the texts that are read."
    )
    seed: int = Field(default=0, ge=0, description="Seed of everything that is drawn at random.")
    decode: VideoConfig = Field(
        default_factory=VideoConfig, description="Limits on the process that decodes, as in `keyframes`."
    )


SHARED_KEYS = ("backbone", "langs", "seed")  # given at the top level of a recipe, never in a stage's config


DRAWINGS_ONLY = (
    "builtin:tiny was trained on drawings of coloured shapes only, and this corpus is not the synthetic world: on real clips its "
    "judgement of mismatches and its captions are wrong, and what is trained on it retrieves near chance. Name a pretrained "
    "model under `backbone` for anything but a try (ViT-B-32 with pretrained: openai, for example)"
)


def warn_of_drawings(model: str, *views: View) -> None:
    """Prints a warning where the tiny model of the package is used on a corpus other than the synthetic world."""
    if model in BUILTIN and any(view.corpus.source.get("importer") != "world" for view in views):
        talk.log(f"warning: {DRAWINGS_ONLY}")
