"""Settings of adaptation. It does not import torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from m2raap.adapt.loss_config import HarmonizeConfig, LossConfig
from m2raap.core.config import HOW, Config
from m2raap.models.config import (
    AcgConfig,
    BackboneConfig,
    CaptionGuidedMugConfig,
    InteractionConfig,
    StanConfig,
    TemporalConfig,
)


class LoraConfig(Config):
    """Low-rank updates that learn, at the rate lr_new, in place of the linear layers of the backbone that would learn."""

    rank: int = Field(default=8, ge=1, description="Rank of the low-rank update.")
    alpha: float = Field(default=16.0, gt=0, description="Strength of the update, which is scaled by alpha / rank.")
    targets: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Last parts of the names of the layers that get an update, such as c_fc, c_proj; null: all that learn.",
    )


class AugmentConfig(Config):
    """What training changes at random in the frames; validation and embed never do. Nothing by default."""

    random_resized_crop: tuple[float, float] | None = Field(
        default=None,
        description="Smallest and largest area of a random part that is cut out of the frames and resized, as a share of "
        "the picture; all frames of a clip show the same part. STAN has [0.08, 1.0]; null: the centre crop.",
    )
    frame_jitter: bool = Field(
        default=False,
        description="Whether, of more stored frames than num_frames, a random one of each of num_frames equal segments is "
        "taken, and not the middle one. Input video always does so.",
    )

    @property
    def changes_pixels(self) -> bool:
        """Whether the frames of a clip differ from one epoch to the next."""
        return self.random_resized_crop is not None or self.frame_jitter

    @field_validator("random_resized_crop")
    @classmethod
    def _are_shares(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError("expected the smallest and the largest share of the picture, such as [0.08, 1.0]")
        return scale


class AdaptConfig(Config):
    """How an image-text backbone becomes a video-text model.

    Defaults are for the tiny bilingual CLIP and a corpus of about a thousand clips on two cores. For ViT-B/32 and
    WebVid-sized corpora STAN's recipe is lr 4e-6, lr_new 4e-5, batch 1152, weight_decay 0.05, all layers trained.
    """

    backbone: BackboneConfig = Field(default=BackboneConfig(), description="The image-text model to start from.")
    temporal: TemporalConfig = Field(default=StanConfig(), description="The temporal module over the frames of a clip.")

    input: Literal["keyframes", "video"] = Field(
        default="keyframes",
        description="Source of the frames: those that keyframes stored, or the video files, decoded again every "
        "epoch (for comparison).",
    )
    decoders: int = Field(
        default=0,
        ge=0,
        description="Number of decoder processes of a process that trains; 0: the cores over the GPUs for stored frames and a "
        "GPU, none for the CPU, and one per core for input video.",
        json_schema_extra=HOW,
    )
    decode: Literal["exact", "fast"] = Field(
        default="exact",
        description="How training decodes stored frames: exact as open_clip does (Pillow), fast by OpenCV at 3 times the rate or "
        "more, with pixels that differ a little. Validation, prefix caches and embed are exact in any case.",
    )
    train_clips: int | None = Field(
        default=None, ge=2, description="Number of clips to train on, drawn by the seed; null: all."
    )
    val_clips: int | None = Field(
        default=5000, ge=1, description="Most val clips that a validation reads, drawn by the seed; null: all."
    )
    num_frames: int = Field(
        default=8,
        ge=1,
        description="Number of frames per clip; of more, evenly spaced ones are taken, fewer are padded.",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(), description="Random changes of the frames in training; they rule out the prefix cache."
    )
    text_length: int | None = Field(
        default=None,
        ge=3,
        description="Number of tokens to which texts and captions are cut, start and end token included, in training and "
        "validation; null: as many as the text tower takes. embed has a key of its own.",
    )
    epochs: float = Field(
        default=10.0, gt=0, description="Number of passes over the clips; in each, texts are drawn once per clip."
    )
    steps: int | None = Field(
        default=None, ge=1, description="Number of steps of the optimiser, in place of epochs; null: as epochs says."
    )
    batch_size: int = Field(default=64, ge=2, description="Number of clips per step.")
    full_batch: bool = Field(
        default=False,
        description="Whether every step is on all clips, with the same texts: iRProp+ steps of the temporal module, to fine-tune "
        "a model (--start) by exact gradients. adapt.batch_size clips are encoded at a time, twice a step; the similarities of "
        "all clips with each other have to fit into memory.",
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="Number of clips that are encoded at a time, by gradient caching: the same gradients in "
        "less memory, for the cost of a second forward pass; null: the whole batch. It is halved when GPU memory runs out.",
    )
    group_size: int = Field(
        default=1,
        ge=1,
        description="Number of clips per group of a batch; the clips of a group look alike to the untrained backbone and are "
        "hard negatives; 1: no groups.",
    )
    loss: LossConfig = Field(default=LossConfig(), description="Weights of the terms of the loss.")
    harmonize: HarmonizeConfig | None = Field(
        default=None,
        description="What training does where a text and the captions of the frames, or the sound, pull the video vector apart; "
        "it needs adapt.loss.clip_caption or clip_sound. null: nothing.",
    )
    acg: AcgConfig | None = Field(
        default=None,
        description="Auxiliary-caption-guided weights over frames (ACG); they need the stage caption. null: none.",
    )
    caption_dropout: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of the clips of a step that ACG and the interaction see without captions.",
    )
    interaction: InteractionConfig = Field(
        default=None,
        description="The interaction (late interaction) whose scores adapt.loss.interaction trains; null: none.",
    )
    texts_per_clip: int = Field(
        default=1,
        ge=1,
        description="Number of texts per clip and step, of different languages where the clip has them.",
    )

    lr: float = Field(default=1e-4, ge=0, description="Learning rate of the backbone's own weights.")
    lr_new: float = Field(
        default=1e-3, ge=0, description="Learning rate of the temporal module and of low-rank updates."
    )
    lr_gate: float = Field(
        default=1e-2,
        ge=0,
        description="Learning rate of gates and of a learnt temperature; Adam moves a scalar by about this much per step.",
    )
    lr_floor: float = Field(
        default=0.1, ge=0, le=1, description="Learning rates at the last step, as a share of the full ones."
    )
    warmup: float = Field(
        default=0.04,
        ge=0,
        lt=1,
        description="Share of the run over which the learning rates rise to their full value, from 0 to below 1.",
    )
    weight_decay: float = Field(
        default=0.05, ge=0, description="Weight decay of AdamW; norms, biases and gates have none."
    )
    decay_embeddings: bool = Field(
        default=False,
        description="Whether embedding tables (of tokens, positions, the class and time) have weight decay too, as in STAN's "
        "code.",
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.98), description="The two betas of AdamW.")
    clip_norm: float = Field(
        default=5.0, gt=0, description="Largest norm of the gradient; a longer one is scaled down to it."
    )

    train_vision_layers: int = Field(
        default=0,
        ge=0,
        description="Number of last vision layers that learn; where that is all of them, the embeddings learn too.",
    )
    train_text: bool = Field(default=True, description="Whether the text tower learns.")
    lora: LoraConfig | None = Field(
        default=None,
        description="Low-rank updates in place of whole layers (needs peft); they are merged into the weights "
        "when the model is saved.",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Factor on the backbone's learning rate per layer of distance from the output of a tower.",
    )
    temperature: float | None = Field(
        default=None, gt=0, description="Temperature of the contrastive losses at the start; null: the backbone's own."
    )
    learn_temperature: bool = Field(default=False, description="Whether the temperature learns, at the rate lr_gate.")
    objective: str = Field(
        default="info_nce",
        description="Contrastive objective: a key of m2raap.models.losses.OBJECTIVES, or python:module:function.",
    )

    langs: tuple[str, ...] = Field(
        default=("en", "zh"), min_length=1, description="Languages of the texts that are drawn."
    )
    lang_odds: dict[str, float] = Field(
        default_factory=dict, description="Odds of a language in a draw; 1 where it is not named."
    )
    origin_odds: dict[str, float] = Field(
        default={"raw": 1.0, "rewrite": 1.0, "translation": 1.0, "aux": 0.25},
        description="Odds of an origin among a clip's texts of one language, shared among the texts of that origin; 0: none.",
    )

    val_every_steps: int = Field(default=20, ge=1, description="Number of steps between two validations.")
    keep: Literal["best", "last", "average"] = Field(
        default="best",
        description="Which weights are kept: the best by the val clips, the last, or the average of those at the last "
        "validations. Within one standard error of the best the later wins. Without val clips best means the last.",
    )
    keep_by: Literal["mrr", "r1", "loss"] = Field(
        default="mrr",
        description="Score of the val clips by which a checkpoint is the best: mean reciprocal rank or R@1, as means over "
        "languages and both directions, or the contrastive loss, as mean over languages.",
    )
    average_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of the steps, at the end, whose validations count in the average of weights (adapt.keep=average).",
    )
    checkpoint_every_steps: int = Field(
        default=50,
        ge=1,
        description="Number of steps between two checkpoints to resume from.",
        json_schema_extra=HOW,
    )
    cache: Literal["auto", "off", "prefix", "levels"] = Field(
        default="auto",
        description="Cache of what frozen vision layers compute, in float16: the tokens that enter the last layers (prefix) or, "
        "where no vision layer learns, all that the temporal module reads (levels).",
    )
    cache_limit_gb: float = Field(
        default=20.0,
        gt=0,
        description="Largest cache in gigabytes that auto creates; results with and without it may differ in the last bits.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="Number format of the towers; fp16, for GPUs without bf16, scales the loss by a factor that adapts.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device that trains; auto: a GPU where there is one.", json_schema_extra=HOW
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="Number of torch's threads; 0: OMP_NUM_THREADS, or one per core.",
        json_schema_extra=HOW,
    )
    compile: bool = Field(
        default=False,
        description="Whether torch.compile compiles the layers of the vision tower: it takes a minute at the start.",
        json_schema_extra=HOW,
    )
    recompute: bool = Field(
        default=False,
        description="Whether the backward pass computes the layers of the vision tower and of STAN again instead of keeping "
        "their activations (activation checkpointing): less memory, for about a third more time.",
        json_schema_extra=HOW,
    )
    tensorboard: bool = Field(
        default=False,
        description="Whether TensorBoard's event files are written too (needs the package tensorboard).",
        json_schema_extra=HOW,
    )
    wandb: str | None = Field(
        default=None,
        min_length=1,
        description="Project of Weights & Biases to which the numbers of the training are sent (needs the package wandb); null: "
        "nothing is sent.",
        json_schema_extra=HOW,
    )
    seed: int = Field(default=0, description="Seed of everything that training draws.")

    @property
    def wants_captions(self) -> bool:
        """Whether training reads the auxiliary captions of frames; of an interaction from outside only the module tells."""
        guided = isinstance(self.interaction, CaptionGuidedMugConfig) and self.interaction.reads_captions
        learns = self.loss.frame_caption.weight > 0 or self.loss.clip_caption.weight > 0
        return self.acg is not None or learns or guided

    @property
    def pixels_are_fixed(self) -> bool:
        """Whether training reads the same pixels in every epoch, so that what frozen layers make of them can be kept."""
        return self.input == "keyframes" and not self.augment.changes_pixels

    @property
    def keeps_by_interaction(self) -> bool:
        """Whether checkpoints are chosen by the interaction's scores: where the cosines of the first stage are not trained."""
        return self.loss.plain.weight == 0 and self.loss.interaction.weight > 0

    @model_validator(mode="before")
    @classmethod
    def _warmup_is_a_share(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        if "warmup_steps" in tree:
            raise ValueError(
                "adapt.warmup_steps is not a key any more: write adapt.warmup, the share of the run over which the learning "
                "rates rise, such as 0.04 for 10 of 250 steps"
            )
        warmup = tree.get("warmup")
        if isinstance(warmup, int | float) and warmup >= 1:
            raise ValueError(
                f"adapt.warmup is a share of the run from 0 to below 1, and {warmup:g} is not: to warm up for a number of steps, "
                "write that number divided by the steps of the run (--dry-run prints them)"
            )
        return tree

    @model_validator(mode="after")
    def _something_to_learn(self) -> AdaptConfig:
        if self.temporal.name == "mean" and not self.train_text and not self.train_vision_layers:
            raise ValueError(
                "adapt.temporal.name mean has no weights, so that nothing learns: set adapt.train_text to true, or "
                "adapt.train_vision_layers above 0"
            )
        if self.lora and not self.train_text and not self.train_vision_layers:
            raise ValueError(
                "adapt.lora updates layers that learn: set adapt.train_text to true, or adapt.train_vision_layers above 0"
            )
        if not self.loss.weights_at(0.0):
            raise ValueError(
                "adapt.loss has no term that counts from the first step: give one a weight above 0 and start 0"
            )
        if (self.interaction is not None) != (self.loss.interaction.weight > 0):
            raise ValueError(
                "adapt.interaction and adapt.loss.interaction go together: name the interaction and give its loss a weight above "
                "0, or set adapt.interaction to null and adapt.loss.interaction to 0"
            )
        if self.acg is not None and getattr(self.temporal, "pool", "unit") == "raw":
            raise ValueError(
                "adapt.temporal.pool raw and adapt.acg both say how frame vectors become one: set adapt.temporal.pool to unit, "
                "or adapt.acg to null"
            )
        if self.full_batch and (
            self.train_text or self.train_vision_layers or self.harmonize or self.precision != "fp32"
        ):
            raise ValueError(
                "adapt.full_batch trains the temporal module alone, in fp32: set adapt.train_text to false, "
                "adapt.train_vision_layers to 0, adapt.harmonize to null and adapt.precision to fp32"
            )
        if self.full_batch and (self.augment.changes_pixels or self.augment.frame_jitter):
            raise ValueError(
                "adapt.full_batch compares the loss of a step with that of the step before, and adapt.augment changes the frames "
                "between them: leave out adapt.augment"
            )
        if self.harmonize is not None and not (self.loss.clip_caption.weight or self.loss.clip_sound.weight):
            raise ValueError(
                "adapt.harmonize compares the gradients of texts with those of adapt.loss.clip_caption and clip_sound: give one "
                "of these losses a weight above 0, or set adapt.harmonize to null"
            )
        if self.temporal.name == "mean" and self.loss.direction.weight:
            raise ValueError(
                "adapt.temporal.name mean gives a clip and its reversal the same vector: set adapt.loss.direction to 0"
            )
        if self.temporal.name == "mean" and self.loss.event_order.weight:
            raise ValueError(
                "adapt.temporal.name mean gives a clip and the same with its halves exchanged the same vector: set "
                "adapt.loss.event_order to 0"
            )
        if self.num_frames == 1 and self.loss.event_order.weight:
            raise ValueError(
                "adapt.loss.event_order exchanges the halves of a clip, and adapt.num_frames is 1: raise it, or set the loss to 0"
            )
        if self.input == "video" and self.cache not in ("auto", "off"):
            raise ValueError(
                f"adapt.cache={self.cache} is for stored frames, and adapt.input=video reads other frames in every epoch: set "
                "adapt.cache to auto, or adapt.input to keyframes"
            )
        if self.augment.changes_pixels and self.cache not in ("auto", "off"):
            raise ValueError(
                f"adapt.cache={self.cache} keeps what frozen layers make of the frames, and adapt.augment changes the frames in "
                "every epoch: set adapt.cache to auto, or leave out adapt.augment"
            )
        if self.input == "video" and self.wants_captions:
            raise ValueError(
                "adapt.acg, adapt.loss.frame_caption, adapt.loss.clip_caption and an adapt.interaction that reads captions take "
                "those of stored key-frames: set adapt.input to keyframes"
            )
        if all(self.origin_odds.get(origin, 1.0) == 0 for origin in ("raw", "rewrite", "translation", "aux")):
            raise ValueError("adapt.origin_odds leaves no text to learn from: give an origin odds above 0")
        return self
