"""What can be seen in the world: objects, events, shots and scenes; which pairs belong to which split.

A scene holds only what a caption could say. Places, speeds and light are drawn by the renderer from a seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond", "crescent", "hourglass")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "white", "black")
SIZES = ("small", "large")
BACKGROUNDS = ("plain", "gradient", "stripes", "checker", "grain", "dots", "waves")
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "rotate", "appear", "vanish")
ROUND_SHAPES = ("circle", "ring")  # they look the same when they turn
KINDS = ("motion", "order", "pan", "static", "multishot")
SPLITS = ("train", "val", "test")

Pair = tuple[str, str]  # (colour, shape)
ALL_PAIRS: tuple[Pair, ...] = tuple((c, s) for c in COLOURS for s in SHAPES)


@dataclass(frozen=True)
class Obj:
    """`count` equal objects that stand close together and act together."""

    shape: str
    colour: str
    size: str = "large"
    count: int = 1

    @property
    def pair(self) -> Pair:
        return self.colour, self.shape


@dataclass(frozen=True)
class Event:
    """An object and what it does: one of MOTIONS, or 'still'."""

    obj: Obj
    motion: str = "still"


@dataclass(frozen=True)
class Shot:
    """One take. Two events happen one after the other, in this order."""

    events: tuple[Event, ...]
    background: str = "plain"
    camera: str = "fixed"


@dataclass(frozen=True)
class Scene:
    """A clip: the shot that the caption is about, with off-topic shots around it when kind is 'multishot'."""

    kind: str
    main: Shot
    before: tuple[Shot, ...] = ()
    after: tuple[Shot, ...] = ()

    @property
    def shots(self) -> tuple[Shot, ...]:
        return *self.before, self.main, *self.after

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every (colour, shape) that can be seen, off-topic shots too."""
        return tuple(event.obj.pair for shot in self.shots for event in shot.events)


def motions_of(shape: str) -> tuple[str, ...]:
    """The motions that are visible on a shape: a turning circle looks still."""
    return tuple(m for m in MOTIONS if not (m == "rotate" and shape in ROUND_SHAPES))


def meaning(scene: Scene) -> str:
    """What every caption of the scene says, as a key; scenes with equal keys have interchangeable captions.

    Size and background are left out because captions mention them only sometimes.
    """
    parts = [f"{e.obj.count} {e.obj.colour} {e.obj.shape} {e.motion}" for e in scene.main.events]
    camera = scene.main.camera if scene.main.camera.startswith("pan") else ""
    return " > ".join([camera, *parts] if camera else parts)


def split_pairs(seed: int) -> dict[str, tuple[Pair, ...]]:
    """Every (colour, shape) pair in exactly one split: 70 train, 10 val, 20 test of the 100.

    A Latin square with shuffled rows, columns and symbols: symbols 0..6 are train, 7 val, 8 and 9 test. So every
    colour and every shape is in every split (7, 1 and 2 times).
    """
    n = len(SHAPES)
    assert n == len(COLOURS)
    rng = np.random.default_rng([seed, 7001])
    rows, columns, symbols = rng.permutation(n), rng.permutation(n), rng.permutation(n)
    by_split: dict[str, list[Pair]] = {s: [] for s in SPLITS}
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(SHAPES):
            symbol = symbols[(rows[i] + columns[j]) % n]
            by_split["train" if symbol < 7 else "val" if symbol == 7 else "test"].append((colour, shape))
    return {split: tuple(pairs) for split, pairs in by_split.items()}


def reversed_order(scene: Scene) -> Scene:
    """The order clip with the same two events in reversed order."""
    assert scene.kind == "order"
    main = scene.main
    return Scene("order", Shot(main.events[::-1], main.background, main.camera))


class SceneSampler:
    """Draws scenes that show only the given pairs."""

    def __init__(self, pairs: tuple[Pair, ...], rng: np.random.Generator):
        self.pairs = pairs
        self.rng = rng

    def _pick(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def obj(self, not_like: tuple[Obj, ...] = (), single: bool = False) -> Obj:
        """An object without the colour or the shape of the `not_like` ones; if there is none, not with both of them."""
        options = [p for p in self.pairs if all(p[0] != o.colour and p[1] != o.shape for o in not_like)]
        options = options or [p for p in self.pairs if all(p != o.pair for o in not_like)]
        colour, shape = options[int(self.rng.integers(len(options)))]
        count = 1 if single else int(self.rng.choice([1, 1, 1, 2, 3]))
        return Obj(shape, colour, self._pick(SIZES), count)

    def event(self, not_like: tuple[Obj, ...] = (), single: bool = False) -> Event:
        obj = self.obj(not_like, single)
        return Event(obj, self._pick(motions_of(obj.shape)))

    def scene(self, kind: str) -> Scene:
        if kind == "multishot":
            return self.with_off_topic(self.scene("motion"))
        background = self._pick(BACKGROUNDS)
        if kind == "motion":
            return Scene(kind, Shot((self.event(),), background))
        if kind == "order":
            first = self.event(single=True)
            return Scene(kind, Shot((first, self.event((first.obj,), single=True)), background))
        if kind == "pan":  # a plain background would not show that the camera turns
            background = self._pick(tuple(b for b in BACKGROUNDS if b not in ("plain", "gradient")))
            return Scene(kind, Shot((Event(self.obj()),), background, self._pick(("pan_left", "pan_right"))))
        assert kind == "static", kind
        return Scene(kind, Shot((Event(self.obj()),), background, "shake"))

    def with_off_topic(self, scene: Scene) -> Scene:
        """The scene's main shot with one or two still shots of other objects around it."""
        main = scene.main
        others = [self._off_topic(main) for _ in range(int(self.rng.integers(1, 3)))]
        if len(others) == 2:
            return Scene("multishot", main, before=(others[0],), after=(others[1],))
        if self.rng.random() < 0.5:
            return Scene("multishot", main, before=(others[0],))
        return Scene("multishot", main, after=(others[0],))

    def _off_topic(self, main: Shot) -> Shot:
        background = self._pick(tuple(b for b in BACKGROUNDS if b != main.background))
        return Shot((Event(self.obj(tuple(event.obj for event in main.events))),), background, "shake")
