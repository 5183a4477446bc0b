"""Settings of the models: which backbone, temporal module and interaction. It does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.core.extension import PATTERN, OrExtension


class BackboneConfig(Config):
    """Which image-text model, and where its weights come from.

    `model`: 'builtin:tiny' (in the package), an open_clip name ('ViT-B-32'), 'hf-hub:org/name', or
    'local-dir:/folder' in open_clip's form. `pretrained`: for an open_clip name, a tag ('openai') or a .pt or
    .safetensors file.
    """

    family: str = Field(
        default="open_clip",
        description="Family of the model: a key of m2raap.models.families.BACKBONES, or python:module:function.",
    )
    model: str = Field(
        default="builtin:tiny",
        description="Name of the model: builtin:tiny, an open_clip name, hf-hub:org/name or local-dir:/folder.",
    )
    pretrained: str | None = Field(
        default=None, description="Weights of an open_clip name: a tag, or a .pt or .safetensors file."
    )
    random_init: bool = Field(
        default=False, description="Whether the weights are drawn at random, by random_seed, in place of trained ones."
    )
    random_seed: int = Field(default=0, description="Seed of the random weights where random_init is true.")

    @model_validator(mode="after")
    def _weights_from_one_place(self) -> BackboneConfig:
        if self.random_init and self.pretrained:
            raise ValueError("backbone.random_init draws random weights, so backbone.pretrained has to be left out")
        if self.pretrained and ":" in self.model:
            raise ValueError(f"backbone.model '{self.model}' has its own weights: leave out backbone.pretrained")
        return self


class MeanConfig(Config):
    """Mean of the unit frame vectors. No weights."""

    name: Literal["mean"] = Field(default="mean", description="Name of the temporal module.")


class SeqTransfConfig(Config):
    """CLIP4Clip's seqTransf: a small transformer over frame vectors, added to them."""

    name: Literal["seqtransf"] = Field(default="seqtransf", description="Name of the temporal module.")
    layers: int = Field(default=4, ge=1, le=1000, description="Number of transformer blocks over the frames.")
    max_frames: int = Field(
        default=64, ge=2, le=4096, description="Largest number of frames per clip that the module can take."
    )
    from_text: bool = Field(
        default=True,
        description="Whether the blocks start as copies of the first blocks of the text tower, where the widths are equal.",
    )


class StanConfig(Config):
    """STAN (arXiv 2301.11116), self-attention variant: a branch beside the last `layers` layers of the backbone."""

    name: Literal["stan"] = Field(default="stan", description="Name of the temporal module.")
    layers: int = Field(default=4, ge=1, le=1000, description="Number of last vision layers that the branch reads.")
    max_frames: int = Field(
        default=64, ge=2, le=4096, description="Largest number of frames per clip that the module can take."
    )
    drop_path: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Drop path rate of the last branch layer; it rises from 0 linearly over the layers.",
    )
    pool: Literal["unit", "raw"] = Field(
        default="unit",
        description="Pooling of frame vectors: the mean of unit vectors, or STAN's mean of unnormalised ones (raw).",
    )
    start: Literal["gate", "matrix", "open"] = Field(
        default="matrix",
        description="How STAN_cls enters the frame vectors: through a matrix that starts at 0, times a scalar that "
        "starts at 0 (gate), or unscaled as in STAN's code (open: a new model then differs from mean pooling).",
    )
    time_std: float = Field(
        default=1.0,
        ge=0,
        description="Standard deviation of the time embedding at the start; STAN has 1.0; from 0, order is learnt more slowly.",
    )
    inputs: Literal["raw", "normed"] = Field(
        default="raw",
        description="How layer tokens and positions enter the branch: unchanged (raw: STAN's way, in which the tokens of "
        "late layers can be far larger than positions and time embedding: 43 against 2 and 11 in the tiny model), or "
        "layer-normed to the size of the time embedding (normed: ours).",
    )
    patch_pool: int = Field(
        default=1,
        ge=1,
        description="Side, in patches, of the squares whose means the branch reads; 1: every patch, as STAN; 2: a quarter "
        "of the cost.",
    )
    class_token: Literal["clip", "frame"] = Field(
        default="clip",
        description="How many class tokens the branch has: one a clip, the mean over its frames (STAN's way, which adds the "
        "same to every frame vector), or one a frame, so that frame vectors tell what happens in each (ours).",
    )
    across: Literal["attention", "conv"] = Field(
        default="attention",
        description="How information passes between frames: by self-attention, or by STAN's 3D convolution (eq. 9).",
    )


class AdapterConfig(Config):
    """ST-Adapter (arXiv 2206.13559): a bottleneck with a convolution over time before each of the last `layers` blocks."""

    name: Literal["adapter"] = Field(default="adapter", description="Name of the temporal module.")
    layers: int = Field(default=4, ge=1, le=1000, description="Number of last vision blocks that get a bottleneck.")
    width: int | None = Field(
        default=None, ge=1, le=65536, description="Width of the bottleneck; null: half the vision width."
    )
    kernel_frames: int = Field(
        default=3, ge=1, le=4095, description="Number of frames that the convolution reads; odd."
    )

    @model_validator(mode="after")
    def _odd(self) -> AdapterConfig:
        if self.kernel_frames % 2 == 0:
            raise ValueError(
                "adapt.temporal.kernel_frames has to be odd, so that the convolution is centred on a frame"
            )
        return self


class MessageConfig(Config):
    """X-CLIP's message token (arXiv 2208.02816): each frame attends to a message that it gets from all frames."""

    name: Literal["message"] = Field(default="message", description="Name of the temporal module.")
    layers: int = Field(default=4, ge=1, le=1000, description="Number of last vision blocks that exchange messages.")


class ExtensionTemporalConfig(Config):
    """A temporal module of your own, python:module:class, which runs with --allow-code (docs/extend.md)."""

    name: str = Field(pattern=PATTERN, description="Where the class is: python:module:class.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the module; a class with a Config checks them by it."
    )


class AcgConfig(Config):
    """Auxiliary-caption-guided weights over frames. Our design (m2raap.models.acg); the paper's formula is not published."""

    tau: float = Field(
        default=0.1,
        gt=0,
        description="Temperature of the softmax over frames: the smaller, the more sharply the weights follow "
        "the consistency scores.",
    )
    mix: bool = Field(
        default=False,
        description="Whether caption features are added to the frame vectors too, times a scalar that starts at 0.",
    )


# Similarities of an interaction that exist at the same time, in training and in what it is said to need. A tensor of a full
# block, an eighth of it, is larger than the 32 MiB from which glibc gives memory back as soon as it is freed: below them
# glibc before 2.38 rarely uses freed aligned memory again, and a step of 1,024 pairs grew by gigabytes.
INTERACTION_BLOCK_BYTES = 320 * 1024**2

_START: Any = Field(
    default="gate",
    description="How the score starts: at the cosine of the first stage, from which a learnt scalar that starts at 0 leads to "
    "the interaction's score (gate), or at the interaction's score itself, as published (open).",
)
_FORM: Any = Field(
    default="simple",
    description="Form of Mug's score, both from STAN's code: its default (simple), or with the weighted vectors of text and "
    "clip (full); or python:module:function.",
)
_INVERSE_TEMPERATURE: Any = Field(
    default=100.0,
    gt=0,
    le=10_000,
    description="Inverse temperature of Mug's softmaxes; a form of your own has none. 100 suits CLIP, whose "
    "cosines of a text with frames differ little; where they differ more, 100 is a maximum over frames and tokens.",
)


class MugConfig(Config):
    """Mug (arXiv 2311.15075): mutual guidance of a text's tokens and a clip's frames."""

    name: Literal["mug"] = Field(default="mug", description="Name of the interaction.")
    form: Annotated[Literal["simple", "full"], OrExtension()] = _FORM
    inverse_temperature: float = _INVERSE_TEMPERATURE
    start: Literal["gate", "open"] = _START


class CaptionGuidedMugConfig(Config):
    """Mug over frames that text and auxiliary captions enhance: our reading of ACG in M2-RAAP's Figure 1."""

    name: Literal["caption_guided_mug"] = Field(
        default="caption_guided_mug", description="Name of the interaction; it needs the stage caption."
    )
    form: Annotated[Literal["simple", "full"], OrExtension()] = _FORM
    inverse_temperature: float = _INVERSE_TEMPERATURE
    start: Literal["gate", "open"] = _START
    guide: tuple[Literal["frames", "captions"], ...] = Field(
        default=("frames", "captions"),
        min_length=1,
        description="What the text is compared with for the weight of a frame: the frame, its caption, or both.",
    )
    weights: Literal["softmax", "cross_attention"] = Field(
        default="softmax",
        description="How text and frame, or caption, are compared: by their cosine times a learnt scalar, or by learnt low-rank "
        "queries and keys; both start at equal weights.",
    )
    rank: int = Field(
        default=64, ge=1, le=65536, description="Size of queries and keys where weights is cross_attention."
    )
    tau_w: float = Field(
        default=0.1, gt=0, description="Temperature of the softmax over frames that gives their weights."
    )
    add_captions: bool = Field(
        default=False,
        description="Whether caption vectors are added to the frame vectors too, times a scalar that starts at 0.",
    )

    @property
    def reads_captions(self) -> bool:
        return "captions" in self.guide or self.add_captions

    def without_captions(self) -> MugConfig:
        """Mug with the same form, which this is until it learns."""
        return MugConfig(form=self.form, inverse_temperature=self.inverse_temperature, start=self.start)


class FineConfig(Config):
    """Fine-grained similarity (after arXiv 2112.12182) of phrases or tokens with frames or patches."""

    name: Literal["fine"] = Field(default="fine", description="Name of the interaction.")
    form: Literal["fg", "fg2", "milnce", "filip"] = Field(
        default="fg",
        description="How similarities become a score: one attention over all of them (fg), over frames and then over phrases "
        "(fg2), MIL-NCE's numerator (milnce), or FILIP's means of maxima (filip).",
    )
    tau_a: float = Field(
        default=0.1,
        gt=0,
        description="Temperature of the attention, or of milnce's sum; as it grows, the score becomes the mean.",
    )
    text_units: Literal["tokens", "phrases"] = Field(
        default="phrases",
        description="Parts of a text: its tokens, or phrases of 1 to 4 words, each the mean of its tokens.",
    )
    clip_units: Literal["frames", "patches"] = Field(
        default="frames",
        description="Parts of a clip: its frame vectors, or the projected patches of the last vision layer of each frame.",
    )
    start: Literal["gate", "open"] = _START


class ExtensionInteractionConfig(Config):
    """An interaction of your own, python:module:class, which runs with --allow-code (docs/extend.md)."""

    name: str = Field(pattern=PATTERN, description="Where the class is: python:module:class.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Options of the interaction; a class with a Config checks them by it."
    )


_BuiltinTemporal = MeanConfig | SeqTransfConfig | StanConfig | AdapterConfig | MessageConfig
AnyTemporal = _BuiltinTemporal | ExtensionTemporalConfig
TemporalConfig = Annotated[_BuiltinTemporal, Field(discriminator="name"), OrExtension(ExtensionTemporalConfig)]

_BuiltinInteraction = MugConfig | CaptionGuidedMugConfig | FineConfig
AnyInteraction = _BuiltinInteraction | ExtensionInteractionConfig
# An interaction, or None. (The type of a field: its keys are listed where the union is the outermost type.)
InteractionConfig = Annotated[
    _BuiltinInteraction | None, Field(discriminator="name"), OrExtension(ExtensionInteractionConfig)
]
# Those that score without having learnt, or None.
UntrainedInteractionConfig = Annotated[
    MugConfig | FineConfig | None, Field(discriminator="name"), OrExtension(ExtensionInteractionConfig)
]
