"""A world of coloured squares for the loop's tests: the text names the colour, or the order of two colours."""

import io

import numpy as np
from PIL import Image

from m2raap.adapt.captions import CaptionTable
from m2raap.adapt.sources import ListSource

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow": (230, 220, 30)}
CHINESE = {"red": "红", "green": "绿", "blue": "蓝", "yellow": "黄"}


def jpeg(colour: str, rng: np.random.Generator) -> bytes:
    pixels = np.full((40, 48, 3), 128, np.uint8) + rng.integers(0, 20, (40, 48, 3), dtype=np.uint8)
    x, y = rng.integers(4, 20, 2)
    pixels[y : y + 16, x : x + 16] = COLOURS[colour]
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


def words_of(table: CaptionTable, clips: np.ndarray, epoch: int | None = None) -> list[list[str]]:
    """The captions of the frames that are read of these clips; an empty text for a frame without one."""
    return [[table.texts[row] if row >= 0 else "" for row in rows] for rows in table.rows(clips, epoch)]


def clips_of(pairs: list[tuple[str, str]], seed: int, frames: int) -> ListSource:
    rng = np.random.default_rng(seed)
    ids, jpegs, texts, captions = [], [], [], []
    for number, (first, then) in enumerate(pairs):
        ids.append(f"clip{number}")
        jpegs.append([jpeg(first if t < frames // 2 else then, rng) for t in range(frames)])
        texts.append([("en", f"{first} then {then}", "raw"), ("zh", f"先{CHINESE[first]}后{CHINESE[then]}", "raw")])
        colours = [first if t < frames // 2 else then for t in range(frames)]
        captions.append([None if t == 1 else f"a {colour} square" for t, colour in enumerate(colours)])
    return ListSource(ids, jpegs, texts, captions)


def ordered(num_clips: int, seed: int, frames: int = 4) -> ListSource:
    """Clips that show one colour and then another; mean pooling cannot tell which came first."""
    rng = np.random.default_rng([seed, 1])
    pairs = [tuple(rng.choice(list(COLOURS), 2, replace=False)) for _ in range(num_clips)]
    return clips_of(pairs, seed, frames)  # type: ignore[arg-type]


def every_order(seed: int, frames: int = 4) -> ListSource:
    """One clip for each of the 12 orders of two colours."""
    return clips_of([(a, b) for a in COLOURS for b in COLOURS if a != b], seed, frames)
