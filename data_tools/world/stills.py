"""Single pictures of the world with captions of what they look like, without any motion.

They train and evaluate the tiny CLIP. The claims of a caption are kept beside it, so that a caption which is also true of
another picture of the batch is not used as a negative for that one. Two objects are named from left to right, so that the
order of the nouns means something: 'A and B' is not true of a picture of B left of A.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from data_tools.world.grammar import ALL_PAIRS, BACKGROUNDS, COLOURS, SHAPES, SIZES, Event, Obj, Pair, Shot, motions_of
from data_tools.world.render import draw, grain_like, lay_out
from data_tools.world.words import background_phrase, noun_phrase

_EN_FORM = ("{n}", "{n}", "{n}", "a picture of {n}", "there {be} {n}", "an image with {n}")
_ZH_FORM = ("{n}", "{n}", "{n}", "{n}的图片", "画面中有{n}", "这里有{n}")
_ANY = 9  # of a size: the picture fits every word for it
_NONE = -1  # nothing is claimed
_APART_PX = 6  # of the middles of two objects, from left to right: with less, neither is clearly the left one


@dataclass(frozen=True)
class Still:
    """A picture, uint8 (H, W, 3), what it shows, its events from left to right, and where: bool (H, W), true on objects."""

    image: np.ndarray
    shot: Shot
    objects: np.ndarray


def sample_shot(rng: np.random.Generator, two: bool, count: int | None = None) -> Shot:
    """One or two objects of any colour and shape. Their motions only vary sizes, angles and places."""
    events: list[Event] = []
    picks = rng.choice(len(ALL_PAIRS), 2, replace=False)
    for i in range(2 if two else 1):
        colour, shape = ALL_PAIRS[int(picks[i])]
        number = count or (1 if two else int(rng.choice([1, 1, 1, 2, 3])))
        motions = ("still", *(m for m in motions_of(shape) if m not in ("appear", "vanish")))
        obj = Obj(shape, colour, SIZES[int(rng.integers(2))], number)
        events.append(Event(obj, motions[int(rng.integers(len(motions)))]))
    return Shot(
        tuple(events), BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], "shake" if rng.random() < 0.3 else "fixed"
    )


def take(shot: Shot, rng: np.random.Generator, compress: bool = True) -> Still:
    """A picture of the shot at a random time; `compress` puts it through JPEG half of the time.

    The shot of the result has its events in the order of the picture, from left to right.
    """
    layout, t = lay_out(shot, rng), float(rng.random())
    while np.diff(sorted(a.centre_at(t)[0] for a in layout.actors), prepend=-np.inf).min() < _APART_PX:
        layout, t = lay_out(shot, rng), float(rng.random())
    grain = grain_like(layout.size_px, rng)
    image = draw(layout, t, grain)
    empty = draw(replace(layout, actors=[]), t, grain)
    objects = np.any(np.abs(image.astype(np.int16) - empty) > 8, axis=2)
    if compress and rng.random() < 0.5:
        good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))])
        assert good
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None
    from_left = sorted(layout.actors, key=lambda actor: actor.centre_at(t)[0])
    return Still(image, replace(shot, events=tuple(actor.event for actor in from_left)), objects)


def mirrored(still: Still) -> Still:
    """The picture with left and right swapped, and so with its objects in reversed order."""
    shot = replace(still.shot, events=still.shot.events[::-1])
    return Still(still.image[:, ::-1].copy(), shot, still.objects[:, ::-1].copy())


def caption(shot: Shot, lang: str, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A caption of the looks, and its claims: int (5,) = object code, size, object code, size, background.

    The objects are named in the order of the shot's events, which `take` puts from left to right.
    """
    claims = np.full(5, _NONE)
    nouns = []
    for i, event in enumerate(shot.events):
        size = event.motion not in ("grow", "shrink") and bool(rng.random() < 0.3)
        nouns.append(noun_phrase(event.obj, lang, rng, size))
        claims[2 * i] = _code(event.obj)
        claims[2 * i + 1] = SIZES.index(event.obj.size) if size else _NONE
    forms = _EN_FORM if lang == "en" else _ZH_FORM
    form = forms[int(rng.integers(len(forms)))]
    be = "is" if len(nouns) == 1 and shot.events[0].obj.count == 1 else "are"
    text = form.format(n=(" and " if lang == "en" else "和").join(nouns), be=be)
    if rng.random() < 0.3:
        where = background_phrase(shot.background, lang, rng)
        claims[4] = BACKGROUNDS.index(shot.background)
        text = f"{text} {where}" if lang == "en" else f"{where}{'下，' if rng.random() < 0.5 else '上，'}{text}"
    return text, claims


def _code(obj: Obj) -> int:
    return ALL_PAIRS.index(obj.pair) * 3 + obj.count - 1


def facts(shot: Shot) -> np.ndarray:
    """What the picture shows, in the layout of the claims."""
    codes = np.full(5, _NONE - 1)
    for i, event in enumerate(shot.events):
        codes[2 * i] = _code(event.obj)
        codes[2 * i + 1] = _ANY if event.motion in ("grow", "shrink") else SIZES.index(event.obj.size)
    codes[4] = BACKGROUNDS.index(shot.background)
    return codes


def looks(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Claims or facts (N, 5) as shares: pair (N, 100), first (N, 100), colour (N, 10), shape (N, 10),
    count (N, 3); rows sum to 1. `first` is the pair of the left object alone."""
    n = len(rows)
    shares = {
        "pair": np.zeros((n, len(ALL_PAIRS)), np.float32),
        "first": np.zeros((n, len(ALL_PAIRS)), np.float32),
        "colour": np.zeros((n, len(COLOURS)), np.float32),
        "shape": np.zeros((n, len(SHAPES)), np.float32),
        "count": np.zeros((n, 3), np.float32),
    }
    for i, row in enumerate(rows):
        codes = [int(c) for c in (row[0], row[2]) if c >= 0]
        shares["first"][i, codes[0] // 3] = 1
        for code in codes:
            pair, share = code // 3, 1 / len(codes)
            shares["pair"][i, pair] += share
            shares["colour"][i, pair // len(SHAPES)] += share
            shares["shape"][i, pair % len(SHAPES)] += share
            shares["count"][i, code % 3] += share
    return shares


def true_of(claims: np.ndarray, facts_M5: np.ndarray) -> np.ndarray:
    """claims (N, 5), facts_M5 (M, 5) -> bool (N, M): whether every claim of caption n is true of picture m.

    A caption of one object is true of a picture that shows it on either side; one of two objects only of a picture that
    shows them in this order.
    """
    c, s = claims[:, None, :], facts_M5[None, :, :]
    (first_on_left, first_on_right), (_, second_on_right) = (
        [
            (c[..., i] == s[..., j])
            & ((c[..., i + 1] == _NONE) | (s[..., j + 1] == _ANY) | (c[..., i + 1] == s[..., j + 1]))
            for j in (0, 2)
        ]
        for i in (0, 2)
    )
    is_single = c[..., 2] == _NONE
    objects = np.where(is_single, first_on_left | first_on_right, first_on_left & second_on_right)
    return objects & ((c[..., 4] == _NONE) | (c[..., 4] == s[..., 4]))


def prompt(pair: Pair, lang: str) -> str:
    """'a red circle' / '一个红色圆形': the plain name, always with the first word for the shape."""

    class First:
        def integers(self, _n: int) -> int:
            return 0

    return noun_phrase(Obj(pair[1], pair[0]), lang, First())  # type: ignore[arg-type]  # only integers() is used
