"""The runs that `compare` compares: evaluate folders, one for each benchmark and training seed, under a name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.pipeline.recipe import base_arm
from m2raap.pipeline.run_folder import RunFolder
from m2raap.report.protocols import read_protocol
from m2raap.stages.evaluate import EvaluateStage


@dataclass(frozen=True)
class Contender:
    """One run, arm or evaluate folder. `folders`: benchmark -> evaluate folders, one for each training seed. `name`: the last
    of `parts`, which are the parts of its path.
    """

    name: str
    folders: dict[str, list[Path]]
    parts: tuple[str, ...] = ()

    def protocols(self, bench: str) -> list[dict[str, Any]]:
        """The protocol of each training seed. Raises M2raapError for a folder whose results.json has none."""
        return [_protocol(folder) for folder in self.folders[bench]]


def _protocol(folder: Path) -> dict[str, Any]:
    protocol = read_protocol(folder)
    if protocol is None:
        raise M2raapError(f"{folder}: an older m2raap wrote results.json, without a protocol; evaluate again")
    return protocol


def open_contenders(paths: Sequence[Path]) -> list[Contender]:
    """Opens each path. Its name is the shortest end of the path that no other one has: A/evaluate, B/evaluate."""
    sides = [open_contender(path) for path in paths]
    while True:
        places: dict[str, set[tuple[str, ...]]] = {}
        for side in sides:
            places.setdefault(side.name, set()).add(side.parts)
        if all(len(paths_of_name) == 1 for paths_of_name in places.values()):
            return sides
        sides = [_longer(side) if len(places[side.name]) > 1 else side for side in sides]


def _longer(side: Contender) -> Contender:
    return replace(side, name="/".join(side.parts[-2 - side.name.count("/") :]))


def open_contender(path: Path) -> Contender:
    """Opens a run (of which it takes the last arm), the folder of one arm in a run, or an evaluate folder.

    Raises M2raapError where there is none, or it is not finished.
    """
    parts = Path(os.path.abspath(path)).parts[1:]  # as it was typed: links are not followed
    if (path / "results.json").exists() and (path / "manifest.json").exists():
        return Contender(parts[-1], {_protocol(path)["name"]: [path]}, parts)
    run_path = path if (path / "run.json").exists() else path.parent
    if not (run_path / "run.json").exists():
        raise M2raapError(
            f"{path}: neither a run, nor an arm's folder in a run, nor a finished evaluate folder; give one of these"
        )
    run = RunFolder.open(run_path)
    arms = list(dict.fromkeys(base_arm(arm) for arm in run.arms()))
    arm = arms[-1] if run_path == path else path.name
    if arm not in arms:
        raise M2raapError(f"{path}: the run has no arm '{arm}'; its arms are {', '.join(arms)}")
    folders: dict[str, list[Path]] = {}
    for step in run.steps:
        if step.is_of(EvaluateStage) and base_arm(step.arm) == arm:
            if not (step.folder / "manifest.json").exists():
                raise M2raapError(f"{step.folder}: not finished; run the same 'm2raap run' again, it resumes")
            folders.setdefault(step.bench or "", []).append(step.folder)
    if not folders:
        raise M2raapError(f"{path}: the run has no benchmark; give one with --bench")
    parts = Path(os.path.abspath(run_path)).parts[1:]
    if len(arms) > 1:
        return Contender(f"{parts[-1]}/{arm}", folders, (*parts, arm))
    return Contender(parts[-1], folders, parts)
