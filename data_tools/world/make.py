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

from data_tools.world import faults
from data_tools.world.faults import CLIP_FAULTS
from data_tools.world.grammar import meaning
from data_tools.world.plan import Planned, WorldConfig, plan_mixed, plan_off_topic, plan_order, plan_test
from data_tools.world.plant import plant
from data_tools.world.words import LANGS

# Numbers of the first of `order_clips` and of `off_topic_clips` in the seeds, above those of all other clips.
_FIRST_ORDER_CLIP, _FIRST_OFF_TOPIC_CLIP = 3_000_000, 4_000_000


@dataclass
class World:
    """Rows for the corpus writer. `train_*` holds the train and the val rows."""

    train_clips: list[dict[str, Any]] = field(default_factory=list)
    train_texts: list[dict[str, Any]] = field(default_factory=list)
    test_clips: list[dict[str, Any]] = field(default_factory=list)
    test_texts: list[dict[str, Any]] = field(default_factory=list)


def plan_world(cfg: WorldConfig) -> list[Planned]:
    """All clips of the world, without a file written."""
    plans = plan_mixed(cfg, "train", cfg.train_clips, 0)
    plant(plans, cfg)
    plans += plan_order(cfg, "train", cfg.order_clips, "a", _FIRST_ORDER_CLIP)
    plans += plan_off_topic(cfg, "train", cfg.off_topic_clips, "b", _FIRST_OFF_TOPIC_CLIP)
    return plans + plan_mixed(cfg, "val", cfg.val_clips, cfg.train_clips) + plan_test(cfg)


def write_clip(plan: Planned, cfg: WorldConfig, videos: Path) -> int:
    """Draws and encodes one file and plants its fault, if it has one. Returns its number of frames before the fault."""
    from data_tools.world.encode import encode
    from data_tools.world.render import render
    from data_tools.world.sounds import RATE_HZ, sound_of

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
    samples_N = sound_of(plan, cfg, len(frames)) if cfg.sound else None
    encode(frames, cfg.fps, path, crf, index_first, None if samples_N is None else (samples_N, RATE_HZ))
    if plan.fault == "truncated":
        path.write_bytes(faults.cut_short(path.read_bytes(), rng))
    return len(frames)


def make_world(
    cfg: WorldConfig, out: Path, workers: int, progress: Callable[[int, int], None] = lambda done, total: None
) -> World:
    """Writes out/videos/{train,test}/*.mp4, out/truth.parquet (faulty ids only), out/wrong_texts.parquet, out/scenes.parquet and
    out/shots.parquet, and with sound out/sounds.parquet.

    `progress(done, total)` counts clips. Raises M2raapError if a file cannot be encoded.
    """
    from data_tools.world.shots import write_shots
    from data_tools.world.sounds import write_sounds

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
    _write_wrong_texts(plans, out)
    write_shots(plans, cfg, out)
    if cfg.sound:
        write_sounds(plans, cfg, out)
    world = World()
    for plan in plans:
        test = plan.split == "test"
        (world.test_clips if test else world.train_clips).append(clip_row(plan))
        (world.test_texts if test else world.train_texts).extend(text_rows(plan.clip_id, plan.texts))
    return world


def clip_row(plan: Planned) -> dict[str, Any]:
    """The clip's row of `clips`."""
    return plain_clip_row(plan.clip_id, plan.video, plan.split, plan.scene.kind) | {"twin_id": plan.twin_id}


def plain_clip_row(clip_id: str, video: str, split: str, category: str) -> dict[str, Any]:
    """The row of `clips` of any drawn clip."""
    return {
        "clip_id": clip_id, "video": video, "start_s": None, "end_s": None, "split": split,
        "source": "world", "licence": "CC0-1.0", "category": category,
    }  # fmt: skip


def text_rows(clip_id: str, texts: dict[str, str]) -> list[dict[str, Any]]:
    """A clip's rows of `texts`, one a language."""
    return [
        {
            "text_id": f"{clip_id}.{lang}0", "clip_id": clip_id, "lang": lang, "text": texts[lang],
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


def _write_wrong_texts(plans: list[Planned], out: Path) -> None:
    """Writes out/wrong_texts.parquet: text_id and whether the text is wrong (1 or 0), so that --scores can give it to a recipe
    that is to know."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(plan, lang) for plan in plans if plan.split != "test" for lang in LANGS]
    columns = {
        "text_id": [f"{plan.clip_id}.{lang}0" for plan, lang in texts],
        "wrong": [float(lang in plan.faulty_langs) for plan, lang in texts],
    }
    pq.write_table(pa.table(columns), out / "wrong_texts.parquet")


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
            "num_frames": num_frames[p.clip_id], "duplicate_of": p.duplicate_of, "twin_id": p.twin_id,
            "caption_en": p.true_texts["en"], "caption_zh": p.true_texts["zh"],
        }
        for p in plans
    ]  # fmt: skip
    strings = pa.list_(pa.string())
    kinds = {"motions": strings, "pairs": strings, "counts": pa.list_(pa.int32()), "num_frames": pa.int32()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "scenes.parquet")
