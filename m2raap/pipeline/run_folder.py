"""A run on disk: its inputs, the folders of its steps, and `run.json`, which lists both. No stage reads run.json."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from m2raap import stages
from m2raap.core.config import Config, build
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import UNREADABLE, M2raapError, UsageError
from m2raap.core.files import inside, read_object, write_json
from m2raap.core.occupied import refuse_occupied
from m2raap.core.tables import read_all
from m2raap.core.view import View, changed_since
from m2raap.pipeline.plan import Step
from m2raap.pipeline.recipe import Recipe
from m2raap.stages import stage_class

INTERPOLATION = "interpolation.json"  # written by `model interpolate --run`, shown in the report


@dataclass(frozen=True)
class Inputs:
    """The corpora of a run: `data` is the training corpus, `benches` maps names to benchmarks. `scores`: parquet files."""

    data: Path
    benches: dict[str, Path] = field(default_factory=dict)
    limit: int | None = None
    scores: tuple[Path, ...] = ()

    @property
    def corpora(self) -> dict[str, Path]:
        """Every corpus by the name of its benchmark; the training corpus has the name ''."""
        return {"": self.data, **self.benches}

    def view(self, langs: tuple[str, ...]) -> View:
        view = View(self.data, langs=langs).limited(self.limit)
        if view.is_benchmark:
            raise M2raapError(
                f"{self.data}: this is the benchmark '{view.corpus.benchmark}'; give it as --bench instead of --data"
            )
        return view

    def bench(self, name: str, langs: tuple[str, ...]) -> View:
        view = View(self.benches[name], langs=langs)
        if not view.is_benchmark:
            raise M2raapError(
                f"{self.benches[name]}: this is a training corpus, and --bench needs a benchmark; 'm2raap data import ... "
                "--holdout N' makes one"
            )
        return view


def earlier_folders(out: Path) -> dict[str, Path]:
    """Key -> folder of every step that the run in `out` has begun, if there is one. Raises M2raapError for a damaged run.json."""
    if not (out / "run.json").exists():
        return {}
    # As `out` was given, like the other paths of a plan.
    return {step.key: step.folder for step in RunFolder.open(out).steps if step.key and step.folder.is_dir()}


def write_run(recipe: Recipe, inputs: Inputs, out: Path, steps: list[Step]) -> None:
    """Writes run.json, the map of the run, for `status`, `explain` and `report`."""
    out_path = out.resolve()
    write_json(
        out / "run.json",
        {
            "kind": "run",
            "recipe": recipe.model_dump(mode="json", exclude_unset=True),
            "data": os.path.relpath(inputs.data.resolve(), out_path),
            "digests": {name: open_corpus(path).digest for name, path in inputs.corpora.items()},
            "benches": {name: os.path.relpath(path.resolve(), out_path) for name, path in inputs.benches.items()},
            "limit": inputs.limit,
            "scores": [os.path.relpath(path.resolve(), out_path) for path in inputs.scores],
            "steps": [
                {
                    "arm": step.arm,
                    "owner": step.owner,
                    "stage": step.stage,
                    "bench": step.bench,
                    "folder": os.path.relpath(step.folder, out),
                    "parents": [os.path.relpath(parent, out) for parent in step.parents],
                    "model": step.model and os.path.relpath(step.model, out),
                    "key": step.key,
                    **({"signals": os.path.relpath(step.signals, out)} if step.signals else {}),
                }
                for step in steps
            ],
        },
        sort_keys=False,  # the order of a recipe's arms is the order of its tables
    )


def refuse_other_run(recipe: Recipe, out: Path, force: bool) -> None:
    """Raises M2raapError where `out` holds the run of a recipe of another name, whose map would be lost, unless `force`, or a
    damaged run.json, and where it is no folder for runs."""
    refuse_occupied(out)
    if force or not (out / "run.json").exists():
        return
    name = RunFolder.open(out).tree["recipe"].get("name")
    if name not in (None, recipe.name):
        raise M2raapError(
            f"{out}: holds a run of the recipe '{name}', and this is the recipe '{recipe.name}'; give another --out, or --force "
            "to make it a run of this recipe (stage folders with equal inputs and settings are kept)"
        )


class _MapStep(Config):
    arm: str
    owner: str
    stage: str
    bench: str | None
    folder: str
    parents: tuple[str, ...]
    model: str | None
    key: str = ""  # runs of earlier versions have none
    signals: str | None = None

    @field_validator("stage")
    @classmethod
    def _known(cls, stage: str) -> str:
        if stage not in stages.STAGES:
            raise ValueError(f"this version of m2raap has no stage '{stage}'")
        return stage


class _Map(Config):
    """The keys of run.json as `write_run` writes them."""

    kind: Literal["run"]
    recipe: dict[str, Any]
    data: str
    digests: dict[str, str]  # of the corpora, by the name of the benchmark, '' for `data`
    benches: dict[str, str]
    limit: int | None
    scores: tuple[str, ...]
    steps: tuple[_MapStep, ...]


@dataclass(frozen=True)
class RunFolder:
    """A run as it lies on disk."""

    path: Path
    tree: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in the folder. Raises M2raapError where there is none, or where its run.json is damaged."""
        if not (path / "run.json").exists():
            what = "holds no run (no run.json)" if path.is_dir() else "no such folder"
            raise M2raapError(f"{path}: {what}; give the --out of 'm2raap run', or --verify for a stage or a corpus")
        tree = read_object(path / "run.json")
        try:
            build(_Map, tree, str(path / "run.json"))
        except UsageError as error:
            raise M2raapError(
                f"{error}: the file is damaged, or was written by another program or another version of m2raap; delete it, and "
                "the same 'm2raap run' writes it again and keeps the finished stages"
            ) from None
        return cls(path, tree)

    def resolve(self, relative: str) -> Path:
        return Path(os.path.normpath(self.path.resolve() / relative))

    @cached_property
    def inputs(self) -> Inputs:
        """The corpora of the run. Raises M2raapError where one is not there or has another digest than in run.json, which may
        come from somebody else and so could name any corpus on this machine."""
        benches = {name: self.resolve(path) for name, path in self.tree["benches"].items()}
        scores = tuple(map(self.resolve, self.tree["scores"]))
        inputs = Inputs(self.resolve(self.tree["data"]), benches, self.tree["limit"], scores)
        for name, corpus in inputs.corpora.items():
            recorded = self.tree["digests"].get(name, "")
            if not (corpus / "manifest.json").exists() or open_corpus(corpus).digest != recorded:
                raise M2raapError(
                    f"{self.path}: reads the corpus {corpus}, {changed_since(corpus, {'corpus': recorded})}"
                )
        return inputs

    @property
    def steps(self) -> list[Step]:
        return [
            Step(
                row["arm"], row["owner"], row["stage"], row["bench"], inside(self.path, row["folder"]),
                tuple(inside(self.path, parent) for parent in row["parents"]),
                row["model"] and inside(self.path, row["model"]),
                row.get("key", ""),
                row.get("signals") and inside(self.path, row["signals"]),
            )
            for row in self.tree["steps"]
        ]  # fmt: skip

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe in run.json. Raises UsageError where this version of m2raap cannot read it."""
        return build(Recipe, self.tree["recipe"], str(self.path / "run.json"))

    def arms(self) -> list[str]:
        return list(dict.fromkeys(row["arm"] for row in self.tree["steps"]))


def unreadable_share(run: RunFolder) -> tuple[int, int]:
    """(clips that could not be read, all clips) of the training corpus and the benchmarks, each clip counted once."""
    unreadable: set[tuple[str | None, str]] = set()
    total = View(run.inputs.data).corpus.counts["clips"] if run.inputs.limit is None else run.inputs.limit
    total += sum(View(path).corpus.counts["clips"] for path in run.inputs.benches.values())
    for step in {step.folder: step for step in run.steps if stage_class(step.stage).reads_video}.values():
        for table in ("dropped", "missing"):
            for row in read_all(step.folder, table):
                if row["reason"] in UNREADABLE:
                    unreadable.add((step.bench, row["clip_id"]))
    return len(unreadable), total
