"""The parts of texts and clips that an interaction reads. All vectors are unit vectors; masks are False for padding.

A texts, B clips, L tokens, X phrases, T frames, P patches a frame, E size of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar

from torch import Tensor

Need = Literal["tokens", "phrases", "captions", "patches"]
NEEDS: tuple[Need, ...] = ("tokens", "phrases", "captions", "patches")


@dataclass(frozen=True)
class TextUnits:
    """A texts: one vector each, and those of their tokens and phrases. What no interaction reads is None."""

    pooled_AE: Tensor
    tokens_ALE: Tensor | None = None
    token_mask_AL: Tensor | None = None
    phrases_AXE: Tensor | None = None
    phrase_mask_AX: Tensor | None = None


@dataclass(frozen=True)
class ClipUnits:
    """B clips: one vector each, those of their frames, and the captions and patches of these frames.

    `captioned_BT`: the frames that have a caption; the vector of a caption that is absent is not read. `mask_BT` also holds
    for patches. What no interaction reads is None.
    """

    pooled_BE: Tensor
    frames_BTE: Tensor
    mask_BT: Tensor
    captions_BTE: Tensor | None = None
    captioned_BT: Tensor | None = None
    patches_BTPE: Tensor | None = None


AnyUnits = TypeVar("AnyUnits", TextUnits, ClipUnits)


def tensors_of(units: TextUnits | ClipUnits) -> dict[str, Tensor]:
    """The tensors that are not None, by name."""
    values = {field.name: getattr(units, field.name) for field in fields(units)}
    return {name: value for name, value in values.items() if value is not None}


def select(units: AnyUnits, rows: slice | Tensor) -> AnyUnits:
    """Some texts, or some clips, in the order of `rows` (a slice, or numbers of rows)."""
    return replace(units, **{name: value[rows] for name, value in tensors_of(units).items()})


def in_fp32(units: AnyUnits) -> AnyUnits:
    """The same units with vectors in fp32."""
    vectors = {name: value.float() for name, value in tensors_of(units).items() if value.is_floating_point()}
    return replace(units, **vectors)
