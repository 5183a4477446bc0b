"""The plan of a run: which stage folders each arm needs. Arms share the folder of a stage whose inputs and settings agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core.config import digest
from m2raap.core.stage import DataStage, Stage
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.stages import stage_class


@dataclass(frozen=True)
class Step:
    """One stage of one arm. `owner` is the first arm that needs the stage folder, which therefore lies in its folder."""

    arm: str
    owner: str
    stage: str
    bench: str | None
    folder: Path
    parents: tuple[Path, ...]  # the folders before it that it reads, oldest first
    model: Path | None = None  # the adapt folder whose model the step reads, if any

    def is_of(self, cls: type[Stage[Any]]) -> bool:
        """Whether the step is of this class of stages, such as DataStage or EvaluateStage."""
        return issubclass(stage_class(self.stage), cls)


def plan(recipe: Recipe, out: Path, corpus_digest: str, bench_digests: dict[str, str]) -> list[Step]:
    """Every step of every arm, in the order in which they run. `bench_digests`: benchmark -> digest of its corpus."""
    return list(_Planner(recipe, out).steps(corpus_digest, bench_digests))


class _Planner:
    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._arms = arms_of(recipe)
        self._has_arm_folders = len(self._arms) > 1 or bool(recipe.arms)
        self._out = out
        # Digest of inputs and settings -> arm that owns the folder, folder.
        self._owned: dict[str, tuple[str, Path]] = {}

    def steps(self, corpus_digest: str, bench_digests: dict[str, str]) -> Iterator[Step]:
        for arm, recipe in self._arms.items():
            key = digest([corpus_digest, recipe.langs])
            parents: tuple[Path, ...] = ()
            model_key, model = digest(recipe.backbone), None
            for name in recipe.stages:
                stage = recipe.stage(name)
                key = digest([key, name, stage.settings()])
                step = self._step(arm, name, None, key, parents)
                if isinstance(stage, DataStage):
                    parents = (*parents, step.folder)
                else:
                    model_key, model = key, step.folder
                yield step
            for bench, bench_digest in bench_digests.items():
                yield from self._bench_steps(arm, recipe, bench, bench_digest, model_key, model)

    def _bench_steps(
        self, arm: str, recipe: Recipe, bench: str, bench_digest: str, model_key: str, model: Path | None
    ) -> Iterator[Step]:
        key = digest([bench_digest, recipe.langs])
        parents: tuple[Path, ...] = ()
        for name in recipe.bench_stages:
            stage = recipe.stage(name, bench=True)
            is_data = isinstance(stage, DataStage)
            # Data stages do not read the model; the first stage after them does.
            key = digest([key, name, stage.settings(), *([] if is_data else [model_key])])
            step = self._step(arm, name, bench, key, parents, None if is_data else model)
            # The stage after `embed` reads its folder alone.
            parents = (*parents, step.folder) if is_data else (step.folder,)
            yield step

    def _step(
        self,
        arm: str,
        stage: str,
        bench: str | None,
        key: str,
        parents: tuple[Path, ...],
        model: Path | None = None,
    ) -> Step:
        base = self._out / arm if self._has_arm_folders else self._out
        folder = (base / f"bench-{bench}" if bench else base) / stage
        owner, folder = self._owned.setdefault(key, (arm, folder))
        return Step(arm, owner, stage, bench, folder, parents, model)
