"""Which stage folder every arm needs. Arms whose inputs and settings agree share one: the first arm that needs it owns it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m2raap.core.config import digest
from m2raap.core.stage import DataStage, Settings
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.stages.align import AlignStage
from m2raap.stages.caption import CaptionStage
from m2raap.stages.filter import FilterStage
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.rewrite import RewriteStage

DATA_STAGE: dict[str, DataStage] = {
    stage.name: stage for stage in (FilterStage(), KeyframesStage(), AlignStage(), CaptionStage(), RewriteStage())
}


def settings_of(recipe: Recipe, stage: str, *, bench: bool = False) -> Settings:
    """What the recipe asks of a data stage, on its training corpus or on a benchmark."""
    if stage == "keyframes" and bench and recipe.bench_keyframes:
        return recipe.bench_keyframes.settings()
    if stage == "align":
        return recipe.align.settings(recipe.backbone)
    if stage == "caption":
        return recipe.caption.settings(recipe.backbone, recipe.langs)
    if stage == "rewrite":
        return recipe.rewrite.settings(recipe.backbone, recipe.langs)
    return {"filter": recipe.filter, "keyframes": recipe.keyframes}[stage].settings()


@dataclass(frozen=True)
class Step:
    """One stage of one arm; `owner` is the arm in whose folder it lies."""

    arm: str
    owner: str
    stage: str
    bench: str | None
    folder: Path
    parents: tuple[Path, ...]  # data stages below it, oldest first; of embed also the adapt folder, if any


def plan(recipe: Recipe, out: Path, corpus_digest: str, bench_digests: dict[str, str]) -> list[Step]:
    """Every step of every arm, in the order of work."""
    return list(_Planner(recipe, out).steps(corpus_digest, bench_digests))


class _Planner:
    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._arms = arms_of(recipe)
        self._several = len(self._arms) > 1 or bool(recipe.arms)
        self._out = out
        self._owned: dict[str, tuple[str, Path]] = {}

    def steps(self, corpus_digest: str, bench_digests: dict[str, str]) -> Iterator[Step]:
        for arm, recipe in self._arms.items():
            key = digest([corpus_digest, recipe.langs])
            parents: tuple[Path, ...] = ()
            for stage in recipe.stages:
                settings = recipe.adapt_settings if stage == "adapt" else settings_of(recipe, stage).both
                key = digest([key, stage, settings])
                step = self._step(arm, stage, None, key, parents)
                parents = (*parents, step.folder)
                yield step
            model_key, model = (key, parents[-1:]) if "adapt" in recipe.stages else (digest(recipe.backbone), ())
            for bench, bench_digest in bench_digests.items():
                yield from self._bench_steps(arm, recipe, bench, bench_digest, model_key, model)

    def _bench_steps(
        self, arm: str, recipe: Recipe, bench: str, bench_digest: str, model_key: str, model: tuple[Path, ...]
    ) -> Iterator[Step]:
        key = digest([bench_digest, recipe.langs, settings_of(recipe, "keyframes", bench=True).both])
        frames = self._step(arm, "keyframes", bench, key, ())
        yield frames
        parents: tuple[Path, ...] = (frames.folder,)
        if recipe.embed.captions:
            caption = settings_of(recipe, "caption").both
            key = digest([key, "caption", caption])
            captions = self._step(arm, "caption", bench, key, parents)
            parents = (*parents, captions.folder)
            yield captions
        embed_key = digest([key, model_key, recipe.embed])
        embedded = self._step(arm, "embed", bench, embed_key, (*parents, *model))
        yield embedded
        evaluate_key = digest([embed_key, "evaluate", recipe.seed, recipe.evaluate])
        yield self._step(arm, "evaluate", bench, evaluate_key, (embedded.folder,))

    def _step(self, arm: str, stage: str, bench: str | None, key: str, parents: tuple[Path, ...]) -> Step:
        base = self._out / arm if self._several else self._out
        folder = (base / f"bench-{bench}" if bench else base) / stage
        owner, folder = self._owned.setdefault(key, (arm, folder))
        return Step(arm, owner, stage, bench, folder, parents)
