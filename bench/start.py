"""Claim: the time until the first training step does not grow with the bytes of the corpus, and its processes share the tables.

For each size a corpus is made out of few JPEGs, and `m2raap adapt` trains one step on it from a fresh process, and once more by
two processes. Printed as JSON: `clips`; `seconds` from the start of the process to the first line of train.jsonl, `tokenise_s`
of these (all texts, once); `peak_mb`: the memory of one process until then (proportional set size, which counts
shared memory once), and `peak_mb_two` of two processes together.

    python bench/start.py [--clips 2000 20000 200000] [--keep DIR]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 8
SETTINGS = [
    "adapt.temporal.name=mean", "adapt.train_vision_layers=4", 'adapt.cache="off"', "adapt.steps=1", "adapt.batch_size=32",
    "adapt.num_frames=8", "adapt.threads=1",
]  # fmt: skip
PLACES = ("a park", "the kitchen", "a stadium", "the street", "an office", "a forest", "the beach", "a studio")
DEEDS = ("walks", "runs", "cooks noodles", "plays the violin", "repairs a bicycle", "paints a wall", "sings", "waits")


def make(folder: Path, num_clips: int) -> None:
    """A corpus whose clips have texts in two languages and eight key-frames each, all of few pictures."""
    from loader import write_frames

    from m2raap.core.corpus import write_corpus

    rng = np.random.default_rng(0)
    jpegs = [_jpeg(rng) for _ in range(64)]
    picked = rng.integers(len(jpegs), size=(num_clips, FRAMES))
    ids = [f"clip{number:07d}" for number in range(num_clips)]
    clips = [{"clip_id": i, "video": "a.mp4", "start_s": None, "end_s": None, "split": "train"} for i in ids]
    texts = [row for number, i in enumerate(ids) for row in _texts(i, number)]
    (folder / "videos").mkdir(parents=True)
    corpus = write_corpus(folder / "corpus", clips, texts, video_root=folder / "videos", source={"kind": "bench"})
    del clips, texts
    write_frames(corpus, folder / "keyframes", {i: [jpegs[j] for j in row] for i, row in zip(ids, picked, strict=True)})


def _jpeg(rng: np.random.Generator) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64)).save(out, "JPEG", quality=80)
    return out.getvalue()


def _texts(clip_id: str, number: int) -> list[dict[str, Any]]:
    deed, place = DEEDS[number % len(DEEDS)], PLACES[number // 7 % len(PLACES)]
    words = {
        "en": f"a person with the number {number} {deed} in {place} while {number % 97} others look on",
        "zh": f"第{number}号人物在第{number % 97}个地方做第{number % 13}件事",
    }
    return [
        {
            "text_id": f"{clip_id}.{lang}", "clip_id": clip_id, "lang": lang, "text": text, "origin": "raw",
            "parent_text_id": None, "frame_index": None, "producer": None, "active": True,
        }
        for lang, text in words.items()
    ]  # fmt: skip


def first_step(folder: Path, processes: int, out: Path) -> dict[str, float]:
    """Seconds from the start of the processes until the first step is logged, those of tokenising among them, and the memory
    of the processes together in MB until then."""
    command = [sys.executable, "-m", "m2raap.cli.main", "adapt", str(folder / "keyframes"), "--out", str(out)]
    command += [word for setting in SETTINGS for word in ("--set", setting)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.perf_counter()
    running = []
    for rank in range(processes):
        group = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        env = os.environ | ({**group, **sizes} if processes > 1 else {})
        running.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    log, peak_mb, seconds = out / "train.jsonl", 0.0, 0.0
    while any(process.poll() is None for process in running):
        peak_mb = max(peak_mb, sum(_pss_mb(process.pid) for process in running))
        if log.exists() and log.stat().st_size:
            seconds = time.perf_counter() - begin
            break
        time.sleep(0.05)  # a poll, not a synchronisation: it bounds the error of the seconds
    texts = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("\n".join(texts)[-3000:])
    prepared = json.loads((out / "timings.jsonl").read_text().splitlines()[0])
    return {"seconds": seconds, "tokenise_s": prepared["tokenise_s"], "peak_mb": peak_mb}


def _pss_mb(pid: int) -> float:
    """Proportional set size of a process and of those that it started: shared memory counts once among all."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    own = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
    return own + sum(_pss_mb(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument(
        "--keep", type=Path, help="folder of the corpora, which are made where they are absent and stay"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="m2raap-bench-start-") as temp:
        rows: list[dict[str, float]] = []
        for num_clips in sorted(options.clips):
            folder = (options.keep or Path(temp)) / str(num_clips)
            if not (folder / "keyframes" / "manifest.json").exists():
                make(folder, num_clips)
            runs = [first_step(folder, processes, Path(temp) / f"{num_clips}-{processes}") for processes in (1, 2)]
            row = {"clips": num_clips, **runs[0], **{f"{name}_two": value for name, value in runs[1].items()}}
            rows.append({name: round(value, 2) for name, value in row.items()})
            print(json.dumps(rows[-1]), flush=True)
    small, large = rows[0], rows[-1]
    beyond = [row["seconds"] - row["tokenise_s"] for row in (small, large)]
    grown = [large[name] - small[name] for name in ("peak_mb", "peak_mb_two")]
    print(
        json.dumps(
            {
                "seconds beyond tokenising, largest over smallest": round(beyond[1] / beyond[0], 2),
                "memory of two processes over one": round(large["peak_mb_two"] / large["peak_mb"], 2),
                "growth of two processes over that of one": round(grown[1] / grown[0], 2) if grown[0] > 0 else None,
            }
        )
    )


if __name__ == "__main__":
    main()
