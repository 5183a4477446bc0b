"""What is heard in a clip: the motion, or the object, or neither. The truth about it lies in sounds.parquet.

motion: a plain tone whose pitch, loudness or beat follows what the object does while it does it. object: the colour is a pitch,
the shape a timbre, for as long as the object is on its way. neither: the sound of another, drawn scene. Two events are heard one
after the other. N samples, T frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_tools.world.grammar import COLOURS, SHAPES, Event, SceneSampler, split_pairs
from data_tools.world.plan import Planned, WorldConfig
from data_tools.world.render import frame_plans

RATE_HZ = 16_000
FILE = "sounds.parquet"
Kind = Literal["", "motion", "object", "neither"]
_ODDS = {"motion": 0.45, "object": 0.35, "neither": 0.2}
_FADE_S = 0.02


@dataclass(frozen=True)
class Sounding:
    """An event that is heard from `start` to `end`, shares of the clip."""

    event: Event
    start: float
    end: float


def kind_of(plan: Planned, cfg: WorldConfig) -> Kind:
    """What is heard in the clip; '' for a silent one. It depends on the seed and the clip's number alone."""
    rng = _rng(plan, cfg, 0)
    if rng.random() >= cfg.sound:
        return ""
    kinds: tuple[Kind, ...] = ("motion", "object", "neither")
    return kinds[int(rng.choice(3, p=[_ODDS[kind] for kind in kinds]))]


def sound_of(plan: Planned, cfg: WorldConfig, num_frames: int) -> np.ndarray | None:
    """The clip's sound, float32 (N,) from -1 to 1 at RATE_HZ; None for a silent clip."""
    kind = kind_of(plan, cfg)
    if not kind:
        return None
    rng = _rng(plan, cfg, 1)
    events = _sounding(plan, cfg)
    if kind == "neither":
        other = SceneSampler(split_pairs(cfg.seed)["train"], rng).scene("motion").main.events[0]
        events = [Sounding(other, event.start, event.end) for event in events[:1]]
    count = int(num_frames / cfg.fps * RATE_HZ)
    voice = _of_object if kind == "object" or (kind == "neither" and rng.random() < 0.4) else _of_motion
    samples_N = np.zeros(count)
    for event in events:
        first, last = int(event.start * count), max(int(event.end * count), int(event.start * count) + RATE_HZ // 10)
        part_N = samples_N[first:last]
        part_N += voice(event.event, len(part_N), rng) * _faded(len(part_N))
    samples_N += rng.normal(0, 0.004, count)
    return np.clip(samples_N * float(rng.uniform(0.5, 0.9)), -1, 1).astype(np.float32)


def _rng(plan: Planned, cfg: WorldConfig, use: int) -> np.random.Generator:
    return np.random.default_rng([cfg.seed, 22, int(plan.clip_id[1:]), ord(plan.clip_id[0]), use])


def _sounding(plan: Planned, cfg: WorldConfig) -> list[Sounding]:
    """The events of the main shot with their times; a shot in which nothing happens is heard throughout."""
    frames = list(frame_plans(plan.scene, plan.seed, cfg.size_px, cfg.fps))
    main = [number for number, frame in enumerate(frames) if frame.shot == len(plan.scene.before)]
    begin, length = main[0] / len(frames), len(main) / len(frames)
    events = []
    for actor in frames[main[0]].layout.actors:
        start, end = (actor.start, actor.end) if actor.event.motion != "still" else (0.0, 1.0)
        if actor.event.motion in ("appear", "vanish"):  # heard for as long as the object is there
            start, end = (start, 1.0) if actor.event.motion == "appear" else (0.0, end)
        events.append(Sounding(actor.event, begin + length * start, begin + length * end))
    return events


def _faded(count: int) -> np.ndarray:
    ramp = min(int(_FADE_S * RATE_HZ), count // 2)
    gain_N = np.ones(count)
    gain_N[:ramp] = np.linspace(0, 1, ramp, endpoint=False)
    gain_N[count - ramp :] = np.linspace(1, 0, ramp, endpoint=False)
    return gain_N


def _of_motion(event: Event, count: int, rng: np.random.Generator) -> np.ndarray:
    """A tone (N,) that rises or falls, swells or fades, beats faster or slower, or wavers, as the object moves."""
    t = np.linspace(0, 1, count, endpoint=False)
    seconds = count / RATE_HZ
    pitch_hz, gain, beat_hz = np.full(count, rng.uniform(350, 450)), np.full(count, 0.4), np.zeros(count)
    motion = event.motion
    if motion in ("up", "down"):
        pitch_hz *= 2.0 ** ((t - 0.5) * (2 if motion == "up" else -2))
    elif motion in ("grow", "shrink"):
        gain = 0.05 + 0.6 * (t if motion == "grow" else 1 - t) ** 2
    elif motion in ("left", "right"):
        beat_hz = 3 + 15 * (t if motion == "right" else 1 - t)
    elif motion == "rotate":
        pitch_hz *= 2.0 ** (0.15 * np.sin(2 * np.pi * 7 * t * seconds))
    if motion in ("appear", "vanish"):
        tone = rng.normal(0, 0.3, count)
        return tone * np.exp(-4 * (t if motion == "appear" else 1 - t))
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    tone = np.sin(phase) + 0.3 * np.sin(2 * phase)
    if beat_hz.any():
        tone = tone * (np.sin(2 * np.pi * np.cumsum(beat_hz) / RATE_HZ) > 0)
    return gain * tone


def _of_object(event: Event, count: int, rng: np.random.Generator) -> np.ndarray:
    """A steady tone (N,): the colour is its pitch, the shape the loudness of its overtones."""
    pitch_hz = 180 * 2 ** (COLOURS.index(event.obj.colour) / 5) * float(rng.uniform(0.99, 1.01))
    overtones = 0.6 * np.random.default_rng([20261130, SHAPES.index(event.obj.shape)]).random(10) ** 2
    phase = 2 * np.pi * pitch_hz * np.arange(count) / RATE_HZ
    partials = [
        level * np.sin((number + 1) * phase)
        for number, level in enumerate(overtones)
        if (number + 1) * pitch_hz < RATE_HZ / 2
    ]
    return np.sum(partials, 0) * 0.5


def write_sounds(plans: Iterable[Planned], cfg: WorldConfig, out: Path) -> None:
    """Writes out/sounds.parquet: clip_id, split and what is heard ('' for nothing). The same plans give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = [{"clip_id": p.clip_id, "split": p.split, "sound": kind_of(p, cfg)} for p in plans]
    names = ("clip_id", "split", "sound")
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([(n, pa.string()) for n in names])), out / FILE)
