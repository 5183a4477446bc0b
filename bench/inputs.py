"""Claim: frames that are stored once save time over raw video that is decoded in every epoch. Prints how much, and when.

Runs the recipe `inputs` on real clips with the tiny model, and prints for each arm the seconds of an epoch, how many of
them training waited for frames, the seconds of what is done once (extraction and preparation), and the number of epochs
after which storing frames is faster. A fourth arm also has a prefix cache of the key-frames, which raw video cannot have.
Training and decoding share the cores of the machine, as they do in a run.

    python bench/inputs.py --data DIR [--limit N] [--epochs N] [--workers N]

DIR holds captions.jsonl (video, caption) and videos/.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from m2raap.core.engine import LocalEngine, available_cores
from m2raap.core.folder import read_timings
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe
from m2raap.pipeline.run import run
from m2raap.pipeline.run_folder import Inputs, RunFolder

CACHED = "arms.cached={adapt: {cache: auto}}"
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m"


def import_corpus(data: Path, out: Path) -> None:
    words = [
        "data",
        "import",
        "table",
        str(data / "captions.jsonl"),
        "--video-dir",
        str(data / "videos"),
        "--out",
        str(out),
    ]
    subprocess.run([sys.executable, "-m", "m2raap.cli.main", *words], check=True, stdout=subprocess.DEVNULL)


def extraction_s(folder: Path) -> float:
    """Core seconds of decoding all clips once and storing their frames."""
    return sum(row["seconds"] for row in read_timings(folder) if "phase" in row)


def epochs_of(folder: Path, steps_per_epoch: int) -> tuple[float, float, float]:
    """Seconds of an epoch and of waiting in it, from medians over steps without the first; and of the preparation (digests,
    prefix cache)."""
    steps = [row for row in read_timings(folder) if row.get("step", 1) > 1 and "step" in row]
    seconds = statistics.median(row["seconds"] for row in steps)
    waited = statistics.median(row["data_wait_s"] for row in steps)
    ready_s = sum(row["seconds"] for row in read_timings(folder) if "prepared" in row)
    return steps_per_epoch * seconds, steps_per_epoch * waited, ready_s


def loading(recipe: Recipe, view: Any) -> tuple[float, float, int]:
    """Seconds of reading one epoch from raw video and from stored frames without training, and the number of clips."""
    import numpy as np

    from m2raap.adapt.pixels import Decoding, JpegFrames
    from m2raap.adapt.raw_video import Decoders, RawVideos
    from m2raap.adapt.sampler import BatchSampler
    from m2raap.core.videos import VideoDigests
    from m2raap.models.families import load_backbone
    from m2raap.stages.source import ViewSource

    limits, cfg = recipe.keyframes.decode, recipe.adapt
    source = ViewSource(view, "train", limits, VideoDigests(Path("unused")))
    preprocess = load_backbone(recipe.backbone).preprocess
    decoders = Decoders(available_cores(), limits)
    plan = BatchSampler(source.num_clips, cfg.batch_size, 0)
    seconds = []
    for data in (
        RawVideos(source, preprocess, cfg.num_frames, 0, decoders),
        JpegFrames(source, preprocess, cfg.num_frames, Decoding()),
    ):
        data.batch(np.arange(2))  # decoders start, the part is read
        began = time.monotonic()
        for step in range(1, plan.steps_per_epoch + 1):
            data.batch(plan.clips(step), 0)
        seconds.append(time.monotonic() - began)
    decoders.close()
    return seconds[0], seconds[1], source.num_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--limit", type=int, default=None, help="use at most so many clips")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes that extract frames")
    args = parser.parse_args()
    recipe = load_recipe("inputs", ["stages=[keyframes, adapt]", f"adapt.epochs={args.epochs}", CACHED])
    arms = arms_of(recipe)
    with tempfile.TemporaryDirectory() as scratch:
        corpus, out = Path(scratch) / "C", Path(scratch) / "R"
        import_corpus(args.data, corpus)
        inputs = Inputs(corpus, {}, args.limit)
        engine = LocalEngine(args.workers)
        try:
            run(recipe, inputs, out, engine)
        finally:
            engine.close()
        steps = {step.arm: step for step in RunFolder.open(out).steps if step.stage == "keyframes"}
        view = inputs.view(recipe.langs).over(steps["keyframes"].folder)
        raw_load_s, stored_load_s, clips = loading(recipe, view)
        per_epoch = max(1, clips // recipe.adapt.batch_size)
        stored = {arm: extraction_s(steps[arm].folder) for arm in arms if arms[arm].adapt.input == "keyframes"}
        times = {arm: epochs_of(out / arm / "adapt", per_epoch) for arm in arms}
    print(
        f"{clips} clips, batches of {min(recipe.adapt.batch_size, clips)}, {available_cores()} cores, medians over steps"
    )
    head = ("s an epoch", "of it waiting", "extraction core s", "preparation s", "faster after epochs")
    print(f"{'input':<12}" + "".join(f"{name:>19}" for name in head))
    raw_epoch_s, _, raw_ready_s = times["raw_video"]
    for arm, (epoch_s, waited_s, ready_s) in times.items():
        saved_s, once_s = raw_epoch_s - epoch_s, stored.get(arm, 0.0) / args.workers + ready_s - raw_ready_s
        pays = "-" if arm not in stored else f"{max(0.0, once_s) / saved_s:.1f}" if saved_s > 0 else "never"
        print(f"{arm:<12}{epoch_s:>19.2f}{waited_s:>19.2f}{stored.get(arm, 0.0):>19.1f}{ready_s:>19.1f}{pays:>19}")
    print(f"(extraction takes its core seconds / {args.workers} workers)")
    learn_s = times["keyframes"][0] - times["keyframes"][1]
    print(f"reading alone, an epoch: raw video {raw_load_s:.2f} s, stored frames {stored_load_s:.2f} s")
    ratio = times["raw_video"][0] / times["keyframes"][0]
    print(f"an epoch from stored key-frames is {ratio:.2f}x as fast as from raw video")
    if raw_load_s < learn_s:
        print(f"loading is not the bottleneck: training takes {learn_s:.2f} s an epoch, longer than reading raw video")
    else:
        print(
            f"loading is the bottleneck of raw video: training takes {learn_s:.2f} s an epoch. It is not with a model whose step "
            f"costs more than {raw_load_s / learn_s:.1f}x, or with as many times the decoders"
        )


if __name__ == "__main__":
    main()
