"""Settings of the tagger. It does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from m2raap.core.config import APPLY, HOW, Config
from m2raap.curate.balance import TargetConfig

CAPTIONS, CATEGORY, COLUMN = "captions", "category", "column"


class LabelsConfig(Config):
    """Where the labels of the training clips come from. Digests hold the content of files, and not where they lie."""

    source: str = Field(
        default=CAPTIONS,
        description="captions (frequent English nouns and verbs, and Chinese words, of the texts), category (the column of the "
        "clips; several are separated by ';'), column (the labels that the corpus's list stated), or the path of a csv with "
        "the columns clip_id (or url) and label.",
    )
    min_count: int = Field(default=20, ge=2, description="Fewest clips of a label; rarer ones are left out.")
    max_share: float = Field(
        default=0.5, gt=0, le=1, description="Largest share of the clips that a word of captions may be a label of."
    )
    max_labels: int = Field(default=2000, ge=1, description="Most labels; the most frequent ones stay.")
    stop_words: Path | None = Field(
        default=None,
        description="A text file with a word a line that is no label, beside the built-in list.",
        json_schema_extra=HOW,
    )
    synonyms: Path | None = Field(
        default=None,
        description="A text file with a label a line: words of one meaning, separated by commas; the first names it.",
        json_schema_extra=HOW,
    )
    join_langs: float | None = Field(
        default=0.6,
        gt=0,
        le=1,
        description="An English and a Chinese word become one label where each is the other's most frequent companion in clips "
        "with texts in both languages, with at least this Dice coefficient; null: never.",
    )


class FitConfig(Config):
    """How the tagger is trained: shared layers and small heads together, then heads and shared layers in turn."""

    pooling: Literal["mean", "swap", "attention"] = Field(
        default="mean", description="How the frame vectors of a clip become one vector."
    )
    frame_layer: Literal["none", "linear", "gate", "residual"] = Field(
        default="linear", description="The shared layer over each frame vector, before the pooling."
    )
    context_gate: bool = Field(default=True, description="Whether the pooled vector passes a context gate.")
    hidden: int = Field(default=256, ge=1, le=16384, description="Size of the vector that the heads read.")
    max_experts: int = Field(default=8, ge=1, le=256, description="Most experts of a label's mixture.")
    positives_per_expert: int = Field(
        default=100, ge=1, description="A label has one expert for every so many of its clips, up to max_experts."
    )
    folds: int = Field(
        default=2,
        ge=1,
        le=10,
        description="Number of taggers, each trained without one share of the clips: the tags of these are those of a tagger "
        "that has not seen them. 1: one tagger, trained on all.",
    )
    val_share: float = Field(
        default=0.1,
        gt=0,
        lt=0.5,
        description="Share of the clips by which the best round is chosen and p is calibrated.",
    )
    pretrain_steps: int = Field(
        default=1500, ge=0, description="Number of steps of Adam that train shared layers and small heads together."
    )
    pretrain_experts: int = Field(default=2, ge=1, le=5, description="Most experts of a label in these steps.")
    pretrain_labels: int = Field(default=1000, ge=1, description="Number of most frequent labels in these steps.")
    rounds: int = Field(default=2, ge=1, description="Number of rounds: each makes the heads anew.")
    head_steps: int = Field(default=1500, ge=1, description="Number of steps of Adam that train the heads of a round.")
    shared_steps: int = Field(
        default=10, ge=0, description="Number of full-batch steps of the shared layers after the heads of a round."
    )
    batch_size: int = Field(default=256, ge=1, description="Number of clips a step of Adam.")
    lr: float = Field(default=2e-3, gt=0, description="Learning rate of Adam.")
    l2: float = Field(default=1e-6, ge=0, description="Weight of the squared weights of the heads in their loss.")
    shard_clips: int = Field(
        default=4096, ge=1, description="Number of clips of a shard, which one worker reads at a time."
    )
    group_weights: int = Field(
        default=2_000_000,
        ge=1,
        description="Most weights of the heads that one worker trains at a time. They bound its memory, whatever the number of "
        "labels.",
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of weights, batches, folds and the clips for choosing the round."
    )


class AnnotateConfig(Config):
    """The tags of clips: labels with probabilities, and the texts that they contradict."""

    tagger: Path | None = Field(
        default=None,
        description="A folder that 'm2raap annotate fit' made; null: one is fitted on the clips of the corpus.",
        json_schema_extra=HOW,
    )
    labels: LabelsConfig = Field(default_factory=LabelsConfig, description="Where the labels come from.")
    fit: FitConfig = Field(default_factory=FitConfig, description="How the tagger is trained.")
    num_tags: int = Field(default=20, ge=1, description="Most tags of a clip.")
    least_p: float = Field(default=0.02, ge=0, lt=1, description="Lowest probability of a tag.")
    least_support: float | None = Field(
        default=None,
        description="A text is refused where the labels that it names have less support: the mean of log(p / share of the clips "
        "that have the label). Below 0 the frames make the labels less probable than they are in the corpus at large; null: no "
        "text is refused.",
        json_schema_extra=APPLY,
    )
    balance: TargetConfig | None = Field(
        default=None,
        description="How many clips are kept, spread evenly over their most probable tags; null: all.",
        json_schema_extra=APPLY,
    )

    @model_validator(mode="after")
    def _support_of_unseen(self) -> AnnotateConfig:
        if self.least_support is not None and self.tagger is None and self.fit.folds == 1:
            raise ValueError(
                "annotate.least_support judges texts by a tagger that has not seen them: set annotate.fit.folds to at least 2"
            )
        return self
