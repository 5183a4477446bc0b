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


def test_the_training_of_the_sbatch_script_goes_back_into_the_queue(tmp_path: Path):
    """Slurm sends SIGUSR1 to the shell alone; the shell hands it on, waits until the checkpoint is written, and requeues."""
    shims = {
        # The signal is sent when the shell that started it handles SIGUSR1 (bit 0x200), as /proc tells.
        "m2raap": """trap 'echo kept >> $LOG; exit 130' USR1
while ! (( 0x$(awk '/SigCgt/ {print $2}' /proc/$PPID/status) & 0x200 )); do :; done
kill -USR1 $PPID
while :; do :; done""",
        "scontrol": 'echo "$@" >> $LOG',
    }
    for name, script in shims.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    environment |= {"RECIPE": "r", "DATA": "d", "BENCH": "b=b", "OUT": "o", "SLURM_JOB_ID": "77"}
    done = subprocess.run(["bash", SCRIPT.with_name("train.sbatch")], env=environment, timeout=60)
    assert done.returncode == 0 and (tmp_path / "log").read_text() == "kept\nrequeue 77\n"
