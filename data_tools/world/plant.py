"""Plants faults and light dirt on the planned training clips of a world."""

from __future__ import annotations

import numpy as np

from data_tools.world import faults
from data_tools.world.faults import CLIP_FAULTS
from data_tools.world.grammar import Scene, SceneSampler, split_pairs
from data_tools.world.plan import Planned, WorldConfig, planned
from data_tools.world.words import LANGS, describe


def plant(plans: list[Planned], cfg: WorldConfig) -> None:
    """Puts the faults and the light dirt on the training clips, in place. A clip that becomes a copy of another one is nobody's
    twin any more."""
    rng = np.random.default_rng([cfg.seed, 15])
    names = faults.assign(len(plans), cfg.faults, rng)
    good = [p for p, name in zip(plans, names, strict=True) if not name]
    copied = rng.permutation(len(good))
    next_copy, by_id = 0, {p.clip_id: p for p in plans}
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
            if plan.twin_id is not None:
                by_id[plan.twin_id].twin_id = plan.twin_id = None
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
