"""For the stages that ask a model: the cache of answers, and what was asked, answered, refused and spent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from m2raap.core.config import Config
from m2raap.core.stage import DataStage, Signals
from m2raap.core.tables import Row
from m2raap.curate.llm.ask import is_open
from m2raap.curate.llm.budget import BudgetConfig
from m2raap.curate.llm.cache import FILE, Cache

C = TypeVar("C", bound=Config)


def cache_path(folder: Path) -> Path:
    """RUN/cache/llm.sqlite for a stage folder inside a run, so that arms share answers; else in the stage's own cache/."""
    for above in list(folder.resolve().parents)[:2]:
        if (above / "run.json").exists():
            return above / "cache" / FILE
    return folder / "cache" / FILE


def cache_of(folder: Path) -> Callable[[], Cache]:
    """A function that opens the answer cache of a stage folder, once in each process."""
    return lambda: _open(cache_path(folder))


@lru_cache(maxsize=4)
def _open(path: Path) -> Cache:
    return Cache(path)


def model_of(cfg: Any) -> Any:
    """The config of the model that a stage with this config asks, on a server or on this machine; None where it asks none."""
    return next((model for key in ("endpoint", "local", "transformers") if (model := getattr(cfg, key, None))), None)


def budget_of(cfg: Config) -> tuple[str, BudgetConfig] | None:
    """The key and the budget of the model that a stage with this config asks; None where it asks none that has a budget."""
    for name in ("endpoint", "local"):
        if model := getattr(cfg, name, None):
            return f"{name}.budget", model.budget
    return None


class AskingStage(DataStage[C]):
    """Base of the stages that may ask a model. Their signals hold NAME_outcome, NAME_note and NAME_sent_to."""

    sends: str  # what its requests hold: texts or frames

    @property
    def runs_network(self) -> bool:
        """Also for a language model in the worker, or one that describes pictures there."""
        in_process = (getattr(self.cfg, name, None) for name in ("local", "transformers"))
        return super().runs_network or any(model is not None for model in in_process)

    def spent(self) -> tuple[float, ...]:
        """(questions asked, questions answered from the cache, requests, tokens, cost) of all commands so far."""
        if budget_of(self.cfg) is None:
            return ()
        assert self.folder is not None, "the folder of a stage is set while it runs"
        cache = cache_of(self.folder)()
        return (*cache.tally(self.name), *cache.spent(self.name))

    def num_open(self, signals: Iterable[Row]) -> int:
        return sum(is_open(row.get(f"{self.name}_outcome"), row.get(f"{self.name}_note")) for row in signals)

    def counts(self, signals: Signals) -> dict[str, int]:
        """'texts_sent_to:HOST' and 'rewrite:OUTCOME' -> number, of one part, for the manifest."""
        rows = signals.values()
        hosts = Counter(row[column] for row in rows if row.get(column := f"{self.name}_sent_to"))
        counts = {f"{self.sends}_sent_to:{host}": number for host, number in hosts.items()}
        if budget_of(self.cfg):
            outcomes = Counter(self._outcome(row) for row in rows if row.get(f"{self.name}_outcome"))
            counts |= {f"{self.name}:{outcome}": number for outcome, number in outcomes.items()}
        return dict(sorted(counts.items()))

    def _outcome(self, row: Row) -> str:
        """The outcome of a text, and why where it was skipped; the other outcomes have as many notes as texts."""
        outcome, note = row[f"{self.name}_outcome"], row.get(f"{self.name}_note")
        return f"{outcome} ({note})" if outcome == "skipped" and note else outcome

    def summary(self, before: tuple[float, ...], counts: Mapping[str, Any], num_open: int) -> str:
        if not before or (model := budget_of(self.cfg)) is None:
            return ""
        key, budget = model
        total = self.spent()
        num_asked, num_cached, requests, tokens, cost = (now - then for now, then in zip(total, before, strict=True))
        line = f"{num_asked:,} questions asked in {requests:,} requests, {num_cached:,} answered from the cache"
        line += f"; {tokens:,} tokens" + (f", cost {cost:.4f}" if budget.price_in or budget.price_out else "")
        if not num_open:
            return f"{_results(self.name, counts)}; {line}"
        limits = zip(("max_requests", "max_tokens", "max_cost"), budget.limits, total[2:], strict=True)
        spent = ", ".join(
            f"{self.name}.{key}.{name} {most:g}, spent {used:g}" for name, most, used in limits if math.isfinite(most)
        )
        return (
            f"the budget is spent, and {num_open:,} questions are open ({line}; {spent}; a request is sent only where the most "
            "that it can cost is left). Set a higher budget and give the same command again: it asks the open questions alone"
        )


def _results(stage: str, counts: Mapping[str, int]) -> str:
    """What became of the texts that a model was asked for: '150 texts accepted, refused by rewrite_numbers 3, error 1'."""
    dropped = {key.partition(":")[2]: number for key, number in counts.items() if key.startswith("texts_dropped:")}
    refused = {reason: number for reason, number in dropped.items() if not reason.startswith("clip ")}
    results = [f"{counts.get('texts_added', 0) - sum(refused.values()):,} texts accepted"]
    results += [f"refused by {reason} {number:,}" for reason, number in sorted(refused.items())]
    outcomes = {key.removeprefix(f"{stage}:"): number for key, number in counts.items() if key.startswith(f"{stage}:")}
    results += [f"{outcome} {number:,}" for outcome, number in sorted(outcomes.items()) if outcome != "ok"]
    return ", ".join(results)
