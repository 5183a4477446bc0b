"""Claim: a training step takes the time of its FLOP, frozen layers are computed once, and steps do not wait for stored frames.

Random weights of real shapes, synthetic clips (8 JPEGs of short side 256), the project's own training loop; medians over
steps without the first, which waits for its batch. FLOP are counted by torch over one forward and backward pass.

1. ViT-B/32 and B/16, every layer learns, text tower included: mean pooling, STAN, STAN with Mug, ACG and frame-caption loss;
   STAN's seconds over mean pooling's beside the same ratio of FLOP (goal: within 1.1x). Beside it the layout of the released
   STAN, one sequence (B, 1 + P x T, D) that is rearranged for every attention, in vectorised form (no goal).
2. ViT-B/32, STAN: backbone frozen and read from the cache, frozen without a cache, and all layers learning (goals: the cache
   1.45x and 2.4x as fast). Nothing of the text tower learns where the backbone is frozen, so its vectors are kept too.
3. With --data (captions.jsonl, videos/): reading the real clips' frames from parquet against decoding the clips, alone
   (goal: 8x the clips a second at short side 256). End to end: bench/inputs.py.

    python bench/adapt.py [--models ViT-B-32 ViT-B-16] [--batch 4] [--steps 4] [--data DIR]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.loop import adapt
from m2raap.adapt.sources import ListSource
from m2raap.core.engine import available_cores
from m2raap.core.folder import read_timings
from m2raap.models.pooling import masked_mean
from m2raap.models.stan import Stan

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m"
STAN = {"name": "stan", "layers": 4, "drop_path": 0.0}
LOSS = {"interaction": 1.0, "frame_caption": 1.0}
WHOLE = {"temporal": STAN, "interaction": {"name": "mug"}, "loss": LOSS, "acg": {}}
TEXT = "a person in a red coat slowly cuts a large green melon on a wooden table near the window"


def synthetic_clips(num: int, frames: int = 8) -> ListSource:
    """Clips of smooth noise, with one caption per clip and one per frame."""
    from PIL import Image

    rng = np.random.default_rng([0])
    jpegs = []
    for _ in range(num):
        clip_jpegs = []
        for _ in range(frames):
            sink = io.BytesIO()
            small = rng.integers(0, 255, (9, 16, 3), dtype=np.uint8)
            Image.fromarray(small).resize((456, 256), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
            clip_jpegs.append(sink.getvalue())
        jpegs.append(clip_jpegs)
    texts = [" ".join(rng.permutation(TEXT.split(" "))) for _ in range(num)]
    frame_captions: list[list[str | None]] = [[f"{text} {t}" for t in range(frames)] for text in texts]
    return ListSource([f"c{i}" for i in range(num)], jpegs, [[("en", text, "raw")] for text in texts], frame_captions)


def config(model: str, batch: int, steps: int, **changes: Any) -> AdaptConfig:
    tree = {
        "backbone": {"model": model, "random_init": True}, "temporal": {"name": "mean"}, "langs": ["en"],
        "batch_size": batch, "steps": steps + 1, "warmup": 0.0, "cache": "off", "keep": "last", "device": "cpu",
        "checkpoint_every_steps": 1000, "train_vision_layers": 12, "caption_dropout": 0.0,
    }  # fmt: skip
    return AdaptConfig.model_validate(tree | changes)


def step_s(cfg: AdaptConfig, source: ListSource) -> tuple[float, float, float]:
    """Median seconds of a step and of its wait for a batch; seconds of the preparation before the first step."""
    with tempfile.TemporaryDirectory() as out:
        adapt(cfg, source, None, Path(out), stop_after=cfg.steps - 1 if cfg.steps else None)  # no model is written
        rows = read_timings(Path(out))
    steps = [row for row in rows if row.get("step", 1) > 1 and "step" in row]
    once = sum(row["seconds"] for row in rows if "prepared" in row)
    return statistics.median(r["seconds"] for r in steps), statistics.median(r["data_wait_s"] for r in steps), once


def flop(cfg: AdaptConfig, source: ListSource) -> float:
    """FLOP of one step, with the plain attention kernel, since the counter misses the fused ones."""
    plain, counter = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
    with tempfile.TemporaryDirectory() as out, plain, counter:
        adapt(cfg, source, None, Path(out), stop_after=1)
    return float(counter.get_total_flops())


def patch_major(self: Stan, levels: list[Tensor], mask_BT: Tensor) -> Tensor:
    """STAN's branch over one sequence (B, 1 + P x T, D), rearranged for every attention as in the released code."""
    frames = mask_BT.shape[1]
    tower: Any = self.backbone.vision
    position_SD = tower.positions()
    first = levels[0]
    batch, _, size, width = first.shape
    patches = size - 1
    cls_B1D = ((masked_mean(first[:, :, 0], mask_BT) + tower.class_token() + position_SD[0]) / 2)[:, None]
    x_BPTD = first[:, :, 1:].transpose(1, 2) + position_SD[1:][:, None] + self.time[:frames]
    x_BSD = torch.cat([cls_B1D, x_BPTD.reshape(batch, patches * frames, width)], 1)
    for k, level in enumerate(levels):
        if k > 0:
            cls_B1D = masked_mean(level[:, :, 0], mask_BT)[:, None]
            entering = level[:, :, 1:].transpose(1, 2).reshape(batch, patches * frames, width)
            x_BSD = x_BSD + torch.cat([cls_B1D, entering], 1)
        block = self.temporal[k]
        patch_rows = x_BSD[:, 1:].reshape(batch * patches, frames, width)
        normed = block.norm(patch_rows)
        mixed = block.attn(normed, normed, normed, need_weights=False)[0]
        moved = (patch_rows + block.out(mixed)).reshape(batch, patches * frames, width)
        x_BSD = torch.cat([x_BSD[:, :1], moved], 1)
        spatial = self.spatial[k]
        rows = x_BSD[:, 1:].reshape(batch, patches, frames, width).transpose(1, 2).reshape(-1, patches, width)
        cls_rows = x_BSD[:, :1].repeat(1, frames, 1).reshape(batch * frames, 1, width)
        r = tower.attend(spatial.block, torch.cat([cls_rows, rows], 1))
        r_cls = r[:, 0].reshape(batch, frames, width).mean(1, keepdim=True)
        r_rows = r[:, 1:].reshape(batch, frames, patches, width).transpose(1, 2).reshape(batch, -1, width)
        x_BSD = x_BSD + torch.cat([r_cls, r_rows], 1)
        x_BSD = x_BSD + tower.feed_forward(spatial.block, x_BSD)
    return x_BSD[:, 0]


def modules(model: str, batch: int, steps: int, every: bool) -> None:
    source = synthetic_clips(2 * batch)
    arms: dict[str, dict[str, Any]] = {
        "mean": {},
        "stan": {"temporal": STAN},
        "stan, released layout": {"temporal": STAN},
    }
    if every:
        arms["stan + mug + acg + fcc"] = WHOLE
    cfgs = {name: config(model, batch, steps, **changes) for name, changes in arms.items()}
    print(f"{model}, batch {batch}, 8 frames, {torch.get_num_threads()} threads, fp32, all layers learn")
    flops = {name: flop(cfg, source) for name, cfg in cfgs.items()}
    times = {}
    for name, cfg in cfgs.items():
        other: Callable[..., Any] = patch_major if "released" in name else Stan.branch
        with mock.patch.object(Stan, "branch", other):
            times[name] = step_s(cfg, source)
    print(
        f"{'module':<26}{'s a step':>10}{'waiting':>9}{'TFLOP':>8}{'GFLOP/s':>9}{'to mean':>9}{'FLOP':>10}{'off by':>8}"
    )
    for name, (seconds, waited, _) in times.items():
        ratio, flop_ratio = seconds / times["mean"][0], flops[name] / flops["mean"]
        print(
            f"{name:<26}{seconds:>10.2f}{waited / seconds:>8.1%}{flops[name] / 1e12:>9.2f}"
            f"{flops[name] / seconds / 1e9:>9.0f}{ratio:>8.2f}x{flop_ratio:>9.2f}x{ratio / flop_ratio:>7.2f}x"
        )
    stan_s = times["stan"][0]
    print(f"the released layout takes {times['stan, released layout'][0] / stan_s:.2f}x the time of ours\n")


def caches(model: str, batch: int, steps: int) -> None:
    source = synthetic_clips(2 * batch)
    frozen = {"temporal": STAN, "train_vision_layers": 0, "train_text": False}
    arms = {
        "frozen, cache": frozen | {"cache": "levels"},
        "frozen, no cache": frozen,
        "all layers learn": {"temporal": STAN},
    }
    cfgs = {name: config(model, batch, steps, **changes) for name, changes in arms.items()}
    times = {name: step_s(cfg, source) for name, cfg in cfgs.items()}
    flops = {name: flop(cfg, source) for name, cfg in cfgs.items() if name != "frozen, cache"}
    print(f"{model}, STAN, batch {batch}: seconds a step (of it waiting)")
    cached_s = times["frozen, cache"][0]
    for name, (seconds, waited, once) in times.items():
        goal = {"frozen, no cache": " (goal 1.45x)", "all layers learn": " (goal 2.4x)"}.get(name, "")
        counted = f", {flops[name] / 1e12:.2f} TFLOP" if name in flops else ""
        print(f"{name:<20}{seconds:>7.2f} ({waited / seconds:.1%}){counted}; once {once:.1f} s", end="; ")
        print(f"the cache is {seconds / cached_s:.2f}x as fast{goal}")
    print()


def loader(data: Path) -> None:
    from inputs import import_corpus, loading

    from m2raap.core.engine import LocalEngine
    from m2raap.pipeline.recipe import arms_of, load_recipe
    from m2raap.pipeline.run import Options, run
    from m2raap.pipeline.run_folder import Inputs, RunFolder

    recipe = load_recipe("inputs", ["stages=[keyframes, adapt]", "adapt.batch_size=8"])
    with tempfile.TemporaryDirectory() as scratch:
        corpus, out = Path(scratch) / "C", Path(scratch) / "R"
        import_corpus(data, corpus)
        inputs = Inputs(corpus, {}, None)
        engine = LocalEngine(available_cores())
        try:
            run(recipe, inputs, out, engine, Options(last="keyframes"))
        finally:
            engine.close()
        folder = next(s.folder for s in RunFolder.open(out).steps if (s.arm, s.stage) == ("keyframes", "keyframes"))
        raw_s, stored_s, clips = loading(arms_of(recipe)["keyframes"], inputs.view(recipe.langs).over(folder))
    print(f"{clips} real clips, 8 frames, short side 256, {available_cores()} cores, reading alone, clips a second:")
    print(
        f"raw video {clips / raw_s:.1f}, key-frames from parquet {clips / stored_s:.1f}: {raw_s / stored_s:.1f}x (goal 8x)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["ViT-B-32", "ViT-B-16"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of every arm; the first is left out")
    parser.add_argument("--data", type=Path, default=SHARED)
    args = parser.parse_args()
    torch.set_num_threads(available_cores())
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}))
    for model in args.models:
        small = "16" in model
        modules(model, 2 if small else args.batch, args.steps, every=not small)
    if args.models:
        caches(args.models[0], args.batch, args.steps)
    if args.data.is_dir():
        loader(args.data)
    else:
        print(f"{args.data}: no such folder, so loading is not measured; give --data DIR")


if __name__ == "__main__":
    main()
