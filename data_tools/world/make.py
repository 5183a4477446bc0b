"""The seeded world: plans scenes, captions and faults, writes the videos and the truth about them.

The whole plan is made from the seed before any work is shared out; a worker only draws and encodes what the plan says. So
the bytes do not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from data_tools.world import faults
from data_tools.world.faults import CLIP_FAULTS, FaultConfig
from data_tools.world.grammar import Scene, SceneSampler, meaning, reversed_order, split_pairs
from data_tools.world.words import LANGS, describe
from m2raap.core.config import Config

_MIX = {"motion": 0.40, "order": 0.30, "pan": 0.08, "static": 0.08, "multishot": 0.14}  # of train and val clips


class WorldConfig(Config):
    """The synthetic corpus: its size, its videos, and the faults that are planted in its training clips."""

    seed: int = Field(
        default=0, ge=0, description="Seed of everything that is drawn: scenes, captions, faults, videos."
    )
    train_clips: int = Field(default=1400, ge=1, description="Number of training clips, the faulty ones included.")
    val_clips: int = Field(default=160, ge=0, description="Number of validation clips; they have no faults.")
    test_clips: int = Field(default=500, ge=0, le=2000, description="Number of benchmark clips; they have no faults.")
    size_px: int = Field(default=96, ge=32, le=512, multiple_of=2, description="Width and height of the videos in px.")
    fps: int = Field(default=12, ge=4, le=60, description="Frames per second of the videos.")
    faults: FaultConfig = Field(default=FaultConfig(), description="Share of the training clips that get each fault.")


@dataclass
class World:
    """Rows for the corpus writer. `train_*` holds the train and the val rows."""

    train_clips: list[dict[str, Any]] = field(default_factory=list)
    train_texts: list[dict[str, Any]] = field(default_factory=list)
    test_clips: list[dict[str, Any]] = field(default_factory=list)
    test_texts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Planned:
    """One clip to be: what it shows, what its texts say and what is wrong with it."""

    clip_id: str
    split: str
    scene: Scene
    seed: list[int]
    true_texts: dict[str, str]
    texts: dict[str, str]
    fault: str = ""
    faulty_langs: dict[str, bool] = field(default_factory=dict)  # lang -> repairable
    duplicate_of: str | None = None

    @property
    def video(self) -> str:
        return f"{'test' if self.split == 'test' else 'train'}/{self.clip_id}.mp4"


def plan_world(cfg: WorldConfig) -> list[Planned]:
    """All clips of the world, without a file written."""
    pairs = split_pairs(cfg.seed)
    plans = _plan_mixed(cfg, "train", pairs["train"], cfg.train_clips, 0)
    _plant(plans, cfg)
    plans += _plan_mixed(cfg, "val", pairs["val"], cfg.val_clips, cfg.train_clips)
    return plans + _plan_test(cfg, pairs["test"])


def planned(cfg: WorldConfig, clip_id: str, split: str, scene: Scene, number: int) -> Planned:
    """A clip of the scene; `number` seeds its captions and its drawing."""
    rng = np.random.default_rng([cfg.seed, 11, number])
    texts = {lang: describe(scene, lang, rng) for lang in LANGS}
    return Planned(clip_id, split, scene, [cfg.seed, 12, number], texts, dict(texts))


def _plan_mixed(cfg: WorldConfig, split: str, pairs: tuple, num_clips: int, first: int) -> list[Planned]:
    """Clips of every kind; the reversed clip of each order clip is among them."""
    rng = np.random.default_rng([cfg.seed, 13, first])
    sampler = SceneSampler(pairs, rng)
    scenes: list[Scene] = []
    for kind, share in _MIX.items():
        num_left = round(share * num_clips)
        while num_left > 0:
            scene = sampler.scene(kind)
            scenes.append(scene)
            num_left -= 1
            if kind == "order" and num_left > 0:
                scenes.append(reversed_order(scene))
                num_left -= 1
    while len(scenes) < num_clips:
        scenes.append(sampler.scene("motion"))
    scenes = [scenes[i] for i in rng.permutation(len(scenes))[:num_clips]]
    return [planned(cfg, f"t{first + i:06d}", split, scene, first + i) for i, scene in enumerate(scenes)]


def _plan_test(cfg: WorldConfig, pairs: tuple) -> list[Planned]:
    """Motion and order clips, half and half, no two with the same meaning; order clips come with their reverse."""
    rng = np.random.default_rng([cfg.seed, 14])
    sampler = SceneSampler(pairs, rng)
    by_meaning: dict[str, Scene] = {}
    num_order = cfg.test_clips // 4 * 2
    while len(by_meaning) < num_order:
        scene = sampler.scene("order")
        if meaning(scene) not in by_meaning:
            other = reversed_order(scene)
            by_meaning |= {meaning(scene): scene, meaning(other): other}
    tries = 0
    while len(by_meaning) < cfg.test_clips:  # one object has some 500 meanings; after that, more order clips
        tries += 1
        scene = sampler.scene("motion" if tries < 5 * cfg.test_clips else "order")
        by_meaning.setdefault(meaning(scene), scene)
    scenes = list(by_meaning.values())
    first = cfg.train_clips + cfg.val_clips
    order = rng.permutation(len(scenes))
    return [planned(cfg, f"e{i:06d}", "test", scenes[j], first + i) for i, j in enumerate(order)]


def _plant(plans: list[Planned], cfg: WorldConfig) -> None:
    """Puts the faults and the light dirt on the training clips, in place."""
    rng = np.random.default_rng([cfg.seed, 15])
    names = faults.assign(len(plans), cfg.faults, rng)
    good = [p for p, name in zip(plans, names, strict=True) if not name]
    copied = rng.permutation(len(good))
    next_copy = 0
    for plan, name in zip(plans, names, strict=True):
        plan.fault = name
        if name in ("mismatch_motion", "frozen") and plan.scene.kind not in ("motion", "order"):
            _give_motion(plan, cfg, rng)  # these two are faults only if the caption mentions a motion
        if name == "duplicate_clip":
            if next_copy == len(good):
                plan.fault = ""
                continue
            origin = good[int(copied[next_copy])]
            next_copy += 1
            plan.duplicate_of, plan.scene, plan.seed = origin.clip_id, origin.scene, origin.seed
            plan.true_texts, plan.texts = dict(origin.true_texts), dict(origin.texts)
        elif name and name not in CLIP_FAULTS:
            other = _other_scene(plan, plans, rng)
            for lang in faults.languages_hit(rng):
                plan.texts[lang], plan.faulty_langs[lang] = _faulty_text(plan, other, lang, rng)
    for plan in plans:
        for lang in LANGS:
            dirty = lang not in plan.faulty_langs and rng.random() < cfg.faults.light_dirt
            if dirty and plan.duplicate_of is None:
                plan.texts[lang] = faults.light_dirt(plan.texts[lang], lang, rng)
    by_id = {p.clip_id: p for p in plans}
    for plan in plans:  # a copied clip has the captions of its origin
        if plan.duplicate_of is not None:
            plan.texts = dict(by_id[plan.duplicate_of].texts)


def _give_motion(plan: Planned, cfg: WorldConfig, rng: np.random.Generator) -> None:
    """Another scene for the clip: one object that moves."""
    scene = SceneSampler(split_pairs(cfg.seed)["train"], rng).scene("motion")
    other = planned(cfg, plan.clip_id, plan.split, scene, plan.seed[2])
    plan.scene, plan.true_texts, plan.texts = other.scene, other.true_texts, other.texts


def _other_scene(plan: Planned, plans: list[Planned], rng: np.random.Generator) -> Scene:
    """The scene that a mismatched caption describes."""
    if plan.fault == "mismatch_motion":
        return faults.other_motion(plan.scene, rng)
    for _ in range(1000):
        other = plans[int(rng.integers(len(plans)))].scene
        if faults.is_other_looks(other, plan.scene):
            return other
    sampler = SceneSampler(tuple(p for p in split_pairs(plan.seed[0])["train"] if p not in plan.scene.pairs), rng)
    return sampler.scene("motion")


def _faulty_text(plan: Planned, other: Scene, lang: str, rng: np.random.Generator) -> tuple[str, bool]:
    """The faulty text, and whether the caption can be recovered from it."""
    obj = plan.scene.main.events[0].obj
    colour, shape = (obj.colour, obj.shape) if lang == "en" else (faults.zh_colour(obj), faults.zh_shape(obj))
    if plan.fault in ("mismatch", "mismatch_motion"):
        return describe(other, lang, rng), False
    if plan.fault == "boilerplate":
        return faults.boilerplate(lang, rng), False
    if plan.fault == "duplicate_text":
        return faults.generic(lang, rng), False
    if plan.fault == "wrong_language":
        return faults.foreign(lang, rng), False
    if plan.fault == "mojibake":
        return faults.mojibake(plan.texts[lang], lang, rng)
    if plan.fault == "text_too_short":
        return faults.too_short(colour, shape, rng), False
    assert plan.fault == "machine_tags", plan.fault
    return faults.machine_tags(lang, colour, shape, rng), False


def write_clip(plan: Planned, cfg: WorldConfig, videos: Path) -> int:
    """Draws and encodes one file and plants its fault, if it has one. Returns its number of frames before the fault."""
    from data_tools.world.encode import encode
    from data_tools.world.render import render

    path = videos / plan.video
    rng = np.random.default_rng([cfg.seed, 16, int(plan.clip_id[1:]), ord(plan.clip_id[0])])
    if plan.fault == "not_media":
        path.write_bytes(faults.not_media(rng))
        return 0
    frames = render(
        plan.scene, plan.seed, cfg.size_px, cfg.fps, frozen=plan.fault == "frozen", black=plan.fault == "black"
    )
    crf, index_first = 16, bool(rng.random() < 0.5)
    if plan.fault == "duplicate_clip":
        frames, crf = faults.reworked(frames, rng), int(rng.integers(20, 27))
    encode(frames, cfg.fps, path, crf, index_first)
    if plan.fault == "truncated":
        path.write_bytes(faults.cut_short(path.read_bytes(), rng))
    return len(frames)


def make_world(
    cfg: WorldConfig, out: Path, workers: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> World:
    """Writes out/videos/{train,test}/*.mp4, out/truth.parquet (faulty ids only), out/scenes.parquet and out/shots.parquet.

    `progress(done, total)` counts clips. Raises M2raapError if a file cannot be encoded.
    """
    from data_tools.world.shots import write_shots

    plans = plan_world(cfg)
    for part in ("train", "test"):
        (out / "videos" / part).mkdir(parents=True, exist_ok=True)
    num_frames: dict[str, int] = {}
    # Threads are enough: most of the time is spent in ffmpeg and OpenCV, outside of Python's lock.
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        running = {pool.submit(write_clip, plan, cfg, out / "videos"): plan for plan in plans}
        try:
            for done, future in enumerate(as_completed(running), start=1):
                num_frames[running[future].clip_id] = future.result()
                progress(done, len(plans))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    _write_truth(plans, num_frames, out)
    write_shots(plans, cfg, out)
    world = World()
    for plan in plans:
        test = plan.split == "test"
        (world.test_clips if test else world.train_clips).append(clip_row(plan))
        (world.test_texts if test else world.train_texts).extend(text_rows(plan))
    return world


def clip_row(plan: Planned) -> dict[str, Any]:
    """The clip's row of `clips`."""
    return {
        "clip_id": plan.clip_id, "video": plan.video, "start_s": None, "end_s": None, "split": plan.split,
        "source": "world", "licence": "CC0-1.0", "category": plan.scene.kind,
    }  # fmt: skip


def text_rows(plan: Planned) -> list[dict[str, Any]]:
    """The clip's rows of `texts`, one a language."""
    return [
        {
            "text_id": f"{plan.clip_id}.{lang}0", "clip_id": plan.clip_id, "lang": lang, "text": plan.texts[lang],
            "origin": "raw", "parent_text_id": None, "frame_index": None, "producer": "world", "active": True,
        }
        for lang in LANGS
    ]  # fmt: skip


def truth_rows(plans: list[Planned]) -> list[dict[str, Any]]:
    """One row per faulty clip or text: id, level, fault, repairable. Whatever has no row is good."""
    rows: list[dict[str, Any]] = []
    for plan in plans:
        if plan.fault in CLIP_FAULTS:
            rows.append({"id": plan.clip_id, "level": "clip", "fault": plan.fault, "repairable": False})
        for lang, repairable in sorted(plan.faulty_langs.items()):
            row = {"id": f"{plan.clip_id}.{lang}0", "level": "text", "fault": plan.fault, "repairable": repairable}
            rows.append(row)
    return rows


def _write_truth(plans: list[Planned], num_frames: dict[str, int], out: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("id", pa.string()), ("level", pa.string()), ("fault", pa.string()), ("repairable", pa.bool_())]
    )
    pq.write_table(pa.Table.from_pylist(truth_rows(plans), schema=schema), out / "truth.parquet")
    rows = [
        {
            "clip_id": p.clip_id, "split": p.split, "kind": p.scene.kind,
            "motions": [e.motion for e in p.scene.main.events],
            "pairs": [" ".join(e.obj.pair) for e in p.scene.main.events],
            "counts": [e.obj.count for e in p.scene.main.events],
            "background": p.scene.main.background, "camera": p.scene.main.camera, "meaning": meaning(p.scene),
            "num_frames": num_frames[p.clip_id], "duplicate_of": p.duplicate_of,
            "caption_en": p.true_texts["en"], "caption_zh": p.true_texts["zh"],
        }
        for p in plans
    ]  # fmt: skip
    strings = pa.list_(pa.string())
    kinds = {"motions": strings, "pairs": strings, "counts": pa.list_(pa.int32()), "num_frames": pa.int32()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "scenes.parquet")
