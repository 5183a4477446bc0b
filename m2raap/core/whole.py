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
    share: tuple[int, int] = (1, 1),
    work_on_share: Callable[[Path, str], bool] | None = None,
) -> bool:
    """Brings `folder` to its finished state; True when it is. False: with `share` (i, n), other shares are still missing.

    `work_on_share` does what comes before `work` and can be shared, and returns whether all of that is there; it is given the
    folder and the digest of its plan. Shares run at the same time; one that sees the work of all waits until the others have
    ended, and finishes. Raises M2raapError when the folder was made from other inputs or settings, or another command is
    writing to it.
    """
    is_shared = work_on_share is not None and share != (1, 1)
    with locked(folder, shared=is_shared) as lock:
        shared = lock if is_shared else None
        if begin(folder, plan_of(name, version, view, settings, inputs), view, force, shared=shared):
            talk.log(f"{talk.title(folder, name)}: already finished")
            return True
        plan = plan_digest(folder)
        if work_on_share and not work_on_share(folder, plan):
            talk.log(
                f"{talk.title(folder, name)}: share {share[0]}/{share[1]} is done; other shares are not finished yet"
            )
            return False
        if shared:
            talk.log(f"{talk.title(folder, name)}: all shares are done; this one finishes when the others have ended")
            shared.wait_exclusive()
            refuse_redone(folder, plan)
            if (folder / "manifest.json").exists():
                return True
        start = time.monotonic()
        output = work(folder)
        log_timing(folder, name, time.monotonic() - start)
        files = {file: file_sha256(folder / file) for file in output.files}
        refuse_redone(folder, plan)
        refuse_changed(folder, view, inputs)
        finish(folder, name, version, view, settings, files, output.counts, inputs, output.models)
    return True
