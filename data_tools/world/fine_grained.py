"""Corpora in which only a part of a clip and a part of its caption belong together: for losses over frames and phrases.

A clip is a row of shots of one still object each; a caption is a row of as many tags, "red circle, blue star". `belong` of the
shots and of the tags are about the same objects, in any order; the others show and name other objects. With 1.0 all belong
together: the control. `mismatched` is the share of the training clips whose caption is that of another clip. All splits draw
from the same 100 objects: of fewer, many clips would show by chance as many objects of a caption as its own clip does. No two
clips of any split have the same objects in common with their captions. OUT/train has the val rows, too.

python -m data_tools.world.fine_grained OUT --belong 0.5 --mismatched 0.0 --train 2000 --test 500 --seed 0
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.world.encode import encode
from data_tools.world.grammar import ALL_PAIRS, BACKGROUNDS, SIZES, Event, Obj, Pair, Shot
from data_tools.world.make import plain_clip_row, text_rows
from data_tools.world.render import draw, grain_like, lay_out
from data_tools.world.words import LANGS, colour_and_shape
from m2raap.core.corpus import Corpus, write_corpus
from m2raap.core.engine import available_cores
from m2raap.core.errors import UsageError
from m2raap.core.lock import locked

BENCHMARK = "world-fine"
SHOTS = 6  # of which half belong; six tags fit into the tiny model's 40 tokens in both languages
FRAMES_PER_SHOT = 8
FPS = 12
SIZE_PX = 96
JOIN = {"en": ", ", "zh": "，"}


@dataclass(frozen=True)
class Planned:
    """A clip to be: what its shots show, what its captions name, and which objects are both (sorted: the clip's meaning)."""

    clip_id: str
    split: str
    number: int  # seeds the drawing
    in_shots: tuple[Obj, ...]
    in_texts: tuple[Obj, ...]
    in_both: tuple[Pair, ...]


def plan(num_by_split: dict[str, int], belong: float, seed: int) -> list[Planned]:
    """The clips of all splits, of which no two share all the objects that belong; no two objects of a clip and its caption
    have the same colour and shape. Raises UsageError for more clips than there are such sets of objects, and for a share that
    is not above 0 and at most 1."""
    if not 0 < belong <= 1:
        raise UsageError(f"--belong {belong:g}: the share of the objects that belong is above 0 and at most 1")
    rng = np.random.default_rng([seed, 31])
    splits = [split for split, num in num_by_split.items() for _ in range(num)]
    num_both = max(1, round(belong * SHOTS))
    if len(splits) > math.comb(len(ALL_PAIRS), num_both):
        raise UsageError(
            f"{len(splits)} clips that have {num_both} of {SHOTS} objects in common with their captions: there are "
            f"{math.comb(len(ALL_PAIRS), num_both)} such sets; ask for fewer clips, or give a larger share that belongs"
        )
    by_meaning: dict[tuple[Pair, ...], Planned] = {}
    while len(by_meaning) < len(splits):
        number = len(by_meaning)
        places = rng.permutation(len(ALL_PAIRS))[: 2 * SHOTS - num_both]
        objects = [
            Obj(shape, colour, SIZES[int(rng.integers(2))]) for colour, shape in (ALL_PAIRS[place] for place in places)
        ]
        both, in_shots, in_texts = objects[:num_both], objects[num_both:SHOTS], objects[SHOTS:]
        meaning = tuple(sorted(obj.pair for obj in both))
        shots, texts = ([[*both, *others][i] for i in rng.permutation(SHOTS)] for others in (in_shots, in_texts))
        clip = Planned(f"f{number:06d}", splits[number], number, tuple(shots), tuple(texts), meaning)
        by_meaning.setdefault(meaning, clip)
    return list(by_meaning.values())


def captions(plans: list[Planned], mismatched: float, seed: int) -> list[dict[str, str]]:
    """The captions of every clip by language; for a share of the clips those of the next clip of that share.

    Raises UsageError for a share outside 0 to 1, and for one of a single clip, which has no other caption to take.
    """
    if not 0 <= mismatched <= 1:
        raise UsageError(f"--mismatched {mismatched:g}: the share of the clips with another's caption is from 0 to 1")
    rng = np.random.default_rng([seed, 32, len(plans)])
    order = list(range(len(plans)))
    wrong = sorted(int(i) for i in rng.permutation(len(plans))[: round(mismatched * len(plans))])
    if len(wrong) == 1:
        raise UsageError(
            f"--mismatched {mismatched:g} of {len(plans)} clips is a single clip: raise it, or set it to 0"
        )
    for place, clip in enumerate(wrong):
        order[clip] = wrong[(place + 1) % len(wrong)]
    rows = []
    for place in order:
        words = np.random.default_rng([seed, 33, plans[place].number])
        rows.append(
            {lang: JOIN[lang].join(colour_and_shape(o, lang, words) for o in plans[place].in_texts) for lang in LANGS}
        )
    return rows


def frames_of(clip: Planned, seed: int) -> np.ndarray:
    """uint8 (T, H, W, 3): one shot after the other, each of one kind of object that stands still before a shaking camera."""
    rng = np.random.default_rng([seed, 34, clip.number])
    frames = []
    for obj in clip.in_shots:
        shot = Shot((Event(obj),), BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], "shake")
        layout = lay_out(shot, rng, SIZE_PX)
        moments = np.linspace(0, 1, FRAMES_PER_SHOT)
        frames += [draw(layout, float(t), grain_like(SIZE_PX, rng)) for t in moments]
    return np.stack(frames)


def write_fine_grained(
    out: Path, belong: float, mismatched: float, num_train: int, num_val: int, num_test: int, seed: int
) -> list[Corpus]:
    """OUT/train and OUT/test. The same arguments give the same bytes.

    Raises UsageError as `plan` and `captions` do, M2raapError if a file cannot be encoded.
    """
    plans = plan({"train": num_train, "val": num_val, "test": num_test}, belong, seed)
    texts = captions(plans[:num_train], mismatched, seed) + captions(plans[num_train:], 0.0, seed)
    settings = {
        "belong": belong,
        "mismatched": mismatched,
        "train": num_train,
        "val": num_val,
        "test": num_test,
        "seed": seed,
    }
    root = out / "videos"
    with locked(out, written=("videos",)):
        root.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(lambda c: encode(frames_of(c, seed), FPS, root / f"{c.clip_id}.mp4", 16, True), plans))
        more: dict[str, Any] = {"video_root": root, "source": {"importer": "world", "settings": {"fine": settings}}}
        corpora = []
        for folder, of_test in ((out / "train", False), (out / "test", True)):
            chosen = [(c, t) for c, t in zip(plans, texts, strict=True) if (c.split == "test") == of_test]
            rows = [plain_clip_row(clip.clip_id, f"{clip.clip_id}.mp4", clip.split, "fine") for clip, _ in chosen]
            of_texts = [row for clip, words in chosen for row in text_rows(clip.clip_id, words)]
            corpora.append(write_corpus(folder, rows, of_texts, benchmark=BENCHMARK if of_test else None, **more))
        return corpora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write the two corpora into")
    parser.add_argument("--belong", type=float, default=0.5, help="share of shots and tags that belong together")
    parser.add_argument("--mismatched", type=float, default=0.0, help="share of training clips with another's caption")
    parser.add_argument("--train", type=int, default=2000, help="number of training clips")
    parser.add_argument("--val", type=int, default=160, help="number of validation clips")
    parser.add_argument("--test", type=int, default=500, help="number of test clips")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of the clips")
    args = parser.parse_args()
    try:
        corpora = write_fine_grained(args.out, args.belong, args.mismatched, args.train, args.val, args.test, args.seed)
    except UsageError as error:
        parser.error(str(error))
    for corpus in corpora:
        print(f"{args.out}: {corpus.counts}")


if __name__ == "__main__":
    main()
