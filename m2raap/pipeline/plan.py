"""The plan of a run: which stage folders each arm needs. Arms share the folder of a stage whose inputs and settings agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2raap.core.config import digest
from m2raap.core.stage import DataStage, SingleStage, Stage
from m2raap.pipeline.recipe import Recipe, arms_of
from m2raap.stages import stage_class


@dataclass(frozen=True)
class Step:
    """One stage of one arm. `key` is the digest of its inputs and settings: arms share the folder of an equal key.

    `owner` is the first arm that needs the folder, which lies in its folder, or where an earlier run of the recipe put it.
    """

    arm: str
    owner: str
    stage: str
    bench: str | None
    folder: Path
    parents: tuple[Path, ...]  # the folders before it that it reads, oldest first
    model: Path | None = None  # the folder of the training whose model the step reads, if any
    key: str = ""
    signals: Path | None = None  # the adapt folder whose signals the step reads as scores, if any

    def is_of(self, cls: type[Stage[Any]]) -> bool:
        """Whether the step is of this class of stages, such as DataStage or EvaluateStage."""
        return issubclass(stage_class(self.stage), cls)


def plan(
    recipe: Recipe,
    out: Path,
    corpus_digest: str,
    bench_digests: dict[str, str],
    earlier: Mapping[str, Path] | None = None,
) -> list[Step]:
    """Every step of every arm, in the order in which they run. `bench_digests`: benchmark -> digest of its corpus.

    `earlier`: key -> folder of the steps that a run in `out` already has. They are used again wherever the recipe now lists
    the arm, so that another order of arms, or an arm that came or went, makes no folder anew.
    """
    return list(_Planner(recipe, out, corpus_digest, bench_digests, earlier or {}).steps())


@dataclass(frozen=True)
class _Need:
    """One stage of one arm, before it has a folder. `reads`: the keys of the folders before it; `model`: of the model, `signals`:
    of the training whose signals it reads."""

    arm: str
    stage: str
    bench: str | None
    key: str
    reads: tuple[str, ...]
    model: str | None = None
    signals: str | None = None


class _Planner:
    def __init__(
        self, recipe: Recipe, out: Path, corpus_digest: str, bench_digests: dict[str, str], earlier: Mapping[str, Path]
    ) -> None:
        self._arms = arms_of(recipe)
        self._has_arm_folders = len(self._arms) > 1 or bool(recipe.arms)
        self._out = out
        self._corpus_digest, self._bench_digests = corpus_digest, bench_digests
        self._needs = list(self._all_needs())
        first: dict[str, _Need] = {}
        for need in self._needs:
            first.setdefault(need.key, need)
        self._owners = {key: need.arm for key, need in first.items()}
        places = {key: self._place(need) for key, need in first.items()}
        key_of = {folder: key for key, folder in places.items()}
        # A folder of before is left to the step whose place it is now: two steps never share one.
        kept = {key: folder for key, folder in earlier.items() if key_of.get(folder, key) == key}
        self._folders = {key: kept.get(key, place) for key, place in places.items()}

    def steps(self) -> Iterator[Step]:
        for need in self._needs:
            parents = tuple(self._folders[key] for key in need.reads)
            model = self._folders[need.model] if need.model else None
            signals = self._folders[need.signals] if need.signals else None
            owner, folder = self._owners[need.key], self._folders[need.key]
            yield Step(need.arm, owner, need.stage, need.bench, folder, parents, model, need.key, signals)

    def _all_needs(self) -> Iterator[_Need]:
        signals_of: dict[str, str] = {}  # arm -> key of its last training that writes signals
        for arm, recipe in self._arms.items():
            key = digest([self._corpus_digest, recipe.langs])
            reads: tuple[str, ...] = ()
            model_key, model = digest(recipe.backbone), None
            for name in recipe.stages:
                stage = recipe.stage(name)
                is_data = isinstance(stage, DataStage)
                signals = (
                    signals_of[recipe.signals_of] if recipe.signals_of and is_data and stage.reads_scores else None
                )
                key = digest([key, name, stage.settings(), *([signals] if signals else [])])
                yield _Need(arm, name, None, key, reads, None if is_data else model, signals)
                if is_data:
                    reads = (*reads, key)
                else:
                    model_key = model = key
                    if isinstance(stage, SingleStage) and stage.writes_signals:
                        signals_of[arm] = key
            for bench, bench_digest in self._bench_digests.items():
                yield from self._bench_needs(arm, recipe, bench, bench_digest, model_key, model)

    def _bench_needs(
        self, arm: str, recipe: Recipe, bench: str, bench_digest: str, model_key: str, model: str | None
    ) -> Iterator[_Need]:
        key = digest([bench_digest, recipe.langs])
        reads: tuple[str, ...] = ()
        for name in recipe.bench_stages:
            stage = recipe.stage(name, bench=True)
            is_data = isinstance(stage, DataStage)
            # Data stages do not read the model; the first stage after them does.
            key = digest([key, name, stage.settings(), *([] if is_data else [model_key])])
            yield _Need(arm, name, bench, key, reads, None if is_data else model)
            # The stage after `embed` reads its folder alone.
            reads = (*reads, key) if is_data else (key,)

    def _place(self, need: _Need) -> Path:
        base = self._out / need.arm if self._has_arm_folders else self._out
        return (base / f"bench-{need.bench}" if need.bench else base) / need.stage
