"""The Slurm script of the docs, run share by share on this machine: the result is that of a single run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import digests, m2raap

RECIPE = Path(__file__).parent.parent / "small.yaml"
SCRIPT = Path(__file__).parent.parent.parent / "docs" / "share.sbatch"


def test_the_shares_of_the_sbatch_script_make_one_whole_stage(small_world: Path, tmp_path: Path):
    shims = tmp_path / "bin"
    shims.mkdir()
    (shims / "m2raap").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m m2raap.cli.main "$@"\n')
    (shims / "m2raap").chmod(0o755)
    asked = {
        "RECIPE": RECIPE, "DATA": small_world / "train", "OUT": tmp_path / "shares", "STAGE": "filter",
        "SLURM_ARRAY_TASK_COUNT": 2, "SLURM_CPUS_PER_TASK": 1, "PATH": f"{shims}:{os.environ['PATH']}",
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in asked.items()}
    for share in ("2", "1"):
        assert not (tmp_path / "shares" / "filter" / "manifest.json").exists()
        subprocess.run(["bash", SCRIPT], env=environment | {"SLURM_ARRAY_TASK_ID": share}, check=True, timeout=60)
    m2raap(
        "run", RECIPE, "--data", small_world / "train", "--out", tmp_path / "whole", "--until", "filter", "--workers", 1
    )
    assert digests(tmp_path / "shares" / "filter") == digests(tmp_path / "whole" / "filter")
