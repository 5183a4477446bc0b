"""Claim: no damaged file makes the decoder's process fail: each call answers, or refuses the file with a reason.

    python bench/fuzz_media.py [--cases 3000] [--first 0] [--calls 3] [--workers N] [--keep DIR]

Case N is made of N alone, so that a case can be tried again: --first N --cases 1 --calls 15. The files and the calls are those
of the tests (tests/video/bad_media/damage.py), which try a few cases. Files whose call failed are written to --keep.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from m2raap.core.engine import available_cores
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.worker import VideoWorker, WorkerBug
from tests.video.bad_media.damage import CALLS, FILES, damaged
from tests.video.bad_media.sources import make_sources

LIMITS = VideoConfig(timeout_s=10.0)


def tried(numbers: range, sources: Path, num_calls: int, scratch: Path, keep: Path | None) -> Counter[str]:
    """Counts of the outcomes of the cases `numbers`; each failure is printed."""
    outcomes: Counter[str] = Counter()
    path = scratch / f"{numbers.start}.bin"
    with VideoWorker(LIMITS) as worker:
        worker.stop_at_bugs = True
        for number in numbers:
            rng = random.Random(f"case {number}")
            name = FILES[number % len(FILES)]
            path.write_bytes(damaged((sources / name).read_bytes(), rng))
            for call in rng.sample(list(CALLS), num_calls):
                outcomes["calls"] += 1
                try:
                    CALLS[call](worker, path)
                    outcomes["ok"] += 1
                except Refused as refusal:
                    outcomes[refusal.reason] += 1
                except Exception as error:  # what this program looks for
                    kind = "BUG in the child" if isinstance(error, WorkerBug) else "BUG in the parent"
                    outcomes[kind] += 1
                    last = str(error).strip().splitlines()[-1:]
                    print(f"case {number}, {name}, {call}: {kind}: {type(error).__name__} {last}", flush=True)
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{number}-{name}").write_bytes(path.read_bytes())
                        (keep / f"{number}-{name}.txt").write_text(f"{call}\n{error}")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    numbers, start = range(args.first, args.first + args.cases), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.workers) as pool:
        scratch, sources = Path(folder).resolve(), Path(folder).resolve() / "sources"
        make_sources(sources)
        shares = [numbers[worker :: args.workers] for worker in range(args.workers)]
        work = [pool.submit(tried, share, sources, args.calls, scratch, args.keep) for share in shares if share]
        outcomes = sum((share.result() for share in work), Counter[str]())
    print(f"{args.cases} cases, {outcomes.pop('calls', 0)} calls in {time.monotonic() - start:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"  {outcome:<18} {count}")
    sys.exit(1 if any(outcome.startswith("BUG") for outcome in outcomes) else 0)


if __name__ == "__main__":
    main()
