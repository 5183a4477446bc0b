"""A benchmark of one kind of clips, whose objects are the test pairs of the world of the same seed.

python -m data_tools.world.benchmark OUT --kind motion|order|off_topic --num 500 --seed 0

motion: one object that moves. order: two events one after the other; each clip comes with its twin, in which they come in the
other order. off_topic: the caption is about one shot only, of one moving object or of two events, half and half as in the world's
own test clips, and one or two further shots show something else; it measures whether weights over frames (ACG) help. No two
clips of a benchmark mean the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from data_tools.world.make import clip_row, text_rows, write_clip
from data_tools.world.plan import Planned, WorldConfig, num_meanings, plan_motion, plan_off_topic, plan_order
from data_tools.world.shots import write_shots
from m2raap.core.corpus import Corpus, write_corpus
from m2raap.core.engine import available_cores
from m2raap.core.errors import UsageError
from m2raap.core.lock import locked

MOST_ORDER_CLIPS = 10_000


@dataclass(frozen=True)
class Kind:
    """`benchmark`: name of the protocol. `plan`: draws its clips. `first`: number of the first clip in the seeds, which no clip
    of a world of the usual sizes has (these begin at 0, 3,000,000 and 4,000,000), so that drawings and captions differ."""

    benchmark: str
    plan: Callable[[WorldConfig, str, int, str, int], list[Planned]]
    prefix: str
    first: int


KINDS = {
    "motion": Kind("world-one-motion", plan_motion, "m", 1_000_000_000),
    "order": Kind("world-order", plan_order, "q", 1_001_000_000),
    "off_topic": Kind("world-offtopic", plan_off_topic, "o", 2_000_000),
}


def most_clips(kind: str, seed: int) -> int:
    """The largest benchmark of this kind: one object has only so many meanings; half of off_topic are about two."""
    return MOST_ORDER_CLIPS if kind == "order" else num_meanings(seed) * (2 if kind == "off_topic" else 1)


def write_benchmark(out: Path, kind: str, num: int, seed: int) -> Corpus:
    """`num` clips with two texts each. The same arguments give the same bytes.

    Raises UsageError for a number that the kind does not allow, M2raapError if a file cannot be encoded.
    """
    cfg = WorldConfig(seed=seed)
    plans = _plan(cfg, kind, num)
    texts = [row for plan in plans for row in text_rows(plan.clip_id, plan.texts)]
    source = {"importer": "world", "settings": {kind: num, "seed": seed}}
    root = out / "videos"
    with locked(out, written=("videos", "shots.parquet")):
        (root / "test").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(lambda plan: write_clip(plan, cfg, root), plans))
        clips = [clip_row(plan) for plan in plans]
        corpus = write_corpus(out, clips, texts, video_root=root, source=source, benchmark=KINDS[kind].benchmark)
        write_shots(plans, cfg, out)  # a new corpus is written into no folder that holds anything but videos
        return corpus


def _plan(cfg: WorldConfig, kind: str, num: int) -> list[Planned]:
    most = most_clips(kind, cfg.seed)
    if not 1 <= num <= most:
        raise UsageError(
            f"--num {num}: give 1 to {most:,} clips of kind {kind}; there are no more that differ in meaning"
        )
    if kind == "order" and num % 2:
        raise UsageError(f"--num {num}: give an even number, because every clip of kind order comes with its twin")
    return KINDS[kind].plan(cfg, "test", num, KINDS[kind].prefix, KINDS[kind].first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="corpus folder to write")
    parser.add_argument("--kind", choices=KINDS, required=True, help="kind of the clips")
    parser.add_argument("--num", type=int, default=500, help="number of clips")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of the clips")
    args = parser.parse_args()
    try:
        print(f"{args.out}: {write_benchmark(args.out, args.kind, args.num, args.seed).counts}")
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
