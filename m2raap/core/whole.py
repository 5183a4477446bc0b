"""Runs a stage that takes its input whole: adapt, embed, evaluate, report. Long work of such a stage resumes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2raap.core import talk
from m2raap.core.files import file_sha256
from m2raap.core.folder import begin, finish, log_timing, plan_digest, plan_of, refuse_changed, refuse_redone
from m2raap.core.lock import locked
from m2raap.core.view import View


@dataclass(frozen=True)
class StageOutput:
    """The output of a stage that takes its input whole: files for its manifest (below the folder), counts, digests of models."""

    files: list[str]
    counts: dict[str, Any] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)


def run_single_stage(
    name: str,
    version: int,
    settings: dict[str, Any],
    folder: Path,
    work: Callable[[Path], StageOutput],
    *,
    view: View | None = None,
    inputs: dict[str, str] | None = None,
    force: bool = False,
) -> None:
    """Brings `folder` to its finished state.

    Raises M2raapError when it was made from other inputs or settings, or another command is writing to it.
    """
    with locked(folder):
        if begin(folder, plan_of(name, version, view, settings, inputs), view, force):
            talk.log(f"{talk.title(folder, name)}: already finished")
            return
        plan = plan_digest(folder)
        start = time.monotonic()
        output = work(folder)
        log_timing(folder, name, time.monotonic() - start)
        files = {file: file_sha256(folder / file) for file in output.files}
        refuse_redone(folder, plan)
        refuse_changed(folder, view, inputs)
        finish(folder, name, version, view, settings, files, output.counts, inputs, output.models)
