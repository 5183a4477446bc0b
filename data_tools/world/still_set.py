"""Held-out stills of the world with captions in both languages, as `m2raap model interpolate` reads them.

python -m data_tools.world.still_set OUT --num 5000 --seed 0        writes OUT/stills.jsonl and OUT/images/
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from data_tools.world.stills import caption, sample_shot, take

SEED = 515151  # makes the stills differ from those of the tiny CLIP's training and of its evaluation


def write_stills(out: Path, num: int, seed: int = 0) -> Path:
    """`num` stills of one or two kinds of objects; returns the table. The same seed gives the same bytes."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, SEED])
    lines = []
    for number in range(num):
        shot = sample_shot(rng, two=bool(rng.random() < 0.5))
        name = f"images/{number:06d}.png"
        good, data = cv2.imencode(".png", take(shot, rng).image[:, :, ::-1])  # OpenCV writes BGR
        assert good
        (out / name).write_bytes(data.tobytes())
        captions = {f"caption_{lang}": caption(shot, lang, rng)[0] for lang in ("en", "zh")}
        lines.append(json.dumps({"image": name, **captions}, ensure_ascii=False))
    table = out / "stills.jsonl"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--num", type=int, default=5000, help="number of stills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the stills")
    args = parser.parse_args()
    print(write_stills(args.out, args.num, args.seed))


if __name__ == "__main__":
    main()
