"""Settings of the terms of the training loss. It does not import torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from m2raap.core.config import Config


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
