"""A benchmark of clips whose caption is about one shot only: one or two further shots show something else.

The objects are the test pairs of the world of the same seed; no two clips have the same meaning. It measures whether weights
over frames (ACG) help.

python -m data_tools.world.off_topic OUT --num 300 --seed 0
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data_tools.world.grammar import Scene, SceneSampler, meaning, split_pairs
from data_tools.world.make import Planned, WorldConfig, clip_row, planned, text_rows, write_clip
from data_tools.world.shots import write_shots
from m2raap.core.corpus import Corpus, write_corpus
from m2raap.core.engine import available_cores
from m2raap.core.lock import locked

BENCHMARK = "world-offtopic"
FIRST = (
    2_000_000  # number of the first clip, above those of any world, so that drawings and captions differ from theirs
)


def write_off_topic(out: Path, num: int, seed: int) -> Corpus:
    """`num` clips with two texts each, and out/shots.parquet: what each moment of them shows.

    The same arguments give the same bytes. Raises M2raapError if a file cannot be encoded.
    """
    cfg = WorldConfig(seed=seed)
    plans = _plan(cfg, num)
    texts = [row for plan in plans for row in text_rows(plan)]
    source = {"importer": "world", "settings": {"off_topic": num, "seed": seed}}
    root = out / "videos"
    with locked(out, written=("videos", "shots.parquet")):
        (root / "test").mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(lambda plan: write_clip(plan, cfg, root), plans))
        clips = [clip_row(plan) for plan in plans]
        corpus = write_corpus(out, clips, texts, video_root=root, source=source, benchmark=BENCHMARK)
        write_shots(plans, cfg, out)  # a new corpus is written into no folder that holds anything but videos
        return corpus


def _plan(cfg: WorldConfig, num: int) -> list[Planned]:
    sampler = SceneSampler(split_pairs(cfg.seed)["test"], np.random.default_rng([cfg.seed, 17]))
    scenes: dict[str, Scene] = {}
    while len(scenes) < num:
        scene = sampler.scene("multishot")
        scenes.setdefault(meaning(scene), scene)
    return [planned(cfg, f"o{i:06d}", "test", scene, FIRST + i) for i, scene in enumerate(scenes.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="corpus folder to write")
    parser.add_argument("--num", type=int, default=300, choices=range(1, 401), metavar="1..400", help="number of clips")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world and of the clips")
    args = parser.parse_args()
    print(f"{args.out}: {write_off_topic(args.out, args.num, args.seed).counts}")


if __name__ == "__main__":
    main()
