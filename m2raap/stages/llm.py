"""For the stages that ask a model: the cache of answers, and the counts of requests to each server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from m2raap.core.stage import Signals
from m2raap.curate.llm.cache import FILE, Cache


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


def sent(signals: Signals, column: str, what: str) -> dict[str, int]:
    """'texts_sent_to:HOST' -> number, over one stage's signals, for the manifest."""
    hosts = Counter(row[column] for row in signals.values() if row.get(column))
    return {f"{what}_sent_to:{host}": number for host, number in sorted(hosts.items())}
