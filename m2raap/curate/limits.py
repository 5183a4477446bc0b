"""From where on a rule refuses, as recipes write it: a number, a number for each language, or a share of what is worst."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.curate.refusal import Side


class Limit(Config):
    """A threshold by `value` or, with `quantile`, where that share of the clips lies on the bad side."""

    value: float | None = None  # the threshold; a bare number means this
    quantile: float | None = Field(default=None, gt=0, lt=1)  # the threshold is where that share lies on the bad side

    @classmethod
    def of(cls, value: float) -> Self:
        return cls(value=value)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.quantile is None) == (self.value is None):
            raise ValueError("expected a value or a quantile")
        return self


class LangLimit(Config):
    """A threshold for each language or, with `quantile`, where that share of its texts lies on the bad side."""

    en: float | None = None  # for English; a bare number means both languages
    zh: float | None = None  # for Chinese
    quantile: float | None = Field(default=None, gt=0, lt=1)  # where that share of a language is on the bad side

    @classmethod
    def of(cls, value: float) -> Self:
        return cls(en=value, zh=value)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.quantile is None) == (self.en is None and self.zh is None):
            raise ValueError("expected numbers for en and zh, or a quantile")
        return self

    def value(self, lang: str) -> float | None:
        return self.en if lang == "en" else self.zh


AnyLimit = TypeVar("AnyLimit", Limit, LangLimit)
_Default = TypeVar("_Default", Limit, LangLimit, covariant=True)


class _Rule(Protocol[_Default]):
    @property
    def limit(self) -> _Default | None: ...


def limits_over(given: Any, rules: Mapping[str, _Rule[AnyLimit]], kind: type[AnyLimit]) -> dict[str, AnyLimit | None]:
    """What a recipe says, laid over the defaults of `rules`; None: off. Raises ValueError naming an unknown rule."""
    if not isinstance(given, Mapping):
        raise ValueError("expected rules by name")
    for name in given:
        if name not in rules:
            near = difflib.get_close_matches(str(name), rules, n=1)
            raise ValueError(
                f"unknown rule {name}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(rules)}")
            )
    return {
        name: _limit(given[name], rule.limit, kind) if name in given else rule.limit for name, rule in rules.items()
    }


def _limit(given: Any, default: AnyLimit | None, kind: type[AnyLimit]) -> AnyLimit | None:
    if given is None or given is False:  # YAML reads `off` as false
        return None
    if isinstance(given, kind):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool):
        return kind.of(given)
    if not isinstance(given, Mapping):
        raise ValueError(f"expected a number, {{{', '.join(kind.model_fields)}}} or off, found {given!r}")
    if given.get("quantile") is not None or default is None:
        return kind.model_validate(given)
    return kind.model_validate({**default.model_dump(exclude={"quantile"}), **given})


def at_quantile(scores: np.ndarray, share: float, side: Side) -> float | None:
    """The score on whose bad side `share` of the scores lie; None if there are none."""
    if not len(scores):
        return None
    return float(np.quantile(scores, share if side == "below" else 1 - share))
