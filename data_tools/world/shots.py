"""What each moment of a clip shows: captions of the looks of what is drawn, with the times in which they are true.

A moment is a run of frames of one shot that show the same objects from left to right, so that it ends where the shot is cut,
an object appears or vanishes, or two objects pass each other. An object counts as seen while it is drawn with half of its
opacity or more. That one object may cover a part of another is not considered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.world.grammar import Event, Shot
from data_tools.world.plan import Planned, WorldConfig
from data_tools.world.render import FramePlan, frame_plans
from data_tools.world.stills import caption
from data_tools.world.words import EN_BACKGROUND, LANGS, ZH_BACKGROUND

FILE = "shots.parquet"
_BLACK = {"en": "a black picture", "zh": "黑色的画面"}


def seen(frame: FramePlan) -> tuple[Event, ...]:
    """The events whose objects can be seen in the frame, from left to right."""
    opacity = {"appear": lambda progress: progress, "vanish": lambda progress: 1 - progress}
    actors = [
        actor
        for actor in frame.layout.actors
        if opacity.get(actor.event.motion, lambda _: 1.0)(actor.progress(frame.t)) >= 0.5
    ]
    return tuple(actor.event for actor in sorted(actors, key=lambda actor: float(actor.centre_at(frame.t)[0])))


def shot_rows(plan: Planned, cfg: WorldConfig) -> list[dict[str, Any]]:
    """One row a moment, in order of time: clip_id, split, shot (its number in the clip), on_topic (whether the clip's texts are
    about this shot), start_s, end_s (s of the first frame and of the one after the last), caption_LANG.

    Rows are about what is drawn, whatever the texts say. A file that is no video has no rows; of one that is cut off all
    moments are listed; in a copy and its origin they are the same.
    """
    if plan.fault == "not_media":
        return []
    frames = enumerate(frame_plans(plan.scene, plan.seed, cfg.size_px, cfg.fps, frozen=plan.fault == "frozen"))
    rows = []
    for (shot, events), moment in groupby(frames, key=lambda item: (item[1].shot, seen(item[1]))):
        first, *later = [number for number, _ in moment]
        rng = np.random.default_rng([*plan.seed, 19, first])
        captions = _BLACK if plan.fault == "black" else _captions(replace(plan.scene.shots[shot], events=events), rng)
        rows.append(
            {
                "clip_id": plan.clip_id, "split": plan.split, "shot": shot, "on_topic": shot == len(plan.scene.before),
                "start_s": first / cfg.fps, "end_s": ([first, *later][-1] + 1) / cfg.fps,
                **{f"caption_{lang}": captions[lang] for lang in LANGS},
            }
        )  # fmt: skip
    return rows


def _captions(shot: Shot, rng: np.random.Generator) -> dict[str, str]:
    """lang -> caption; of the background alone where nothing is in front of it."""
    if shot.events:
        return {lang: caption(shot, lang, rng)[0] for lang in LANGS}
    return {"en": f"a {EN_BACKGROUND[shot.background]} background", "zh": f"{ZH_BACKGROUND[shot.background]}背景"}


def write_shots(plans: Iterable[Planned], cfg: WorldConfig, out: Path) -> None:
    """Writes out/shots.parquet, the rows of every clip. The same plans give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"shot": pa.int32(), "on_topic": pa.bool_(), "start_s": pa.float64(), "end_s": pa.float64()}
    names = ("clip_id", "split", *types, *(f"caption_{lang}" for lang in LANGS))
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    rows = [row for plan in plans for row in shot_rows(plan, cfg)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / FILE)
