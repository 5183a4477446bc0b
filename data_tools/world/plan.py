"""The plan of a world: its settings, and every clip with its scene, its captions and its faults, before a file is written.

An order clip and the clip with its two events in the other order are twins: they are drawn from one seed, so that they differ
in nothing but the times of the two events, and each names the other as `twin_id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import Field

from data_tools.world.faults import FaultConfig
from data_tools.world.grammar import Scene, SceneSampler, meaning, motions_of, reversed_order, split_pairs
from data_tools.world.words import LANGS, describe
from m2raap.core.config import Config

_MIX = {"motion": 0.36, "order": 0.40, "pan": 0.06, "static": 0.06, "multishot": 0.12}  # of train and val clips


class WorldConfig(Config):
    """The synthetic corpus: its size, its videos, and the faults that are planted in its training clips."""

    seed: int = Field(
        default=0, ge=0, description="Seed of everything that is drawn: scenes, captions, faults, videos."
    )
    train_clips: int = Field(
        default=1400,
        ge=1,
        description="Number of training clips of all kinds, the faulty ones included; `order_clips` and `off_topic_clips` come "
        "on top.",
    )
    order_clips: int = Field(
        default=0,
        ge=0,
        le=200_000,
        multiple_of=2,
        description="Number of further training clips that show two events one after the other, each with its twin in the other "
        "order. They have no faults and no dirt in their captions; the other clips are the same whatever this number is.",
    )
    off_topic_clips: int = Field(
        default=0,
        ge=0,
        le=3000,
        description="Number of further training clips in which one or two shots show something that the captions are not about. "
        "They have no faults and no dirt in their captions; the other clips are the same whatever this number is.",
    )
    val_clips: int = Field(default=160, ge=0, description="Number of validation clips; they have no faults.")
    test_clips: int = Field(default=500, ge=0, le=2000, description="Number of benchmark clips; they have no faults.")
    size_px: int = Field(default=96, ge=32, le=512, multiple_of=2, description="Width and height of the videos in px.")
    fps: int = Field(default=12, ge=4, le=60, description="Frames per second of the videos.")
    sound: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the clips that have sound: of the motion, of the object, or of neither, as sounds.parquet says. "
        "The pictures are the same whatever this is.",
    )
    faults: FaultConfig = Field(default=FaultConfig(), description="Share of `train_clips` that get each fault.")


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
    twin_id: str | None = None  # the clip with the same two events in the other order

    @property
    def video(self) -> str:
        return f"{'test' if self.split == 'test' else 'train'}/{self.clip_id}.mp4"


def plan_scenes(
    cfg: WorldConfig,
    split: str,
    groups: Iterable[Sequence[Scene]],
    rng: np.random.Generator,
    num_clips: int,
    ids: tuple[str, int],
    first: int,
) -> list[Planned]:
    """`num_clips` of the scenes in random order. A group is one scene, or a scene and its reverse, which become twins.

    `ids`: prefix and first number of the clip ids. `first`: number of the first clip in the seeds.
    """
    flat = [(group, scene) for group, scenes in enumerate(groups) for scene in scenes]
    drawn = [flat[i] for i in rng.permutation(len(flat))[:num_clips]]
    plans: list[Planned] = []
    earlier: dict[int, Planned] = {}
    for number, (group, scene) in enumerate(drawn):
        plan = planned(cfg, f"{ids[0]}{ids[1] + number:06d}", split, scene, first + number)
        if group in earlier:
            twin = earlier[group]
            plan.twin_id, twin.twin_id, plan.seed = twin.clip_id, plan.clip_id, twin.seed
        earlier[group] = plan
        plans.append(plan)
    return plans


def plan_motion(cfg: WorldConfig, split: str, num_clips: int, prefix: str, first: int) -> list[Planned]:
    """Clips about one moving object; no two mean the same."""
    rng = np.random.default_rng([cfg.seed, 17])
    scenes = distinct_scenes(SceneSampler(split_pairs(cfg.seed)[split], rng), "motion", num_clips)
    return plan_scenes(cfg, split, [[scene] for scene in scenes], rng, num_clips, (prefix, 0), first)


def plan_order(cfg: WorldConfig, split: str, num_clips: int, prefix: str, first: int) -> list[Planned]:
    """An even number of order clips of the split's pairs, all with their twins; no two pairs of twins mean the same."""
    rng = np.random.default_rng([cfg.seed, 18, first])
    sampler = SceneSampler(split_pairs(cfg.seed)[split], rng)
    return plan_scenes(cfg, split, _twins(sampler, num_clips), rng, num_clips, (prefix, 0), first)


def _twins(sampler: SceneSampler, num_clips: int) -> list[tuple[Scene, Scene]]:
    by_meaning: dict[str, tuple[Scene, Scene]] = {}
    while 2 * len(by_meaning) < num_clips:
        scene = sampler.scene("order")
        other = reversed_order(scene)
        by_meaning.setdefault(min(meaning(scene), meaning(other)), (scene, other))
    return list(by_meaning.values())


def plan_off_topic(cfg: WorldConfig, split: str, num_clips: int, prefix: str, first: int) -> list[Planned]:
    """Clips about one moving object or two events, half and half, with off-topic shots around; no two mean the same."""
    rng = np.random.default_rng([cfg.seed, 20, first])
    sampler = SceneSampler(split_pairs(cfg.seed)[split], rng)
    scenes = distinct_scenes(sampler, "motion", (num_clips + 1) // 2) + distinct_scenes(
        sampler, "order", num_clips // 2
    )
    groups = [[sampler.with_off_topic(scene)] for scene in scenes]
    return plan_scenes(cfg, split, groups, rng, num_clips, (prefix, 0), first)


def planned(cfg: WorldConfig, clip_id: str, split: str, scene: Scene, number: int) -> Planned:
    """A clip of the scene; `number` seeds its captions and its drawing."""
    rng = np.random.default_rng([cfg.seed, 11, number])
    texts = {lang: describe(scene, lang, rng) for lang in LANGS}
    return Planned(clip_id, split, scene, [cfg.seed, 12, number], texts, dict(texts))


def plan_mixed(cfg: WorldConfig, split: str, num_clips: int, first: int) -> list[Planned]:
    """Clips of every kind; order clips come with their twins."""
    rng = np.random.default_rng([cfg.seed, 13, first])
    sampler = SceneSampler(split_pairs(cfg.seed)[split], rng)
    groups: list[list[Scene]] = []
    num_scenes = 0
    for kind, share in _MIX.items():
        num_left = round(share * num_clips)
        while num_left > 0:
            scene = sampler.scene(kind)
            groups.append([scene, reversed_order(scene)] if kind == "order" and num_left > 1 else [scene])
            num_left -= len(groups[-1])
            num_scenes += len(groups[-1])
    while num_scenes < num_clips:
        groups.append([sampler.scene("motion")])
        num_scenes += 1
    return plan_scenes(cfg, split, groups, rng, num_clips, ("t", first), first)


def plan_test(cfg: WorldConfig) -> list[Planned]:
    """Motion and order clips, half and half, no two with the same meaning; order clips come with their twins."""
    rng = np.random.default_rng([cfg.seed, 14])
    sampler = SceneSampler(split_pairs(cfg.seed)["test"], rng)
    num_motion = min(cfg.test_clips - cfg.test_clips // 4 * 2, num_meanings(cfg.seed))
    groups = [*([scene] for scene in distinct_scenes(sampler, "motion", num_motion))]
    num_order = cfg.test_clips - num_motion
    groups += [list(twins)[: num_order - 2 * i] for i, twins in enumerate(_twins(sampler, num_order))]
    first = cfg.train_clips + cfg.val_clips
    return plan_scenes(cfg, "test", groups, rng, cfg.test_clips, ("e", 0), first)


def distinct_scenes(sampler: SceneSampler, kind: str, num: int) -> list[Scene]:
    """`num` scenes of the kind, no two with the same meaning; `num_meanings` is the most of kind motion."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < num:
        scene = sampler.scene(kind)
        scenes.setdefault(meaning(scene), scene)
    return list(scenes.values())


def num_meanings(seed: int) -> int:
    """Number of different meanings of one moving object among the test pairs: its motion, and its number from one to three."""
    return sum(3 * len(motions_of(shape)) for _, shape in split_pairs(seed)["test"])
