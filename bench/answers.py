"""Claim: storing the answers of models takes a fraction of the time of one transaction a row that waits for the disk.

The peer is sqlite with synchronous=FULL and one transaction a row, which a power cut cannot undo. Ours is
m2raap.curate.llm.cache: a write-ahead log with synchronous=NORMAL, answer by answer as they come from a server, or a batch of 8
captions at a time as they come from a model of pictures. Ours survives the end of the process at any time, and a power cut may
cost the last writes. At the end a process that was killed with SIGKILL between two answers is read back, and every answer that it
reported must be there.

    python bench/answers.py [--answers 5000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.schema import Completion, Request

BATCH = 8
ANSWER = "a red circle moves to the left and then a blue square grows until it fills the picture"


def request(number: int) -> Request:
    return Request({"model": "m", "picture": f"{number:064d}"}, "image_text", ("en",), f"clip{number}")


def answered(first: int, num: int) -> list[tuple[Request, Completion]]:
    return [(request(number), Completion(f"{ANSWER} {number}", "stop")) for number in range(first, first + num)]


def rows_a_second(path: Path, num: int, size: int, full: bool) -> float:
    cache = Cache(path)
    if full:
        cache._db.execute("PRAGMA synchronous=FULL")
    blocks = [answered(first, min(size, num - first)) for first in range(0, num, size)]
    start = time.perf_counter()
    for block in blocks:
        cache.put_all(block)
    seconds = time.perf_counter() - start
    assert cache.get(request(num - 1)) is not None
    cache.close()
    return num / seconds


def killed(path: Path) -> tuple[int, int]:
    """(answers that a process reported as stored before it was killed, those of them that are there)."""
    child = subprocess.Popen([sys.executable, __file__, "--child", str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    reported = [child.stdout.readline() for _ in range(500)]
    os.kill(child.pid, signal.SIGKILL)
    reported += child.stdout.readlines()
    child.wait()
    numbers = [int(line) for line in reported if line.endswith("\n")]
    cache = Cache(path)
    return len(numbers), sum(cache.get(request(number)) is not None for number in numbers)


def store_for_ever(path: Path) -> None:
    cache, number = Cache(path), 0
    while True:
        cache.put(*answered(number, 1)[0])
        print(number, flush=True)
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, help="where the files are written; the disk decides about the peer")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        store_for_ever(args.child)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        cases: dict[str, Callable[[], float]] = {
            "FULL, one a transaction (peer)": lambda: rows_a_second(Path(folder) / "a", args.answers, 1, True),
            "ours, one a transaction": lambda: rows_a_second(Path(folder) / "b", args.answers, 1, False),
            f"ours, {BATCH} a transaction": lambda: rows_a_second(Path(folder) / "c", args.answers, BATCH, False),
        }
        peer = 0.0
        for name, measure in cases.items():
            rate = measure()
            peer = peer or rate
            print(f"{name:<32}{rate:>10,.0f} answers/s{rate / peer:>8.1f} x", flush=True)
        stored, there = killed(Path(folder) / "d")
        print(f"killed with SIGKILL: {stored:,} answers reported as stored, {there:,} of them there")
        assert stored == there


if __name__ == "__main__":
    main()
