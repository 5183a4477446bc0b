"""Claim: `m2raap --help` answers in under 0.3 s. Beside it the floor: an interpreter that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 15


def median_s(command: list[str]) -> float:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    bare = median_s([sys.executable, "-c", "pass"])
    typer = median_s([sys.executable, "-c", "import typer"])
    ours = median_s([sys.executable, "-m", "m2raap.cli.main", "--help"])
    print(f"median of {RUNS}: m2raap --help {ours:.3f} s, import typer {typer:.3f} s, bare interpreter {bare:.3f} s")
    print(f"ratio to the bare interpreter {ours / bare:.1f}, to importing typer {ours / typer:.2f}; goal under 0.3 s")


if __name__ == "__main__":
    main()
