"""Claim: no command keeps a corpus of 200,000 clips in more than 2 GB of one process, and none takes more than in proportion.

Makes (seeded) a table of clips: windows of a few short videos, each with a caption in English and one in Chinese. Most
captions are alone of their kind; some are copies, near copies, or faulty, so that the rules of `filter` have work to do.
Runs every command as a child process, for each number of clips, and prints for each: seconds, CPU seconds, the peak memory
(RSS) of the largest process of its tree, and that of all processes together; then how much more the largest corpus takes than
the smallest, against the number of clips. Reading /proc, it runs on Linux alone.

    python bench/scale.py [--clips 20000 200000] [--commands import filter ...] [--keep DIR] [--workers N] [--json]

Commands that need the folder of an earlier one find it in DIR, if it was made in an earlier call with --keep.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filter import EN, ZH, with_fault

MAX_PROCESS_GB = 2.0
NUM_VIDEOS, VIDEO_S, LIMIT = 8, 60, 200
GENERIC = {
    "en": ("a funny moment", "a man is playing guitar", "people are dancing", "breaking news today", "a cooking show"),
    "zh": ("搞笑瞬间", "一个男人在弹吉他", "人们在跳舞", "今日新闻播报", "美食节目"),
}
EXIT_CODES = {"explain-unknown": 1, "forgotten": 1}  # an id that no clip has; traces of a clip that was forgotten
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def make_videos(folder: Path) -> None:
    """NUM_VIDEOS small videos of VIDEO_S seconds in which something moves."""
    from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(NUM_VIDEOS):
        source = f"life=size=192x144:rate=10:seed={index}:mold=10:ratio=0.2:death_color=#C83232:life_color=#00ff00"
        path = folder / f"v{index}.mp4"
        if not path.exists():
            run_ffmpeg(
                [ffmpeg_exe(), "-f", "lavfi", "-i", source, "-t", str(VIDEO_S), "-pix_fmt", "yuv420p", str(path)]
            )


def captions(rng: random.Random, lang: str) -> Iterator[str]:
    """Captions without an end. Eight of ten have two clauses, and no other is like them; one in ten has a single clause; the
    others are copies, near copies, or faulty."""
    words = EN if lang == "en" else ZH
    earlier = [" ".join(GENERIC[lang])]

    def clause() -> str:
        who, does, what, where, when = (rng.choice(slot) for slot in words)
        return f"{who} {does} {what} {where}{when}" if lang == "en" else f"{who}{where}{does}{what}{when}"

    for index in range(sys.maxsize):
        draw = rng.random()
        if draw < 0.02:
            yield GENERIC[lang][min(int(rng.paretovariate(1)) - 1, 4)]
        elif draw < 0.04:
            yield rng.choice(earlier)
        elif draw < 0.06:
            near = rng.choice(earlier)
            yield f"{near} again" if lang == "en" else f"又是{near}"
        elif draw < 0.10:
            yield with_fault(clause(), lang, index)
        else:
            text = clause()
            if draw > 0.19:
                text += f" while {clause()}" if lang == "en" else f"，同时{clause()}"
            earlier.append(text)
            if len(earlier) > 1000:
                earlier[rng.randrange(1000)] = earlier.pop()
            yield text


def write_list(path: Path, num_clips: int, seed: int = 0) -> None:
    """A csv with `num_clips` different windows of the videos."""
    rng = random.Random(f"{seed} {num_clips}")
    english, chinese = (captions(random.Random(f"{seed} {lang}"), lang) for lang in ("en", "zh"))
    per_video = -(-num_clips // NUM_VIDEOS)
    with open(path, "w", newline="", encoding="utf-8") as sink:
        table = csv.writer(sink)
        table.writerow(("video", "start", "end", "caption_en", "caption_zh", "category", "licence"))
        for index in range(num_clips):
            video, place = index % NUM_VIDEOS, index // NUM_VIDEOS
            start_s = round((VIDEO_S - 10) * place / per_video, 4)
            end_s = round(start_s + rng.uniform(2.0, 10.0), 2)
            kind = rng.choice(("food", "music", "sports", "news"))
            table.writerow((f"v{video}.mp4", start_s, end_s, next(english), next(chinese), kind, "CC BY 4.0"))


def write_parquet(listing: Path) -> Path:
    """The same list as parquet."""
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    path = listing.with_suffix(".parquet")
    pq.write_table(pa_csv.read_csv(listing), path)
    return path


@dataclass(frozen=True)
class Usage:
    """What one command took."""

    command: str
    clips: int
    seconds: float
    cpu_s: float
    largest_mb: float  # the largest process
    total_mb: float  # all processes at once
    processes: int
    exit_code: int


class Tree(threading.Thread):
    """Looks at all descendants of this process until `stop`: their peak memory, their sum, their CPU time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_kb: dict[str, int] = {}
        self.cpu_ticks: dict[str, int] = {}
        self.total_kb = 0
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def look(self) -> None:
        parents: dict[str, str] = {}
        ticks: dict[str, int] = {}
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[name], ticks[name] = fields[1], int(fields[11]) + int(fields[12])
        ours, total_kb = {str(os.getpid())}, 0
        while more := {name for name, parent in parents.items() if parent in ours} - ours:
            ours |= more
        for name in ours - {str(os.getpid())}:
            try:
                status = dict(line.split(":\t", 1) for line in Path(f"/proc/{name}/status").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if "VmHWM" in status:  # not a zombie
                self.peak_kb[name] = max(self.peak_kb.get(name, 0), int(status["VmHWM"].split()[0]))
                self.cpu_ticks[name] = ticks[name]
                total_kb += int(status["VmRSS"].split()[0])
        self.total_kb = max(self.total_kb, total_kb)


def measure(command: str, clips: int, words: list[str], show: bool) -> Usage:
    tree = Tree()
    start = time.perf_counter()
    with open(os.devnull if not show else "/dev/stderr", "w") as sink, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "m2raap.cli.main", *words], stdout=sink, stderr=None if show else errors
        )
        tree.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        tree.stop()
        if child.returncode != EXIT_CODES.get(command, 0) and not show:
            errors.seek(0)
            print(f"{command}: {errors.read().decode()[-2000:]}", file=sys.stderr)
    cpu_s = max(usage.ru_utime + usage.ru_stime, sum(tree.cpu_ticks.values()) / _TICKS_A_SECOND)
    largest_mb = max(tree.peak_kb.values(), default=usage.ru_maxrss) / 1024
    return Usage(command, clips, seconds, cpu_s, largest_mb, tree.total_kb / 1024, len(tree.peak_kb), child.returncode)


def commands(folder: Path, workers: int) -> dict[str, list[str]]:
    """Name -> words of every command, in an order in which each has what it needs."""
    corpus, filtered, run = (str(folder / name) for name in ("corpus", "filter", "run"))
    pool = ["--workers", str(workers)]
    clip = _a_clip(folder)
    other = ["--force", "--set", "filter.text.rules={text_too_short: 4}"]
    recipe = ["run", "demo", "--data", corpus, "--out", run, *pool]
    return {
        "import": ["data", "import", "table", str(folder / "list.csv"), "--out", corpus, "--video-dir", str(folder / "videos")],
        "import-parquet": ["data", "import", "table", str(folder / "list.parquet"), "--out", f"{corpus}-parquet",
                           "--video-dir", str(folder / "videos")],
        "dry-run": [*recipe, "--dry-run"],
        "filter": ["filter", corpus, "--out", filtered, *pool],
        "filter-again": ["filter", corpus, "--out", filtered, *pool],
        "filter-redone": ["filter", corpus, "--out", filtered, *pool, *other],
        "keyframes": ["keyframes", filtered, "--out", str(folder / "keyframes"), "--limit", str(LIMIT), *pool],
        "run": [*recipe, "--until", "filter"],
        "dry-run-after": [*recipe, "--dry-run"],
        "status": ["status", run],
        "verify": ["status", run, "--verify"],
        "verify-corpus": ["status", corpus, "--verify"],
        "card": ["data", "audit", run, "--card"],
        "audit": ["data", "audit", run, "--out", str(folder / "sheet.csv")],
        "explain": ["explain", clip, "--in", run],
        "explain-unknown": ["explain", "no such clip", "--in", run],
        "lint": ["report", "lint", corpus],
        "report": ["report", "write", run],
        "export-csv": ["data", "export", "csv", run, "--out", str(folder / "export-csv")],
        "export-jsonl": ["data", "export", "data-juicer", run, "--out", str(folder / "export-jsonl")],
        "forget": ["data", "forget", corpus, "--clip", clip, "--run", run],
        "forgotten": ["status", run, "--forgotten", corpus],
    }  # fmt: skip


def _a_clip(folder: Path) -> str:
    from m2raap.core.corpus import open_corpus

    if not (folder / "corpus" / "manifest.json").exists():
        return ""
    return open_corpus(folder / "corpus").rows("clips", 0, ["clip_id"])[0]["clip_id"]


def table(rows: list[Usage]) -> Iterator[str]:
    yield f"{'command':<16} {'clips':>8} {'s':>8} {'CPU s':>8} {'largest MB':>11} {'all MB':>8} {'processes':>10}"
    for row in rows:
        note = "" if row.exit_code == EXIT_CODES.get(row.command, 0) else f"  exit code {row.exit_code}"
        note += f"  over {MAX_PROCESS_GB:g} GB" if row.largest_mb > MAX_PROCESS_GB * 1024 else ""
        yield (
            f"{row.command:<16} {row.clips:>8,} {row.seconds:>8.1f} {row.cpu_s:>8.1f} {row.largest_mb:>11,.0f} "
            f"{row.total_mb:>8,.0f} {row.processes:>10}{note}"
        )


def growth(rows: list[Usage]) -> Iterator[str]:
    """How often the CPU time and the memory of the smallest corpus the largest takes."""
    few, many = (min(row.clips for row in rows), max(row.clips for row in rows))
    if few == many:
        return
    yield f"{many / few:g} times as many clips take so many times the CPU seconds, and MB of the largest process:"
    for name in dict.fromkeys(row.command for row in rows):
        of_few, of_many = ([row for row in rows if (row.command, row.clips) == (name, num)] for num in (few, many))
        if of_few and of_many:
            cpu, size = (of_many[0].cpu_s / of_few[0].cpu_s, of_many[0].largest_mb / of_few[0].largest_mb)
            yield f"{name:<16} {cpu:>6.1f} {size:>6.1f}{'  more than in proportion' if cpu > 1.3 * many / few else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--commands", nargs="+", help="only these")
    parser.add_argument("--keep", type=Path, help="folder for the corpora, which stays")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", action="store_true", help="also show what the commands print")
    parser.add_argument("--json", action="store_true", dest="as_json")
    args = parser.parse_args()
    rows: list[Usage] = []
    with tempfile.TemporaryDirectory() as scratch:
        for num_clips in args.clips:
            folder = (args.keep or Path(scratch)) / str(num_clips)
            make_videos(folder / "videos")
            if not (folder / "list.csv").exists():
                write_list(folder / "list.csv", num_clips)
                write_parquet(folder / "list.csv")
            for name in args.commands or commands(folder, args.workers):
                rows.append(measure(name, num_clips, commands(folder, args.workers)[name], args.show))
                print(list(table(rows[-1:]))[1], file=sys.stderr, flush=True)
    if args.as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("\n".join([*table(rows), *growth(rows)]))


if __name__ == "__main__":
    main()
