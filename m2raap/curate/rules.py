"""What all rules share: a signal, the side on which it is refused, a limit; and sets of rules as recipes and stages use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from m2raap.core.config import suggestion
from m2raap.core.extension import is_extension
from m2raap.curate.limits import USED_BY, LangLimit, Limit
from m2raap.curate.refusal import Refusal, Side

AnyLimit = TypeVar("AnyLimit", Limit, LangLimit)


@dataclass(frozen=True)
class Rule(Generic[AnyLimit]):
    """Refuses clips or texts whose `signal` is beyond the limit on the side `refuse`. `version` increases when the same text or
    clip would get another score. `limit`: the default; None: the signal is measured and refuses nothing by default."""

    reason: str
    version: int
    signal: str
    refuse: Side
    limit: AnyLimit | None

    @property
    def takes_share(self) -> bool:
        """Whether a limit may be a share of the corpus."""
        return True

    def spelled_out(self, value: Any) -> Any:
        """A recipe's value for this rule, as a Limit or its mapping: a number is the bound on the rule's side, off is None.

        Raises ValueError for anything else.
        """
        if value is None or value is False:  # YAML reads `off` as false
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {USED_BY[self.refuse][0]: value}
        if isinstance(value, Mapping):
            for key in value:
                if key not in Limit.model_fields:
                    raise ValueError(f"{self.reason}: unknown key {key}; a limit has {', '.join(Limit.model_fields)}")
        elif not isinstance(value, Limit):
            keys = ", ".join(USED_BY[self.refuse])
            raise ValueError(f"{self.reason}: expected a number, {{{keys}}} or off, found {value!r}")
        return value

    def check(self, limit: Limit | None) -> None:
        """Raises ValueError if `limit` has a key that this rule cannot use."""
        bound, share = USED_BY[self.refuse]
        for key in limit.keys if limit else ():
            if key not in (bound, share):
                raise ValueError(
                    f"{self.reason} refuses a {self.signal} {self.refuse} its limit and cannot use {key}: set {bound}"
                    + (f" or {share}" if self.takes_share else "")
                )
            if key == share and not self.takes_share:
                raise ValueError(f"{self.reason} cannot refuse a share of the corpus ({key}): set {bound}")


AnyRule = TypeVar("AnyRule", bound=Rule[Any])


class RuleSet(dict[str, AnyRule]):
    """Rules by reason, in order: the first that refuses decides, the others are recorded with it.

    The methods' `thresholds`: reason -> number, of the rules that are on, in that order. The name of an extension is a rule,
    too, where a recipe has it: its reason and its signal are that name, and scores above its limit are refused.
    `outside` makes such a rule, without loading the code; None: there are none of this kind.
    """

    def __init__(self, rules: Iterable[AnyRule], outside: Callable[[str], AnyRule] | None = None) -> None:
        super().__init__((rule.reason, rule) for rule in rules)
        self._outside = outside

    def __missing__(self, name: str) -> AnyRule:
        if self._outside is None or not is_extension(name):
            raise KeyError(name)
        return self._outside(name)

    def versions(self) -> dict[str, int]:
        """reason -> version."""
        return {reason: rule.version for reason, rule in self.items()}

    def defaults(self) -> dict[str, Any]:
        """reason -> default limit; None: off."""
        return {reason: rule.limit for reason, rule in self.items()}

    def over_defaults(self, tree: Any) -> dict[str, Any]:
        """The recipe's limits of the rules that it names, and the defaults of all others. Raises ValueError naming the rule."""
        if not isinstance(tree, Mapping):
            raise ValueError("expected limits by the names of rules")
        for name in tree:
            if name not in self and (self._outside is None or not is_extension(name)):
                raise ValueError(f"unknown rule '{name}': {suggestion(str(name), self)}")
        return self.defaults() | {name: self[name].spelled_out(value) for name, value in tree.items()}

    def checked(self, limits: dict[str, Any]) -> dict[str, Any]:
        """Returns `limits` unchanged. Raises ValueError if a limit has a key that its rule cannot use."""
        for reason, limit in limits.items():
            for part in (limit.en, limit.zh) if isinstance(limit, LangLimit) else (limit,):
                self[reason].check(part)
        return limits

    def thresholds(
        self, limits: Mapping[str, Limit | None], scores: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """reason -> threshold. `scores`: reason -> the scores of the corpus, for limits that are shares, which are left out
        without them."""
        of_corpus = scores or {}
        thresholds = {
            reason: limit.threshold(self[reason].refuse, of_corpus.get(reason, ()))
            for reason, limit in limits.items()
            if limit
        }
        return {reason: threshold for reason, threshold in thresholds.items() if threshold is not None}

    def refusals(self, signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[Refusal]:
        """Every rule that refuses. A signal that is absent or None is not judged."""
        refusals = []
        for reason, threshold in thresholds.items():  # faster than `judged`: nothing is built for rules that pass
            rule = self[reason]
            score = signals.get(rule.signal)
            if score is not None and (score < threshold if rule.refuse == "below" else score > threshold):
                refusals.append(Refusal(reason, rule.signal, float(score), threshold, rule.version))
        return refusals

    def judged(self, signals: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[tuple[Side, Refusal]]:
        """Every rule that is on and has a signal, passed or failed, with the side on which it refuses."""
        judged: list[tuple[Side, Refusal]] = []
        for reason, threshold in thresholds.items():
            rule = self[reason]
            if (score := signals.get(rule.signal)) is not None:
                judged.append((rule.refuse, Refusal(reason, rule.signal, float(score), threshold, rule.version)))
        return judged


def extensions(rules: Mapping[str, Any]) -> list[str]:
    """The rules from outside of the package that are on, in the order of the alphabet."""
    return sorted(name for name, limit in rules.items() if is_extension(name) and limit is not None)
