"""Settings of the terms of the training loss. It does not import torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from m2raap.core.config import HOW, Config


class TermConfig(Config):
    """The weight of a term of the loss, and from when it counts. A number alone is the weight."""

    weight: float = Field(default=1.0, ge=0, description="Factor of the term; 0: the term is left out.")
    start: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the run (0..1) before which the term is left out."
    )


def _of_number(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"weight": value} if is_number else value


Term = Annotated[TermConfig, BeforeValidator(_of_number, json_schema_input_type=float | TermConfig)]


class HarmonizeConfig(Config):
    """What training does where the gradients of a clip's text and of its captions of frames, or its sound, are in conflict."""

    mode: Literal["realign", "curriculum", "both"] = Field(
        default="curriculum",
        description="realign: conflicting gradients are projected; curriculum: texts in conflict are left out of the loss, and "
        "stay in the batch as negatives.",
    )
    gamma: tuple[float, float] = Field(
        default=(0.0, 0.3),
        description="Agreement of gradients (-1..1) up to which the curriculum leaves a text out, at first and at last.",
    )
    temperature: float | None = Field(
        default=0.3,
        gt=0,
        description="Temperature of the softmaxes whose gradients are compared; at that of the loss (null) they point at the "
        "one or two nearest texts, and wrong texts are found less well.",
    )
    level: Literal["vectors", "weights"] = Field(
        default="vectors",
        description="Where realign projects: for each clip at its video vector, or over all weights together, which takes a pass "
        "for each of texts, captions and sound (for comparison).",
    )
    truth: str | None = Field(
        default=None,
        min_length=1,
        description="Parquet file whose column id holds the wrong texts; the log then says how well conflict finds them. null: "
        "none.",
        json_schema_extra=HOW,
    )

    @field_validator("gamma")
    @classmethod
    def _are_cosines(cls, gamma: tuple[float, float]) -> tuple[float, float]:
        if not all(-1 <= value <= 1 for value in gamma):
            raise ValueError("expected two cosines from -1 to 1, such as [0.0, 0.3]")
        return gamma

    @property
    def realigns(self) -> bool:
        return self.mode != "curriculum"

    @property
    def leaves_out(self) -> bool:
        return self.mode != "realign"


class LossConfig(Config):
    """Weights of the terms of the loss, each a number or {weight, start}."""

    plain: Term = Field(
        default=TermConfig(weight=1.0),
        description="Contrastive loss over the cosines of video vectors and text vectors.",
    )
    interaction: Term = Field(
        default=TermConfig(weight=0.0), description="Contrastive loss over the scores of the interaction."
    )
    frame_caption: Term = Field(
        default=TermConfig(weight=0.0),
        description="Contrastive loss over frames and their auxiliary captions; it needs the stage caption.",
    )
    clip_caption: Term = Field(
        default=TermConfig(weight=0.0),
        description="Contrastive loss of video vectors and the mean of the auxiliary captions of their frames, which "
        "adapt.harmonize compares with the texts; it needs the stage caption.",
    )
    clip_sound: Term = Field(
        default=TermConfig(weight=0.0),
        description="Contrastive loss of video vectors and the sound of their clips, by a small tower that is dropped after "
        "training; adapt.harmonize compares it with the texts. It needs keyframes.senses with sound.",
    )
    direction: Term = Field(
        default=TermConfig(weight=0.0),
        description="Loss that separates a clip from itself with reversed frames; the temporal module then runs twice.",
    )
    clauses: Term = Field(
        default=TermConfig(weight=0.0),
        description="Contrastive loss that reads the two events of a caption that says their order, in order of time, from the "
        "video vector and from the caption's by two matrices that are dropped after training; the text tower encodes the two "
        "clauses too.",
    )
    event_order: Term = Field(
        default=TermConfig(weight=0.0),
        description="Loss that separates a clip and its caption from the clip with its halves exchanged and the caption with its "
        "two events exchanged; only captions that say an order count. The temporal module then runs once more.",
    )

    @property
    def wants_order(self) -> bool:
        """Whether training reads the events of captions."""
        return self.clauses.weight > 0 or self.event_order.weight > 0

    def terms(self) -> dict[str, TermConfig]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def weights_at(self, progress: float) -> dict[str, float]:
        """The weights above 0 of the terms that count after the share `progress` (0..1) of the run."""
        return {name: term.weight for name, term in self.terms().items() if term.weight > 0 and progress >= term.start}
