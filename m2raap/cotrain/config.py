"""Settings of co-training. It does not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from m2raap.core.config import HOW, Config
from m2raap.models.config import BackboneConfig, SeqTransfConfig, StanConfig

Sense = Literal["motion", "sound"]
Lang = Literal["en", "zh"]


def text_name(lang: str) -> str:
    """The name of the captions in a language as a modality."""
    return f"text_{lang}"


class CotrainConfig(Config):
    """How a video tower learns from clips without captions: in rounds, each with the clusters of a window of the corpus."""

    backbone: BackboneConfig = Field(default=BackboneConfig(), description="The image-text model to start from.")
    temporal: StanConfig | SeqTransfConfig = Field(
        default=StanConfig(),
        discriminator="name",
        description="The temporal module over the frames of a clip. Its inside learns, up to the matrix or gate that is 0 in "
        "a new one, which adaptation opens: until then video vectors stay those of the untrained model.",
    )
    senses: tuple[Sense, ...] = Field(
        default=("motion", "sound"),
        description="What else of a clip is a modality, beside its frames: of keyframes.senses. Without any, the frames teach "
        "themselves.",
    )
    texts: tuple[Lang, ...] = Field(
        default=(),
        description="Languages whose captions are a modality too, by the text tower as it is. Captions then get a "
        "score for `filter.scores`: how well their clusters go with those of their clip.",
    )
    num_frames: int = Field(default=8, ge=2, description="Number of frames per clip that the video tower reads.")
    rounds: int = Field(
        default=10, ge=1, description="Number of rounds: each clusters its window and trains on the labels."
    )
    window: int | None = Field(
        default=None,
        ge=2,
        description="Number of clips in the window of a round, which slides over the corpus; null: all.",
    )
    stride: float = Field(
        default=0.5, gt=0, le=1, description="How far the window slides from one round to the next, as a share of it."
    )
    coarse: int = Field(default=16, ge=2, description="Number of coarse clusters of each modality.")
    fine: int = Field(default=8, ge=1, description="Number of fine clusters within each coarse one.")
    epochs: float = Field(default=1.0, gt=0, description="Number of passes over its window in a round.")
    batch_size: int = Field(default=64, ge=2, description="Number of clips per step.")
    temperature: float = Field(default=0.1, gt=0, description="Temperature of the losses over clusters.")
    lr: float = Field(default=1e-4, ge=0, description="Learning rate of the backbone's own weights.")
    lr_new: float = Field(
        default=1e-3, ge=0, description="Learning rate of the temporal module, the other towers and the heads."
    )
    lr_floor: float = Field(
        default=0.1, ge=0, le=1, description="Learning rates at the last step, as a share of the full ones."
    )
    warmup: float = Field(default=0.04, ge=0, lt=1, description="Share of the run over which the learning rates rise.")
    weight_decay: float = Field(
        default=0.05, ge=0, description="Weight decay of AdamW; norms, biases and gates have none."
    )
    clip_norm: float = Field(
        default=5.0, gt=0, description="Largest norm of the gradient; a longer one is scaled down to it."
    )
    train_vision_layers: int = Field(
        default=0,
        ge=0,
        description="Number of last vision layers that learn; above 0 video vectors move with them.",
    )
    cache_limit_gb: float = Field(default=20.0, gt=0, description="Largest cache of frozen layers in gigabytes.")
    threads: int = Field(
        default=0,
        ge=0,
        description="Number of torch's threads; 0: OMP_NUM_THREADS, or one per core.",
        json_schema_extra=HOW,
    )
    seed: int = Field(default=0, description="Seed of everything that co-training draws.")

    @property
    def others(self) -> tuple[str, ...]:
        """The modalities beside the frames, by name."""
        return (*self.senses, *map(text_name, self.texts))

    @model_validator(mode="after")
    def _each_once(self) -> CotrainConfig:
        for key in ("senses", "texts"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"cotrain.{key} names one twice")
        if isinstance(self.temporal, StanConfig) and self.temporal.start == "open":
            raise ValueError(
                "cotrain.temporal.start open has no matrix or gate behind which the inside learns: set matrix or gate"
            )
        return self
