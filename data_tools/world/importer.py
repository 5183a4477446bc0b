"""Importer of the world: OUT/train (with val rows), OUT/test (a benchmark), and beside them the truth, which no stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.world.make import make_world
from data_tools.world.plan import WorldConfig
from m2raap.core import talk
from m2raap.core.config import build, parse_assignments, set_keys
from m2raap.core.corpus import Corpus, open_corpus, write_corpus
from m2raap.core.engine import available_cores
from m2raap.core.lock import locked
from m2raap.core.occupied import refuse_occupied
from m2raap.core.replace import refuse_other_source

BENCHMARK = "world-motion"


def import_world(out: Path, *, seed: int, assignments: list[str], workers: int | None) -> list[Corpus]:
    """Draws, encodes and lists the clips. Raises M2raapError for unknown settings or a folder that holds something else."""
    settings, assigned = parse_assignments(assignments)
    cfg = build(WorldConfig, set_keys({"seed": seed}, settings), "data import world", assigned)
    source = {"importer": "world", "settings": cfg.model_dump(mode="json")}
    train, test, root = out / "train", out / "test", out / "videos"
    refuse_occupied(out, ("manifest.json", "run.json"))
    with locked(
        out,
        written=("videos", "truth.parquet", "wrong_texts.parquet", "scenes.parquet", "shots.parquet", "sounds.parquet"),
    ):
        if all((folder / "manifest.json").exists() for folder in (train, test)):
            corpora = [open_corpus(folder) for folder in (train, test)]
            if all(corpus.source == source for corpus in corpora):
                talk.log("world: already finished")
                return corpora
        for folder in (train, test):  # before the videos of the old world are replaced
            refuse_other_source(folder, source)
        with talk.Phases("world") as phases:
            world = make_world(cfg, out, workers or available_cores(), lambda done, total: phases("clips", done, total))
        more: dict[str, Any] = {"video_root": root, "source": source}
        return [
            write_corpus(train, world.train_clips, world.train_texts, **more),
            write_corpus(test, world.test_clips, world.test_texts, benchmark=BENCHMARK, **more),
        ]
