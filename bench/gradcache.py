"""Claim: gradient caching holds 1,024 pairs in at most 1.2 times the memory of 64, for the video-text loss.

Every measurement is a child process of its own: one step of adaptation (encoding, loss, gradients, AdamW) with ViT-B-32's
shapes, random weights, mean pooling, all layers trained, clips of random pictures held as JPEG bytes and decoded chunk by
chunk; its peak memory is the whole process's (ru_maxrss). Beside it the same with the frame-caption loss, Mug, Mug over
caption-guided frames, and the fine-grained similarity, which have no goal, and 4,096 pairs on the tiny model.

    python bench/gradcache.py [--small] [--model ViT-B-32] [--chunk 64] [--pairs 64 1024] [--frames 8] [--threads N] [--terms T]
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GOAL = 1.2
TERMS: dict[str, dict[str, Any]] = {
    "video-text": {},
    "with frame-caption loss": {"loss": {"frame_caption": 0.5}},
    "with Mug": {"interaction": {"name": "mug", "start": "open"}, "loss": {"interaction": 0.5}},
    "with guided Mug": {
        "interaction": {"name": "caption_guided_mug", "start": "open", "add_captions": True},
        "loss": {"interaction": 0.5},
    },
    "with fine": {"interaction": {"name": "fine", "start": "open"}, "loss": {"interaction": 0.5}},
}


def source_of(pairs: int, frames: int):
    """Clips of random pictures: a few hundred distinct JPEGs, so that making them takes no time."""
    import numpy as np
    from PIL import Image

    from m2raap.adapt.sources import ListSource

    rng = np.random.default_rng(0)
    jpegs = []
    for _ in range(256):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((320, 256)).save(
            out, "JPEG", quality=90
        )
        jpegs.append(out.getvalue())
    picked = rng.integers(len(jpegs), size=(pairs, frames))
    return ListSource(
        [f"clip{i}" for i in range(pairs)],
        [[jpegs[j] for j in row] for row in picked],
        [[("en", f"a clip of the pictures {' '.join(map(str, row))}", "raw")] for row in picked],
        [[f"picture {j}" for j in row] for row in picked],
    )


def child(model: str, pairs: int, chunk: int, frames: int, threads: int, terms: dict[str, Any]) -> None:
    """Runs one step; prints its seconds, the peak memory in MB, and the loss."""
    from m2raap.adapt.config import AdaptConfig
    from m2raap.adapt.loop import adapt
    from m2raap.models.config import BackboneConfig, MeanConfig

    tiny = model == "builtin:tiny"
    cfg = AdaptConfig(
        backbone=BackboneConfig(model=model) if tiny else BackboneConfig(model=model, random_init=True),
        temporal=MeanConfig(), train_vision_layers=4 if tiny else 12, cache="off", langs=("en",), num_frames=frames,
        batch_size=pairs, micro_batch=chunk, steps=2, warmup=0.0, lr=1e-6, keep="last", threads=threads, **terms,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        done = adapt(cfg, source_of(pairs, frames), None, out, stop_after=1)
        spent = [json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines()]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak_mb, "step_s": spent[-1]["seconds"], "loss": done.last_loss}))


def measured(model: str, pairs: int, chunk: int, frames: int, threads: int, terms: dict[str, Any]) -> dict[str, float]:
    words = [str(word) for word in (model, pairs, chunk, frames, threads, json.dumps(terms))]
    done = subprocess.run([sys.executable, __file__, "--child", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        model, *numbers, terms = sys.argv[2:]
        child(model, *map(int, numbers), terms=json.loads(terms))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="the tiny model, 16 and 64 pairs in chunks of 16: a minute"
    )
    parser.add_argument("--model", default="ViT-B-32", help="an open_clip name (random weights), or builtin:tiny")
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--pairs", type=int, nargs=2, default=[64, 1024], metavar=("FEW", "MANY"))
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0: its default")
    parser.add_argument("--terms", nargs="*", choices=list(TERMS), default=list(TERMS), help="losses that are measured")
    parser.add_argument("--tiny-pairs", type=int, default=4096, help="0: not measured")
    options = parser.parse_args()
    if options.small:
        options.model, options.chunk, options.pairs, options.frames, options.tiny_pairs = (
            "builtin:tiny",
            16,
            [16, 64],
            4,
            128,
        )
    few, many = options.pairs
    print(
        f"{options.model}, {options.frames} frames a clip, chunks of {options.chunk}; peak memory of the whole process"
    )
    for name in options.terms:
        terms = TERMS[name]
        start = time.monotonic()
        one, two = (
            measured(options.model, pairs, options.chunk, options.frames, options.threads, terms)
            for pairs in (few, many)
        )
        ratio = two["peak_mb"] / one["peak_mb"]
        goal = f", goal at most {GOAL}" if not terms else ""
        print(
            f"{name}: {few} pairs {one['peak_mb']:.0f} MB, {many} pairs {two['peak_mb']:.0f} MB, ratio {ratio:.2f}{goal}; "
            f"{many} pairs in {two['step_s']:.1f} s a step ({many / two['step_s']:.1f} pairs/s, {few} pairs "
            f"{few / one['step_s']:.1f}); {time.monotonic() - start:.0f} s in all",
            flush=True,
        )
    if not options.tiny_pairs:
        return
    tiny = measured("builtin:tiny", options.tiny_pairs, options.chunk, options.frames, options.threads, {})
    print(
        f"builtin:tiny, {options.tiny_pairs} pairs: {tiny['peak_mb']:.0f} MB, {tiny['step_s']:.1f} s a step, "
        f"loss {tiny['loss']:.3f}"
    )


if __name__ == "__main__":
    main()
