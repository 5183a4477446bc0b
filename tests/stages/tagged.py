"""Annotate folders without vectors: the stage with tags that a test states, and a tagger folder without members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2raap.annotate.config import AnnotateConfig, FitConfig
from m2raap.annotate.judge import LabelScore, write_label_table
from m2raap.annotate.label_set import LabelSet
from m2raap.core.engine import Engine, LocalEngine
from m2raap.core.files import file_sha256, files_below, write_json
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import Tables
from m2raap.core.view import Part, View
from m2raap.stages.annotate import FOLDER, AnnotateStage

METRICS = {
    "unseen_clips": 40, "gap": 0.51234, "gap_95": [0.45, 0.55], "map": 0.25, "map_labels": 2, "hit_at_1": 0.875, "perr": 0.5,
    "calibration_error": 0.0213,
}  # fmt: skip


def write_tagger(
    folder: Path, names: Sequence[str], corpus: str = "none", metrics: Mapping[str, Any] | None = None
) -> None:
    """tagger.json, labels.json and labels.csv: what is read of a tagger that gives no tags. The first label has 20 clips."""
    folder.mkdir(parents=True)
    labels = LabelSet(tuple(names), ((),) * len(names), tuple(range(20, 20 - len(names), -1)), 40)
    labels.save(folder / "labels.json")
    nan = float("nan")
    scores = [LabelScore(0.8, 0.7, 0.9, 18)] + [LabelScore(nan, nan, nan, 0)] * (len(names) - 1)
    write_label_table(folder / "labels.csv", labels, scores)
    files = {name: file_sha256(folder / name) for name in ("labels.json", "labels.csv")}
    tree = {"fit": FitConfig().model_dump(), "dim": 4, "vectors": "frames:x", "corpus": corpus, "members": []}
    write_json(folder / "tagger.json", tree | {"metrics": dict(metrics or METRICS), "files": files})


class Tagged(AnnotateStage):
    """Gives every clip the tags of `tags`, with their probabilities, and every text the names and support of `named`."""

    reads_signals = ()

    def __init__(
        self,
        tags: Mapping[str, Mapping[str, float]],
        named: Mapping[str, tuple[list[str], float]] | None = None,
        names: Sequence[str] = (),
        cfg: AnnotateConfig | None = None,
    ) -> None:
        super().__init__(cfg or AnnotateConfig())
        self.tags, self.named, self.names = tags, named or {}, names

    def before_parts(self, view: View, engine: Engine, alone: bool) -> str:
        assert self.folder is not None
        if self.cfg.tagger is None and not (self.folder / FOLDER).exists():
            write_tagger(
                self.folder / FOLDER,
                self.names or sorted({tag for row in self.tags.values() for tag in row}) or ["none"],
            )
        return "tagger"

    def more_files(self) -> list[str]:
        assert self.folder is not None
        return files_below(self.folder, FOLDER) if self.cfg.tagger is None else []

    def score(self, part: Part, view: View) -> Tables:
        rows = []
        for clip in part.clips:
            tags = self.tags.get(clip["clip_id"], {})
            columns = {"tags": list(tags), "tags_p": list(tags.values()), "top_tag": 0 if tags else None}
            rows.append({"clip_id": clip["clip_id"], **columns})
        for text in part.texts:
            names, support = self.named.get(text["text_id"], ([], None))
            ids = {"clip_id": text["clip_id"], "text_id": text["text_id"]}
            rows.append(ids | {"tags_named": names, "tag_support": support})
        return {"signals": rows}


def tagged(view: View, folder: Path, *args: Any, **options: Any) -> Path:
    """The folder of a `Tagged` stage over a view."""
    assert run_data_stage(Tagged(*args, **options), view, folder, LocalEngine(1))
    return folder
