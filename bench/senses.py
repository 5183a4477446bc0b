"""Claim: sound and motion of a clip cost at most 15% of the CPU time of its key-frames.

Of each video the decoder's process reads key-frames alone, key-frames with motion, and the sound, one after the other, so that
whatever disturbs the machine disturbs all three. Printed: CPU seconds of each, and what the two add.

    python bench/senses.py VIDEO_FOLDER [--every 1]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from m2raap.video.clip import KeyframeConfig
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.worker import VideoWorker

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")


def cpu_s(worker: VideoWorker) -> float:
    """CPU seconds of the decoder's process so far."""
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of videos")
    parser.add_argument("--every", type=int, default=1, help="take every n-th video")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix in SUFFIXES)[:: options.every]
    if not paths:
        raise SystemExit(f"{options.folder}: no video with one of the endings {', '.join(SUFFIXES)}")
    spent = {"key-frames": 0.0, "with motion": 0.0, "sound": 0.0}
    states: dict[str, int] = {}
    with VideoWorker(VideoConfig()) as worker:
        worker.probe(paths[0])
        for path in paths:
            length_s = 0.0
            for name, senses in (("key-frames", ()), ("with motion", ("motion",))):
                before = cpu_s(worker)
                try:
                    clip = worker.extract(path, 0.0, None, KeyframeConfig(senses=senses))
                    length_s = clip.signals["duration_s"]
                except Refused:
                    break
                spent[name] += cpu_s(worker) - before
            if not length_s:
                continue
            before = cpu_s(worker)
            try:
                state = "none" if worker.sound(path, 0.0, length_s) is None else "ok"
            except Refused as refused:
                state = refused.reason
            spent["sound"] += cpu_s(worker) - before
            states[state] = states.get(state, 0) + 1
    print(
        json.dumps({"videos": len(paths), "sounds": states} | {name: round(value, 2) for name, value in spent.items()})
    )
    plain = spent["key-frames"]
    added = {"motion": spent["with motion"] / plain - 1, "sound": spent["sound"] / plain}
    print(
        json.dumps({name: f"+{value:.1%}" for name, value in added.items()} | {"both": f"+{sum(added.values()):.1%}"})
    )


if __name__ == "__main__":
    main()
