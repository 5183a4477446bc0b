"""The published zero-shot text-to-video results of assets/published.yaml, to be shown beside results of one's own.

A row has the metrics that its source prints, and is shown beside values of the same metric only: M2-RAAP's figure has the mean of
R@1, R@5 and R@10 (MeanR), most other tables R@1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from m2raap.core.config import Config
from m2raap.report.data import ProtocolRow, PublishedRow, ResultRow


class Published(Config):
    """A zero-shot text-to-video result as its source prints it."""

    system: str = Field(description="Name of the model.")
    benchmark: str = Field(description="Name of the declared benchmark.")
    lang: str = Field(default="en", description="Language of the queries.")
    metrics: dict[Literal["R@1", "MeanR"], Annotated[float, Field(ge=0, le=100)]] = Field(
        min_length=1, description="Values in percent by metric; MeanR is the mean of R@1, R@5 and R@10."
    )
    source: str = Field(description="Paper and table that print the values.")
    note: str = Field(description="What a reader has to know about the row.")


@lru_cache(maxsize=1)
def _published_table() -> tuple[Published, ...]:
    text = resources.files("m2raap").joinpath("assets/published.yaml").read_text(encoding="utf-8")
    return tuple(Published(**row) for row in yaml.safe_load(text))


def published(benchmark: str) -> list[dict[str, Any]]:
    """The published rows on a benchmark: those with R@1, the lowest first, then those with MeanR."""
    rows = [row for row in _published_table() if row.benchmark == benchmark]
    return [
        row.model_dump() for row in sorted(rows, key=lambda row: [row.metrics.get(m, -1) for m in ("MeanR", "R@1")])
    ]


def published_rows(protocols: Iterable[ProtocolRow], results: Sequence[ResultRow]) -> list[PublishedRow]:
    """The published rows for each benchmark of a run and each language of its queries, one for each metric."""
    names = {row.benchmark: row.protocol["name"] for row in protocols if row.protocol}
    rows = []
    for bench, name in names.items():
        langs = {row.lang for row in results if row.benchmark == bench}
        for row in published(name):
            if row["lang"] in langs:
                head = {key: row[key] for key in ("system", "lang", "source", "note")}
                rows += [PublishedRow(bench, metric=m, value=value, **head) for m, value in row["metrics"].items()]
    return rows
