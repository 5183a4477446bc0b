"""Claim: shots detected in m2raap's single decode are as accurate as PySceneDetect's and cost less; real clips have equal cuts.

    python bench/shots.py [--data DIR] [--limit N] [--parts N] [--seed N]     accuracy on joined clips
    python bench/shots.py --agreement [--data DIR] [--limit N]                cuts of every clip against scenedetect.detect

Accuracy: stretches of 1.5 to 4 s of real clips are joined at known frames, at 640x360 and 25 frames a second, and coded
again. Clips with a cut inside would make the truth wrong: a clip is left out where the scene score of ffmpeg's `select` filter,
which no contender uses, exceeds 0.15 (45 of the 132 clips; 16 of them exceed 0.35). A cut is detected if it is at most
2 frames from a true one. All run in this process with the same shortest shot; the CPU seconds of transnetv2 are without
those of the decoder's child process, and PySceneDetect decodes with as many threads as it chooses.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m" / "videos"
FPS, SIZE = 25, (640, 360)
CUT_SCORE = 0.15
MIN_SHOT_S = 0.6
TOLERANCE_FRAMES = 2

Finder = Callable[[Path], list[float]]  # cuts in seconds


def has_cut(clip: Path) -> bool:
    import ffmpeg

    from m2raap.video.ffmpeg import ffmpeg_exe, file_url, run_ffmpeg

    scores = (
        ffmpeg.input(file_url(clip), threads=1)
        .video.filter("scale", 320, -2)
        .filter("select", f"gt(scene,{CUT_SCORE})")
    )
    argv = ffmpeg.output(scores.filter("metadata", "print", file="-"), "-", f="null").compile(cmd=ffmpeg_exe())
    return b"scene_score" in run_ffmpeg(argv)


def length_s(clip: Path) -> float:
    import av

    with av.open(str(clip)) as container:
        return float((container.duration or 0) / 1e6)


def join(clips: Sequence[Path], frames: Sequence[int], out: Path) -> list[int]:
    """Writes the joined video; returns the frames at which its shots begin, without the first."""
    import ffmpeg

    from m2raap.video.ffmpeg import ffmpeg_exe, file_url, run_ffmpeg

    stretches = []
    for clip, count in zip(clips, frames, strict=True):
        start_s = max(0.0, (length_s(clip) - count / FPS) / 2 - 0.1)
        stretch = (
            ffmpeg.input(file_url(clip), ss=f"{start_s:.3f}").video.filter("fps", FPS).filter("trim", end_frame=count)
        )
        stretch = stretch.filter("scale", *SIZE, force_original_aspect_ratio="increase").filter("crop", *SIZE)
        stretches.append(stretch.filter("setsar", 1).filter("format", "yuv420p").filter("setpts", "PTS-STARTPTS"))
    coded = {"vcodec": "libx264", "preset": "veryfast", "crf": 23, "g": 250, "r": FPS}
    run_ffmpeg(ffmpeg.output(ffmpeg.concat(*stretches), str(out), **coded).compile(cmd=ffmpeg_exe()), timeout_s=600)
    cuts = [sum(frames[: i + 1]) for i in range(len(frames) - 1)]
    import av

    with av.open(str(out)) as container:
        num_frames = container.streams.video[0].frames
    assert num_frames == sum(frames), (
        f"{out}: {num_frames} frames, not {sum(frames)}: a stretch was shorter than planned"
    )
    return cuts


def make_videos(
    clips: Sequence[Path], number: int, parts: int, seed: int, folder: Path
) -> list[tuple[Path, list[int]]]:
    import numpy as np

    rng = np.random.default_rng([seed, number, parts])
    usable: list[Path] = []
    order = [clips[i] for i in rng.permutation(len(clips))]
    seen = 0
    for clip in order:
        if len(usable) == number * parts:
            break
        seen += 1
        if length_s(clip) >= 2.0 and not has_cut(clip):
            usable.append(clip)
    print(f"{len(usable)} clips of the first {seen} have no cut inside and last 2 s or more", file=sys.stderr)
    if len(usable) < parts:
        raise SystemExit(f"too few clips for one video of {parts} parts")
    videos = []
    for i in range(number):
        chosen = [usable[(i * parts + j) % len(usable)] for j in range(parts)]
        frames = [int(min(rng.uniform(1.5, 4.0), length_s(clip) - 0.4) * FPS) for clip in chosen]
        path = folder / f"joined-{i}.mp4"
        videos.append((path, join(chosen, frames, path)))
    return videos


def matches(cuts: Sequence[float], truth: Sequence[float], within: float) -> int:
    """The largest number of pairs of a detected and a true cut at most `within` seconds apart, each cut in one pair."""
    used = hits = 0
    for cut in truth:
        while used < len(cuts) and cuts[used] < cut - within:
            used += 1
        if used < len(cuts) and cuts[used] <= cut + within:
            hits, used = hits + 1, used + 1
    return hits


def bare_decode(path: Path) -> list[float]:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass
    return []


def theirs(kind: str) -> Finder:
    import scenedetect

    detector = getattr(scenedetect, f"{kind.title()}Detector")

    def find(path: Path) -> list[float]:
        scenes = scenedetect.detect(str(path), detector(min_scene_len=MIN_SHOT_S), backend="pyav")
        return [start.seconds for start, _ in scenes[1:]]

    return find


def ours(kind: str) -> Finder:
    from m2raap.video.limits import VideoConfig
    from m2raap.video.scenes import find_scenes

    return lambda path: find_scenes(path, kind, MIN_SHOT_S, VideoConfig()).cuts_s  # type: ignore[arg-type]  # a key of DETECTORS


def transnet() -> Finder:
    from m2raap.stages.transnet import transnet_cuts, weights_file
    from m2raap.video.worker import VideoWorker

    weights_file()
    worker = VideoWorker()
    return lambda path: transnet_cuts(worker, path, 0.0, None, MIN_SHOT_S)


def accuracy(clips: Sequence[Path], args: argparse.Namespace) -> None:
    from m2raap.core.errors import M2raapError
    from m2raap.video.shots import DETECTORS

    contenders: dict[str, Finder] = {"bare decode": bare_decode}
    for kind in DETECTORS:
        contenders |= {f"m2raap {kind}": ours(kind), f"PySceneDetect {kind}": theirs(kind)}
    try:
        contenders["m2raap transnetv2"] = transnet()
    except M2raapError as error:
        print(f"without transnetv2: {error}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        videos = make_videos(clips, args.limit or 8, args.parts, args.seed, Path(folder))
        num_cuts = sum(len(cuts) for _, cuts in videos)
        print(f"{len(videos)} joined videos, {num_cuts} cuts, a cut is detected within {TOLERANCE_FRAMES} frames")
        print(f"{'':26}precision  recall     F1   wall s    CPU s")
        for find in contenders.values():
            find(videos[0][0])  # imports
        for name, find in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results = [find(path) for path, _ in videos]
            seconds = f"{time.perf_counter() - wall:9.2f}{time.process_time() - cpu:9.2f}"
            if name == "bare decode":
                print(f"{name:50}{seconds}")
                continue
            num_detected = sum(len(cuts_s) for cuts_s in results)
            hits = sum(
                matches(sorted(cuts_s), [cut / FPS for cut in truth], (TOLERANCE_FRAMES + 0.1) / FPS)
                for cuts_s, (_, truth) in zip(results, videos, strict=True)
            )
            precision, recall, f1 = (
                hits / max(1, num_detected),
                hits / num_cuts,
                2 * hits / max(1, num_detected + num_cuts),
            )
            print(f"{name:26}{100 * precision:9.1f}{100 * recall:8.1f}{100 * f1:7.1f}{seconds}", flush=True)


def agreement(clips: Sequence[Path], limit: int | None) -> None:
    """Counts clips with the same cuts, frame for frame, and names the others."""
    from m2raap.video.shots import DETECTORS

    chosen = clips[:limit]
    for kind in DETECTORS:
        mine, other = ours(kind), theirs(kind)
        same = cuts = common = 0
        for clip in chosen:
            cuts_of_both = mine(clip), other(clip)
            hits = matches(*cuts_of_both, 0.001)
            cuts, common = cuts + len(cuts_of_both[1]), common + hits
            if hits == len(cuts_of_both[0]) == len(cuts_of_both[1]):
                same += 1
            else:
                times = [[round(cut, 2) for cut in these] for these in cuts_of_both]
                print(f"  {kind}: {clip.name}: ours {times[0]}, theirs {times[1]}")
        print(f"{kind}: same cuts in {same} of {len(chosen)} clips; {common} of their {cuts} cuts in both", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=re.sub(r"\n\n.*", "", __doc__ or "", flags=re.S))
    parser.add_argument("--data", type=Path, default=SHARED, help="a folder of clips")
    parser.add_argument("--limit", type=int, help="joined videos (default 8); with --agreement clips (default all)")
    parser.add_argument("--parts", type=int, default=12, help="clips in a joined video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--agreement", action="store_true", help="compare with scenedetect.detect on the clips themselves"
    )
    args = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    clips = sorted(args.data.glob("*.mp4")) if args.data.is_dir() else []
    if not clips:
        print(f"skipped: no clips in {args.data}; name a folder of short videos with --data", file=sys.stderr)
        return
    if args.agreement:
        agreement(clips, args.limit)
    else:
        accuracy(clips, args)


if __name__ == "__main__":
    main()
