"""Claim: the rule that chooses a checkpoint does not lose test R@1 to other rules, and moves less from seed to seed.

Trains one arm once per seed on one curated corpus. At every validation the scores of the val clips and R@1 on the test clips
(text to video, one text per clip and language) are noted, and at the end those of the averaged weights, so that all rules
are compared on the same trainings. Prints per rule the mean, SD and range over seeds of test R@1, its difference to the last
checkpoint with the standard error over seeds, and the steps that the rule kept. The row 'best on test' is no rule: it is
what a perfect choice would reach.

    python bench/selection.py [--run R [--bench NAME]] [--recipe demo] [--arm m2raap] [--seeds 5] [--set a.b=c ...] [--out FILE]

R: a run of `m2raap run RECIPE ... --out R --until rewrite` or a later stage; it is read only, and --set changes keys of
its recipe below adapt. Without --run a small world is made and curated; its numbers are for trying this out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from m2raap.adapt import loop
from m2raap.adapt.captions import caption_table
from m2raap.adapt.checkpoint import Progress
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.keep import note_scores
from m2raap.adapt.pixels import Decoding, JpegFrames
from m2raap.adapt.state import Split, TrainState
from m2raap.adapt.texts import text_table
from m2raap.adapt.validate import ValScores, validate
from m2raap.core.config import build, parse_assignments, set_keys
from m2raap.core.engine import LocalEngine, available_cores, torch_threads
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json
from m2raap.core.split import read_split
from m2raap.core.stage import DataStage
from m2raap.core.videos import VideoDigests
from m2raap.models.interaction.phrases import token_spans
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.outlook import view_of
from m2raap.pipeline.recipe import Recipe, arms_of, load_recipe
from m2raap.pipeline.run import Options, make_plan, run
from m2raap.pipeline.run_folder import Inputs, RunFolder
from m2raap.stages.adapt import AdaptStage
from m2raap.stages.source import ViewSource, drawn

SMALL_WORLD = ("train_clips=240", "val_clips=48", "test_clips=60")
SMALL_STEPS = ["adapt.steps=40", "adapt.val_every_steps=8"]


@dataclass
class Point:
    """A validation of a training: scores of the val clips and R@1 on the test clips in percent, by language."""

    step: int
    val: ValScores
    test_r1: dict[str, float]


@dataclass
class Watch:
    """Takes the place of the loop's `validate`, and scores the test clips too. `steps`: of the validations, then the average."""

    cfg: AdaptConfig
    test: ViewSource
    steps: list[int]
    points: list[Point] = field(default_factory=list)
    split: Split | None = None

    def __call__(self, model: VideoCLIP, val: Split, by_interaction: bool, dist_context: DistContext) -> ValScores:
        if self.split is None:
            self.split = self._test_split(model, by_interaction)
        scores, of_test = (validate(model, split, by_interaction) for split in (val, self.split))
        r1 = {name.removesuffix("_t2v_r1"): 100 * v for name, v in of_test.numbers.items() if name.endswith("_t2v_r1")}
        self.points.append(Point(self.steps[len(self.points)], scores, r1))
        return scores

    def _test_split(self, model: VideoCLIP, by_interaction: bool) -> Split:
        cfg, source = self.cfg, self.test
        needs = model.interaction.needs if by_interaction and model.interaction is not None else frozenset()
        tokenize = partial(model.backbone.tokenize, text_length=cfg.text_length)
        frames = JpegFrames(source, model.backbone.preprocess, cfg.num_frames, Decoding())
        texts = text_table(source, model.backbone.tokenizer, cfg.langs, {}, {}, cfg.text_length)
        reads_captions = cfg.acg is not None or "captions" in needs
        captions = caption_table(source, model, cfg.num_frames, text_length=cfg.text_length) if reads_captions else None
        spans = token_spans(list(texts.texts), tokenize) if "phrases" in needs else None
        return Split(source.num_clips, frames, texts, captions, None, spans)


def small_run(recipe: Recipe, scratch: Path) -> tuple[Inputs, Path]:
    """A small world and its curated run."""
    words = ["data", "import", "world", "--out", str(scratch / "W")]
    words += [word for item in SMALL_WORLD for word in ("--set", item)]
    subprocess.run([sys.executable, "-m", "m2raap.cli.main", *words], check=True, stdout=subprocess.DEVNULL)
    inputs = Inputs(scratch / "W" / "train", {"motion": scratch / "W" / "test"})
    engine = LocalEngine(available_cores())
    try:
        run(recipe, inputs, scratch / "R", engine, Options(last="rewrite"))
    finally:
        engine.close()
    return inputs, scratch / "R"


def sources(
    recipe: Recipe, inputs: Inputs, out: Path, arm: str, bench: str
) -> tuple[AdaptConfig, ViewSource, ViewSource, ViewSource]:
    """The settings of an arm's training, and its training, val and test clips. Raises M2raapError where any are absent."""
    of_arm = arms_of(recipe)[arm]
    steps = [step for step in make_plan(recipe, inputs, out) if step.arm == arm]
    training = next((step for step in steps if step.is_of(AdaptStage)), None)
    stage = of_arm.stage("adapt")
    if training is None or not isinstance(stage, AdaptStage):
        raise M2raapError(f"{out}: the arm '{arm}' trains nothing; name another --arm")
    bench_data = [step.folder for step in steps if step.bench == bench and step.is_of(DataStage)]
    test_view = inputs.bench(bench, of_arm.langs)
    for folder in bench_data:
        test_view = test_view.over(folder)
    view, limits = view_of(training, of_arm, inputs), stage.shared.decode
    digests = VideoDigests(out / "unused")
    cfg = stage.cfg
    tables = read_split(view, "train")
    if cfg.train_clips:
        tables = drawn(tables, cfg.train_clips, cfg.seed)
    train, val = (ViewSource(view, split, limits, digests, rows) for split, rows in (("train", tables), ("val", None)))
    test = ViewSource(test_view, "test", limits, digests)
    for name, source in (("train", train), ("val", val), ("test", test)):
        if not source.num_clips:
            raise M2raapError(f"{out}: no clip of the split {name} has frames and texts")
    return cfg, train, val, test


def training(
    cfg: AdaptConfig, train: ViewSource, val: ViewSource, test: ViewSource, seed: int, caches: Path
) -> list[Point]:
    """The validations of one training, and last the average."""
    cfg = cfg.model_copy(update={"seed": seed, "keep": "average"})
    watch: list[Watch] = []

    def report(what: str, done: int, total: int) -> None:
        print(f"\rseed {seed}: {what}, {done} of {total}", end="", file=sys.stderr, flush=True)

    def watched(model: VideoCLIP, split: Split, by_interaction: bool, dist_context: DistContext) -> ValScores:
        return watch[0](model, split, by_interaction, dist_context)

    real = loop.prepare

    def prepared(*args: Any) -> TrainState:
        state = real(*args)
        due = [step for step in range(state.steps + 1) if step % cfg.val_every_steps == 0 or step == state.steps]
        watch.append(Watch(cfg, test, [*due, state.steps]))
        return state

    with (
        tempfile.TemporaryDirectory() as out,
        mock.patch.object(loop, "validate", watched),
        mock.patch.object(loop, "prepare", prepared),
    ):
        loop.adapt(cfg, train, val, Path(out), report, caches=caches)
    print(file=sys.stderr)
    return watch[0].points


def first_highest(key: Callable[[Point], float]) -> Callable[[list[Point]], Point]:
    return lambda points: max(points, key=lambda point: (key(point), -point.step))


def within_one_error(keep_by: str) -> Callable[[list[Point]], Point]:
    """The rule of adapt.keep=best."""

    def rule(points: list[Point]) -> Point:
        progress = Progress()
        for progress.step, point in enumerate(points):
            note_scores(progress, point.val, keep_by)
        return points[progress.best_step]

    return rule


def mean_t2v_r1(point: Point) -> float:
    return statistics.fmean(value for name, value in point.val.numbers.items() if name.endswith("_t2v_r1"))


# Each takes the validations of checkpoints, in the order of steps.
RULES: dict[str, Callable[[list[Point]], Point]] = {
    "start": lambda points: points[0],
    "last": lambda points: points[-1],
    "t2v R@1, highest": first_highest(mean_t2v_r1),
    "R@1, highest": first_highest(lambda point: point.val.numbers["r1"]),
    "R@1, within one error": within_one_error("r1"),
    "MRR, highest": first_highest(lambda point: point.val.numbers["mrr"]),
    "MRR, within one error": within_one_error("mrr"),
    "loss, lowest": first_highest(lambda point: -point.val.numbers["loss"]),
    "loss, within one error": within_one_error("loss"),
    "best on test": first_highest(lambda point: statistics.fmean(point.test_r1.values())),
}


def kept_by_rule(points: list[Point]) -> dict[str, Point]:
    *checkpoints, average = points
    return {name: rule(checkpoints) for name, rule in RULES.items()} | {"average": average}


def spread(values: list[float]) -> str:
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):6.2f}  {sd:5.2f}  {min(values):5.1f} to {max(values):5.1f}"


def write_scores(path: Path, trainings: dict[int, list[Point]]) -> None:
    rows = []
    for seed, points in trainings.items():
        for point in points:
            head = {"seed": seed, "step": point.step, "averaged": point is points[-1]}
            rows.append(head | {"val": point.val.numbers, "test_r1": point.test_r1})
    write_json(path, {"rows": rows})


def print_rules(kept: dict[int, dict[str, Point]]) -> None:
    """`kept`: of every seed the validation that each rule keeps."""
    first = next(iter(kept.values()))
    langs = list(first["last"].test_r1)
    head = "".join(f"{f'{name}: mean    SD  range':<34}" for name in (*langs, "mean"))
    print(f"{'rule':<24}{head}to last (SE)  steps")
    for name in first:
        by_lang = [[points[name].test_r1[lang] for points in kept.values()] for lang in langs]
        means = [statistics.fmean(values) for values in zip(*by_lang, strict=True)]
        last = [statistics.fmean(points["last"].test_r1.values()) for points in kept.values()]
        leads = [mean - of_last for mean, of_last in zip(means, last, strict=True)]
        error = statistics.stdev(leads) / len(leads) ** 0.5 if len(leads) > 1 else 0.0
        cells = "".join(f"{spread(values):<34}" for values in (*by_lang, means))
        steps = ", ".join(str(points[name].step) for points in kept.values())
        print(f"{name:<24}{cells}{statistics.fmean(leads):+.2f} ({error:.2f})  {steps}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a curated run; without it a small world is made")
    parser.add_argument("--bench", help="name of the benchmark in the run; the first one by default")
    parser.add_argument("--recipe", default="demo", help="recipe of the small world")
    parser.add_argument("--arm", default="m2raap")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="assignments", help="a key, as in adapt.steps=60")
    parser.add_argument("--out", type=Path, help="a JSON file for all scores of all seeds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if args.run:
            run_folder = RunFolder.open(args.run)
            recipe, inputs, out = run_folder.recipe, run_folder.inputs, args.run
        else:
            recipe = load_recipe(args.recipe, SMALL_STEPS)
            recipe = recipe.model_copy(update={"arms": {args.arm: recipe.arms[args.arm]}, "compare": ()})
            inputs, out = small_run(recipe, scratch)
        bench = args.bench or next(iter(inputs.benches))
        cfg, train, val, test = sources(recipe, inputs, out, args.arm, bench)
        settings, _ = parse_assignments(args.assignments, "--set")
        tree = set_keys({"adapt": cfg.model_dump(mode="json")}, settings, "--set")
        cfg = build(AdaptConfig, tree["adapt"], "--set: adapt")
        torch.set_num_threads(cfg.threads or torch_threads(1))
        seeds = list(range(cfg.seed, cfg.seed + args.seeds))
        trainings = {seed: training(cfg, train, val, test, seed, scratch / "caches") for seed in seeds}
    if args.out:
        write_scores(args.out, trainings)
    print(
        f"arm {args.arm}, seeds {', '.join(map(str, seeds))} (n = {len(seeds)}); {train.num_clips} training, {val.num_clips} "
        f"val and {test.num_clips} test clips; {trainings[seeds[0]][-1].step} steps, a validation every {cfg.val_every_steps}; "
        f"average over the last {cfg.average_share:.0%}; R@1 in percent, text to video"
    )
    print_rules({seed: kept_by_rule(points) for seed, points in trainings.items()})


if __name__ == "__main__":
    try:
        main()
    except M2raapError as error:
        sys.exit(f"bench/selection.py: {error}")
