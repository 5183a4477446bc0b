"""Scene and seed -> frames. Numbers in px are for a 96 px square; other sizes are scaled.

The layout of two events does not depend on their order: a clip and its twin, in which the events come in the other order, are
drawn from one seed and differ in nothing else.

Everything that moves is drawn symmetrically in time: played backwards, a clip of 'left' is as likely as a clip of
'right' (the same holds for grow/shrink and appear/vanish). So neither a single frame nor a mean over frames shows the
direction.

Shapes: T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from data_tools.world.backgrounds import MARGIN_PX, SIZE_PX, paint
from data_tools.world.grammar import Event, Scene, Shot
from data_tools.world.palette import COLOUR_RGB
from data_tools.world.shapes import draw_shape

_DIAMETER_PX = {(1, "small"): (26, 32), (1, "large"): (38, 48), (2, "small"): (22, 24), (2, "large"): (25, 28)}
_CROWDED_PX = {"small": (24, 28), "large": (31, 36)}  # one of two objects
_FADE = 0.04  # share of the clip that an object takes to appear or vanish


@dataclass
class Actor:
    """One event with everything that the seed decides. Positions are px from the middle of the picture."""

    event: Event
    rgb: np.ndarray
    diameter_px: float
    offsets_px: np.ndarray  # (count, 2), from the middle of the group to each of its members
    extent_px: np.ndarray  # (2,), half width and height of the group at its largest
    travel_px: np.ndarray  # (2,), way from start to end
    ratio: float  # diameter at the end over diameter at the start
    turn_deg: float
    angles_deg: np.ndarray  # (count,)
    centre_px: np.ndarray = field(default_factory=lambda: np.zeros(2))
    start: float = 0.0  # the event runs from `start` to `end`, shares of the clip
    end: float = 1.0

    def swept_box(self) -> np.ndarray:
        """(x0, y0, x1, y1) px that the group covers during the clip."""
        half = self.extent_px + np.abs(self.travel_px) / 2
        return np.concatenate([self.centre_px - half, self.centre_px + half])

    def progress(self, t: float) -> float:
        """Share of the event, 0..1, that is over at `t` (0..1, share of the shot)."""
        return float(np.clip((t - self.start) / (self.end - self.start), 0, 1))

    def way(self, t: float) -> float:
        """Where it is at `t` between the start (-0.5) and the end (0.5) of what it does: slow at first and at last."""
        progress = self.progress(t)
        return progress * progress * (3 - 2 * progress) * 0.5 + progress * 0.5 - 0.5

    def centre_at(self, t: float) -> np.ndarray:
        """(2,) px from the middle of the picture to the middle of the group at `t`, without the camera."""
        return self.centre_px + self.travel_px * self.way(t)


@dataclass
class Layout:
    """A shot with everything that the seed decides."""

    shot: Shot
    actors: list[Actor]
    canvas: np.ndarray  # float32 (H + 2 margin, W + 2 margin, 3)
    flicker: np.ndarray  # (3,): share, cycles, phase
    sway: np.ndarray  # (2, 3): px, cycles, phase for x and y
    pan_px: float
    size_px: int


def _actor(event: Event, crowded: bool, rng: np.random.Generator) -> Actor:
    obj, motion = event.obj, event.motion
    low, high = _DIAMETER_PX[(min(obj.count, 2), obj.size)]
    if crowded:
        low, high = _CROWDED_PX[obj.size]
    scaling = motion in ("grow", "shrink")
    ratio = 1.0
    if scaling:  # the size in the middle of the event is the same for small and large objects
        low, high = (20, 22) if obj.count > 1 else (24, 26) if crowded else (29, 33)
        ratio = float(rng.uniform(1.9, 2.5)) if obj.count == 1 else float(rng.uniform(1.7, 1.9))
    diameter = float(rng.uniform(low, high))
    largest = diameter * np.sqrt(ratio)
    if motion == "shrink":
        ratio = 1 / ratio
    gap = largest * float(rng.uniform(1.2, 1.28))
    tilt = float(rng.uniform(0, 2 * np.pi))
    if obj.count == 1:
        offsets = np.zeros((1, 2))
    else:  # two on a line, three on a triangle, at any angle
        radius = gap / 2 if obj.count == 2 else gap / np.sqrt(3)
        angles = tilt + np.arange(obj.count) * 2 * np.pi / obj.count
        offsets = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    extent = np.abs(offsets).max(axis=0) + largest / 2
    heading = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
    distance = float(rng.uniform(34, 40) if crowded else rng.uniform(40, 50))
    room = 2 * (SIZE_PX / 2 - 1 - extent)  # the path has to fit into the picture
    travel = np.asarray(heading, dtype=float) * np.minimum(distance, room)
    turn = float(rng.uniform(150, 300)) * (1 if rng.random() < 0.5 else -1) if motion == "rotate" else 0.0
    angles_deg = rng.uniform(-9, 9, obj.count) + (float(rng.uniform(-180, 180)) if motion == "rotate" else 0.0)
    rgb = np.clip(np.asarray(COLOUR_RGB[obj.colour]) + rng.uniform(-12, 12, 3), 0, 255)
    return Actor(event, rgb, diameter, offsets, extent, travel, ratio, turn, angles_deg)


def _place(actors: list[Actor], slack_px: np.ndarray, rng: np.random.Generator) -> None:
    """Gives every actor a place inside the picture: of 60 tries the one in which their paths overlap least."""
    best, least = [a.centre_px for a in actors], np.inf
    for _ in range(60 if len(actors) > 1 else 1):
        for actor in actors:
            half = actor.extent_px + np.abs(actor.travel_px) / 2
            reach = np.maximum(SIZE_PX / 2 - 1 - half - slack_px, 0)
            actor.centre_px = rng.uniform(-reach, reach)
        boxes = [a.swept_box() for a in actors]
        overlap = 0.0
        for i, a_box in enumerate(boxes):
            for b_box in boxes[i + 1 :]:
                sides = np.minimum(a_box[2:], b_box[2:]) - np.maximum(a_box[:2], b_box[:2])
                overlap += float(np.prod(np.maximum(sides, 0)))
        if overlap < least:
            best, least = [a.centre_px for a in actors], overlap
        if overlap == 0:
            break
    for actor, centre in zip(actors, best, strict=True):
        actor.centre_px = centre


def _time(actors: list[Actor], events: tuple[Event, ...], rng: np.random.Generator) -> None:
    """Sets start and end of each event: one in the middle of the clip, two one after the other, in the order of `events`.

    What is drawn belongs to the actor, so that two events in reversed order take as long as before.
    """
    if len(actors) == 1:
        middle, span = rng.uniform(0.44, 0.56), rng.uniform(0.55, 0.8)
        windows = [(middle - span / 2, middle + span / 2)]
    else:
        lead, tail, share = rng.uniform(0.03, 0.1), rng.uniform(0.03, 0.1), rng.uniform(0.44, 0.56)
        pause = 0.06
        spans = (1 - lead - tail - pause) * np.array([share, 1 - share])
        earlier = int(actors[0].event != events[0])  # number of the actor whose event comes first
        change = lead + spans[earlier]
        windows = [(lead, change), (change + pause, 1 - tail)]
        windows = windows[::-1] if earlier else windows
    for actor, (start, end) in zip(actors, windows, strict=True):
        if actor.event.motion in ("appear", "vanish"):
            switch = start + (end - start) * rng.uniform(0.25, 0.75)
            start, end = switch - _FADE / 2, switch + _FADE / 2
        actor.start, actor.end = float(start), float(end)


def lay_out(shot: Shot, rng: np.random.Generator, size_px: int = SIZE_PX) -> Layout:
    """Draws everything that the scene does not state: places, sizes, times, background, light and camera.

    A shot with the same events in reversed order gets, from the same state of `rng`, the same layout but for the times: only
    which event comes first differs.
    """
    events = sorted(shot.events, key=lambda event: (event.obj.pair, event.motion))
    actors = [_actor(event, len(events) > 1, rng) for event in events]
    panning = shot.camera.startswith("pan")
    pan_px = float(rng.uniform(22, 34)) * ({"pan_left": 1, "pan_right": -1}.get(shot.camera, 0))
    shaking = shot.camera == "shake"
    _place(actors, np.array([abs(pan_px) / 2 if panning else 3.0 if shaking else 0.0, 3.0 if shaking else 0.0]), rng)
    _time(actors, shot.events, rng)
    canvas = paint(shot.background, tuple(sorted({a.event.obj.colour for a in actors})), rng)
    flicker = np.array(
        [rng.uniform(0.05, 0.09) if shaking else rng.uniform(0.01, 0.03), rng.uniform(1, 3), rng.random()]
    )
    amplitude = rng.uniform(1.2, 2.4, 2) if shaking else np.zeros(2)
    sway = np.stack([amplitude, rng.uniform(1.5, 4, 2), rng.random(2)], axis=1)
    return Layout(shot, actors, canvas, flicker, sway, pan_px, size_px)


def draw(layout: Layout, t: float, grain: np.ndarray | None = None) -> np.ndarray:
    """The picture at `t` (0..1, share of the shot): uint8 (H, W, 3). `grain`: noise to add, (H, W, 3)."""
    scale = layout.size_px / SIZE_PX
    px, cycles, phase = layout.sway.T
    view = px * np.sin(2 * np.pi * (cycles * t + phase)) + np.array([layout.pan_px * (t - 0.5), 0.0])
    shift = MARGIN_PX - view
    to_picture = np.array([[scale, 0, -scale * shift[0]], [0, scale, -scale * shift[1]]])
    picture = cv2.warpAffine(
        layout.canvas,
        to_picture,
        (layout.size_px, layout.size_px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    for actor in layout.actors:
        progress, way = actor.progress(t), actor.way(t)
        motion = actor.event.motion
        opacity = progress if motion == "appear" else 1 - progress if motion == "vanish" else 1.0
        if opacity <= 0:
            continue
        centre = SIZE_PX / 2 + actor.centre_at(t) + view
        diameter = actor.diameter_px * actor.ratio**way
        for offset, angle in zip(actor.offsets_px, actor.angles_deg, strict=True):
            draw_shape(
                picture, actor.event.obj.shape, actor.rgb, (centre + offset) * scale, diameter * scale,
                float(angle) + actor.turn_deg * way, opacity,
            )  # fmt: skip
    share, cycles_l, phase_l = layout.flicker
    picture *= 1 + share * np.sin(2 * np.pi * (cycles_l * t + phase_l))
    if grain is not None:
        picture += grain
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


@cache
def _grain_bank() -> np.ndarray:
    rng = np.random.default_rng([20240917, 1])
    return np.repeat(rng.normal(0, 1.3, (512, 512, 1)).astype(np.float32), 3, axis=2)


def grain_like(size_px: int, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise (H, W, 3), a window of one fixed field."""
    y, x = rng.integers(0, 512 - size_px, 2)
    return _grain_bank()[y : y + size_px, x : x + size_px]


def shot_frames(scene: Scene, num_frames: int, rng: np.random.Generator) -> list[int]:
    """How many frames each shot gets: off-topic shots share 30-50% of the clip."""
    num_off_topic = len(scene.shots) - 1
    if not num_off_topic:
        return [num_frames]
    off_topic = round(num_frames * float(rng.uniform(0.3, 0.5)))
    before = len(scene.before) * off_topic if num_off_topic == 1 else round(off_topic * float(rng.uniform(0.4, 0.6)))
    return [n for n in (before, num_frames - off_topic, off_topic - before) if n > 0]


@dataclass(frozen=True)
class FramePlan:
    """One frame before it is drawn: number of its shot in the scene, the layout of this shot, and `t` (0..1) in it."""

    shot: int
    layout: Layout
    t: float
    grain: np.ndarray  # (H, W, 3)


def frame_plans(
    scene: Scene, seed: list[int], size_px: int = SIZE_PX, fps: int = 12, frozen: bool = False
) -> Iterator[FramePlan]:
    """The frames of the clip in order, before they are drawn; arguments as of `render`."""
    rng = np.random.default_rng(seed)
    num_frames = int(np.ceil(fps * (rng.uniform(3.0, 3.5) if scene.kind == "multishot" else rng.uniform(2.0, 3.5))))
    for number, (shot, count) in enumerate(zip(scene.shots, shot_frames(scene, num_frames, rng), strict=True)):
        layout = lay_out(shot, rng, size_px)
        if frozen:
            yield from [FramePlan(number, layout, 0.5, grain_like(size_px, rng))] * count
            continue
        for i in range(count):
            yield FramePlan(number, layout, i / max(count - 1, 1), grain_like(size_px, rng))


def render(
    scene: Scene, seed: list[int], size_px: int = SIZE_PX, fps: int = 12, frozen: bool = False, black: bool = False
) -> np.ndarray:
    """The clip: uint8 (T, H, W, 3), 2.0-3.5 s long (multishot at least 3 s).

    `frozen`: every frame of a shot is the same; `black`: all pixels are almost black.
    """
    plans = frame_plans(scene, seed, size_px, fps, frozen)
    clip = np.stack([draw(plan.layout, plan.t, plan.grain) for plan in plans])
    return clip // 48 if black else clip
