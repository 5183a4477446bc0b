"""The decisions of align from stored frames and features: copies, mismatches, the balance. No model is used."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2raap.core.config import build
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.tables import row_key
from m2raap.core.view import Part, View
from m2raap.curate import thumbnails
from m2raap.curate.balance import NO_CLUSTER
from m2raap.curate.encode import pack
from m2raap.curate.text_copies import text_key
from m2raap.stages.align import AlignConfig, AlignStage

DIM, K = 16, 8
SEEN = {
    "duration_s": 3.0,
    "width": 96,
    "height": 96,
    "black_share": 0.0,
    "frozen_share": 0.0,
    "motion": 2.0,
    "pick_sharpness": 50.0,
}


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Clips of a few topics, each with an English text of its own topic; parts of `size` clips."""

    def __init__(self, num: int, seed: int = 0, topics: int = 5, size: int = 7) -> None:
        rng = np.random.default_rng(seed)
        middles = unit(rng.normal(size=(topics, DIM)))
        self.topic = rng.integers(0, topics, num)
        topic_vectors = unit(middles[self.topic] + 0.35 * unit(rng.normal(size=(num, DIM))))
        self.clips: list[dict[str, Any]] = []
        self.texts: list[dict[str, Any]] = []
        self.signals: dict[str, dict[str, Any]] = {}
        self.signals_of: dict[str, dict[str, Any]] = {}
        self.scores: dict[str, dict[str, Any]] = {}
        self.size = size
        for i in range(num):
            clip_id = f"c{i:04d}"
            self.clips.append({"clip_id": clip_id})
            self.signals[clip_id] = SEEN | {"pick_sharpness": float(i)}
            frames = unit(topic_vectors[i] + 0.1 * rng.normal(size=(K, DIM)))
            thumbs = rng.integers(0, 255, (K, 8, 8, 3)).astype(np.uint8)
            self.signals_of[clip_id] = {"features": pack(frames), "dim": DIM} | self.picture(thumbs)
            self.add_text(i, topic_vectors[i], "en")

    def add_text(self, i: int, feature: np.ndarray, lang: str) -> None:
        text_id = f"c{i:04d}.{lang}"
        self.texts.append({"text_id": text_id, "clip_id": f"c{i:04d}", "lang": lang})
        sims = {"sim_max": 0.5, "sim_mean": 0.5, "sim_robust": 0.5}
        self.signals_of[text_id] = {
            "features": pack(unit(feature)),
            "dim": DIM,
            "text_key": text_key(f"words {text_id}", "en"),
        } | sims

    @staticmethod
    def picture(thumbs: np.ndarray) -> dict[str, Any]:
        hashes = thumbnails.hashes(thumbs)
        return {
            "thumbnails": thumbs.tobytes(), "blurred_share": 0.0,
            "thumbnail_hashes": np.array(hashes, "<i8").tobytes() if hashes else None,
        }  # fmt: skip

    def parts(self) -> list[tuple[Part, dict[str, Any]]]:
        parts = []
        for start in range(0, len(self.clips), self.size):
            part_ids = {row["clip_id"] for row in self.clips[start : start + self.size]}
            texts = [row for row in self.texts if row["clip_id"] in part_ids]
            ids = part_ids | {row["text_id"] for row in texts}
            part = Part(start // self.size, self.clips[start : start + self.size], texts, {}, self.signals, self.scores)
            parts.append((part, {name: row for name, row in self.signals_of.items() if name in ids}))
        return parts

    def judged(self, **tree: Any) -> tuple[dict[str, str], list[dict], list[dict]]:
        stage = AlignStage(build(AlignConfig, tree, "test"))
        decisions = stage.reduce(self.parts())
        part_tables = [stage.apply(part, signals_of, decisions) for part, signals_of in self.parts()]
        drops = [row for tables in part_tables for row in tables["dropped"]]
        verdicts = [row for tables in part_tables for row in tables["verdicts"]]
        return {row_key(row): row["reason"] for row in drops}, drops, verdicts


OFF = {"mismatch": {"limit": None}}


def test_the_sharper_copy_is_kept_and_black_clips_are_nobodys_original() -> None:
    world = World(20)
    for clip_id in ("c0003", "c0017", "c0019"):
        world.signals_of[clip_id] |= {k: v for k, v in world.signals_of["c0005"].items() if k.startswith("thumbnail")}
    world.signals["c0019"] = world.signals["c0019"] | {"black_share": 1.0}
    reasons, drops, verdicts = world.judged(**OFF)
    assert reasons == {"c0003": "duplicate_clip", "c0005": "duplicate_clip", "c0019": "black"}
    assert {row["detail"] for row in drops if row["reason"] == "duplicate_clip"} == {"a copy of c0017"}
    assert {row["clip_id"]: row["copy_of"] for row in verdicts if row.get("copy_of")} == {
        "c0003": "c0017",
        "c0005": "c0017",
    }
    assert world.judged(**OFF, duplicates=None)[0] == {"c0019": "black"}


def test_what_keyframes_did_not_measure_is_not_judged() -> None:
    """Motion and shares of a sparsely decoded clip are unknown: rules on them do not apply, but it may be dropped as a copy."""
    world = World(12)
    unknown = dict.fromkeys(("motion", "black_share", "frozen_share", "pick_sharpness"))
    for clip_id in ("c0001", "c0002"):
        world.signals[clip_id] = world.signals[clip_id] | unknown
    world.signals_of["c0002"] |= {k: v for k, v in world.signals_of["c0001"].items() if k.startswith("thumbnail")}
    reasons, _, _ = world.judged(**OFF, video={"rules": {"still": 1.0}})
    assert reasons == {"c0002": "duplicate_clip"}
    share, _, _ = world.judged(**OFF, duplicates=None, video={"rules": {"still": {"lowest": 0.1}}})
    assert share == {}  # all known ones are alike


def test_wrong_texts_fall_under_the_threshold_of_their_language() -> None:
    world = World(120, topics=40)
    rng = np.random.default_rng(1)
    wrong = sorted(rng.choice(120, 12, replace=False).tolist())
    for i in wrong:
        world.signals_of[f"c{i:04d}.en"]["features"] = pack(unit(rng.normal(size=DIM)))
    for i in range(0, 120, 2):
        world.add_text(i, rng.normal(size=DIM), "zh")  # a language in which nothing fits
    reasons, drops, verdicts = world.judged(duplicates=None, mismatch={"limit": {"min": 0.9}})
    english = sorted(int(name[1:5]) for name in reasons if name.endswith("en"))
    assert len(set(english) & set(wrong)) >= 9 and len(set(english) - set(wrong)) <= 8
    assert all({"sim_percentile", "sim_margin", "sim_z"} <= set(row) for row in verdicts if row.get("text_id"))
    shares, drops, _ = world.judged(duplicates=None, mismatch={"signal": "sim_z", "limit": {"lowest": 0.25}})
    by_lang = [sum(name.endswith(lang) for name in shares) for lang in ("en", "zh")]
    assert by_lang == [30, 15]  # a quarter of each
    assert len({row["threshold"] for row in drops}) == 2
    assert world.judged(duplicates=None, **OFF)[0] == {}


def test_balance_comes_down_to_the_target_and_takes_from_the_full() -> None:
    world = World(200, topics=4, size=30)
    free, _, _ = world.judged(**OFF, duplicates=None)
    assert free == {}
    balance = {"target": 80, "clusters": 12}
    reasons, drops, verdicts = world.judged(**OFF, duplicates=None, balance=balance)
    assert set(reasons.values()) == {"balanced_out"} and len(reasons) == 120
    assert all("keeps" in row["detail"] for row in drops)
    clusters = {row["clip_id"]: row["cluster"] for row in verdicts if row.get("cluster") is not None}
    assert len(clusters) == 200
    kept = np.bincount([c for name, c in clusters.items() if name not in reasons])
    cut = np.bincount([c for name, c in clusters.items() if name in reasons], minlength=len(kept))
    assert kept.max() - kept[cut > 0].min() <= 1
    world.size = 9
    assert world.judged(**OFF, duplicates=None, balance=balance)[0] == reasons  # parts do not matter
    assert world.judged(**OFF, duplicates=None, balance=balance | {"seed": 1})[0] != reasons


def test_balance_by_clusters_that_are_given() -> None:
    """Large, and numbered with gaps; clips without a number are a cluster of their own."""
    world = World(60, topics=4, size=7)
    number = {f"c{i:04d}": [1000, 1000, 7, None][i % 4] for i in range(60)}
    for clip_id, cluster in number.items():
        world.scores[clip_id] = {"coarse": cluster}
    reasons, _, verdicts = world.judged(**OFF, duplicates=None, balance={"target": 36, "by": "coarse"})
    kept = Counter(number[clip_id] for clip_id in number if clip_id not in reasons)
    assert kept == {1000: 12, 7: 12, None: 12}
    clusters = {row["clip_id"]: row["cluster"] for row in verdicts if row.get("cluster") is not None}
    assert clusters == {clip_id: NO_CLUSTER if cluster is None else cluster for clip_id, cluster in number.items()}
    world.scores["c0002"] = {"coarse": 0.5}
    with pytest.raises(M2raapError, match=r"align\.balance\.by: clip c0002: coarse is 0\.5"):
        world.judged(**OFF, duplicates=None, balance={"target": 36, "by": "coarse"})


def test_balance_by_a_column_needs_scores_of_clips_with_it(small_world: Path, tmp_path: Path) -> None:
    view = View(small_world / "train")
    clip_ids = [row["clip_id"] for row in view.corpus.all_rows("clips", ["clip_id"])]
    pq.write_table(pa.table({"clip_id": clip_ids, "coarse": [1] * len(clip_ids)}), tmp_path / "clips.parquet")
    by = AlignStage(build(AlignConfig, {"balance": {"target": 5, "by": "coarse"}}, "test"))
    assert by.prepared(view, (tmp_path / "clips.parquet",)).score_columns == {"coarse": "clip_id"}
    with pytest.raises(UsageError, match="no file of --scores has a column 'coarse' of clips"):
        by.prepared(view)
    plain = AlignStage(build(AlignConfig, {"balance": {"target": 5}}, "test"))
    assert plain.prepared(view, (tmp_path / "clips.parquet",)) == view, "its result does not depend on them"


def test_balance_counts_only_what_is_left_and_leaves_a_small_corpus_alone() -> None:
    world = World(40, size=10)
    for i in range(10):
        world.signals[f"c{i:04d}"] = world.signals[f"c{i:04d}"] | {"black_share": 1.0}
    reasons, _, _ = world.judged(**OFF, duplicates=None, balance={"target": 20, "clusters": 3})
    assert sorted(reasons.values()) == ["balanced_out"] * 10 + ["black"] * 10
    assert set(world.judged(**OFF, duplicates=None, balance={"target": 30, "clusters": 3})[0].values()) == {"black"}


def test_balance_leaves_val_clips_alone() -> None:
    world = World(60, size=10)
    val = {f"c{i:04d}" for i in range(0, 60, 3)}
    world.clips = [clip | {"split": "val" if clip["clip_id"] in val else "train"} for clip in world.clips]
    reasons, _, _ = world.judged(**OFF, duplicates=None, balance={"target": 25, "clusters": 4})
    assert len(reasons) == 15 and not val & set(reasons)
