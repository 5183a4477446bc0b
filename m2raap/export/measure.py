"""R@1 of a model on the stored frames of a benchmark, measured without a stage folder, for exports and interpolations."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.core.errors import M2raapError
from m2raap.core.view import View
from m2raap.retrieval.arms import paired
from m2raap.retrieval.results_file import read_results
from m2raap.stages.embed import EmbedConfig, embed, refuse_without_frames
from m2raap.stages.evaluate import evaluate_folder, read_ranks

if TYPE_CHECKING:
    from m2raap.models.video_clip import VideoCLIP


@dataclass(frozen=True)
class Measured:
    """`rows` as in results.json (scope `official`), `ranks` as in ranks.parquet."""

    benchmark: str
    rows: list[dict[str, Any]]
    ranks: list[dict[str, Any]]

    def r1(self) -> list[dict[str, Any]]:
        """R@1 with its interval, a row for each language and direction, over all queries."""
        return [
            {
                "lang": row["lang"], "direction": row["direction"], "queries": row["queries"],
                "r1": row["metrics"]["R@1"], "lo": row["intervals"]["R@1"][0], "hi": row["intervals"]["R@1"][1],
            }
            for row in self.rows
            if row["slice"] == "all" and row["direction"] in ("t2v", "v2t")
        ]  # fmt: skip

    def minus(self, other: Measured, seed: int) -> list[dict[str, Any]]:
        """R@1 of this model minus that of another, paired over the same queries (`m2raap.retrieval.arms.paired`)."""
        return [
            paired([self.ranks], [other.ranks], row["lang"], row["direction"], "R@1", seed)
            for row in self.r1()
        ]  # fmt: skip


def measure(view: View, clip: VideoCLIP, seed: int = 0, cfg: EmbedConfig | None = None) -> Measured:
    """Embeds a benchmark's stored frames and evaluates. Raises M2raapError for a view without frames or of no benchmark."""
    if not view.is_benchmark:
        raise M2raapError(f"{view.corpus_path}: is a training corpus; give the keyframes folder of a benchmark")
    refuse_without_frames(view)
    benchmark = view.corpus.benchmark or "custom"
    with tempfile.TemporaryDirectory(prefix="m2raap-measure-") as scratch:
        embedded, evaluated = (Path(scratch) / benchmark / stage for stage in ("embed", "evaluate"))
        for folder in (embedded, evaluated):
            folder.mkdir(parents=True)
        embed(view, cfg or EmbedConfig(), clip, embedded)
        evaluate_folder(embedded, benchmark, seed, evaluated)
        rows = [row for row in read_results(evaluated)["rows"] if row["scope"] == "official"]
        return Measured(benchmark, rows, read_ranks(evaluated / "ranks.parquet"))
