"""Claim: eight good frames of a clip cost about one decode of it, and far less than one in a long video.

Every contender turns the same clips into the same eight JPEGs (short side, quality) in a process of its own, held to one
core (our two workers: to two), so that nobody gains by threads. Its libraries are imported before the clock starts; the
start of our child process counts. CPU seconds hold those of children. Repeats are interleaved; medians are printed.

    python bench/keyframes.py --data DIR [--limit N] [--repeats N] [--only NAME ...] [--no-long]

`--choices FILE` measures nothing: it writes what we choose of each clip, so that two checkouts can be compared with `cmp`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m" / "videos"
LONG_S, LONG_LOOP_S = 600, 20
K, SHORT_SIDE_PX, JPEG_QUALITY = 8, 256, 90

Contender = Callable[[list[Path], Path], None]  # (clips, folder for the JPEGs)


class NotInstalled(Exception):
    """A peer that is not installed; the message is how to install it."""


# --- shared by the peers ---


def save(picture: Any, out: Path, clip: Path, index: int) -> None:
    """RGB uint8 [H, W, 3] at the stored size -> a JPEG file."""
    from PIL import Image

    Image.fromarray(picture).save(out / f"{clip.stem}-{index}.jpg", "JPEG", quality=JPEG_QUALITY)


def stored_size(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, SHORT_SIDE_PX / min(width, height))
    return round(width * scale), round(height * scale)


class Scaler:
    """From a PyAV frame to the stored picture, in the fastest way that we know; peers that use PyAV use it too."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._size, self._colours = VideoReformatter(), VideoReformatter()

    def picture(self, frame: Any) -> Any:
        width, height = stored_size(frame.width, frame.height)
        small = self._size.reformat(frame, width, height, interpolation="BICUBIC", threads=1)
        return self._colours.reformat(small, format="rgb24", threads=1).to_ndarray()


def middles(duration: float, k: int = K) -> list[float]:
    return [duration * (2 * j + 1) / (2 * k) for j in range(k)]


def one_thread(container: Any) -> Any:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream


# --- contenders ---


def ours(workers: int, reading: str = "auto") -> Contender:
    def run(clips: list[Path], out: Path) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from m2raap.video.extract import KeyframeConfig
        from m2raap.video.limits import VideoConfig
        from m2raap.video.worker import VideoWorker

        sizes = {"k": K, "short_side_px": SHORT_SIDE_PX, "jpeg_quality": JPEG_QUALITY}
        cfg = KeyframeConfig.model_validate(sizes | {"reading": reading})
        limits = VideoConfig(timeout_s=600)
        waiting = iter(clips)

        def work(_: int) -> None:
            with VideoWorker(limits) as worker:
                for clip in waiting:
                    frames = worker.extract(clip, 0.0, None, cfg)
                    for index, jpeg in enumerate(frames.jpegs):
                        (out / f"{clip.stem}-{index}.jpg").write_bytes(jpeg)

        with ThreadPoolExecutor(workers) as pool:  # the threads only wait for their child
            list(pool.map(work, range(workers)))

    return run


def decord2_uniform(clips: list[Path], out: Path) -> None:
    try:
        import decord
    except ImportError:
        raise NotInstalled("pip install decord2") from None
    import cv2

    cv2.setNumThreads(1)
    for clip in clips:
        reader = decord.VideoReader(str(clip), num_threads=1)
        at = [int(t) for t in middles(len(reader))]
        for index, picture in enumerate(reader.get_batch(at).asnumpy()):
            size = stored_size(picture.shape[1], picture.shape[0])
            save(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), out, clip, index)


def scenedetect_then_extraction(clips: list[Path], out: Path) -> None:
    """Shots by the library's own call, then eight frames spread over them in a second pass that ends at the last."""
    try:
        from scenedetect import AdaptiveDetector, detect
    except ImportError:
        raise NotInstalled("pip install scenedetect-headless") from None
    import av

    scaler = Scaler()
    for clip in clips:
        scenes = detect(str(clip), AdaptiveDetector(), backend="pyav")
        with av.open(str(clip)) as container:
            stream = one_thread(container)
            length_s = float(stream.duration * stream.time_base)
            targets_s = spread([s.seconds for s, _ in scenes[1:]], length_s)
            index = 0
            for frame in container.decode(stream):
                if frame.time >= targets_s[index] - 1e-6:
                    save(scaler.picture(frame), out, clip, index)
                    index += 1
                    if index == K:
                        break


def spread(cuts_s: list[float], length_s: float) -> list[float]:
    """Times of K frames: every shot gets a share by its length, at least one; frames are the middles of equal slots."""
    from m2raap.video.choose import allot

    shots = list(pairwise([0.0, *cuts_s, length_s]))
    if len(shots) > K:
        return middles(length_s)
    shares = allot([end - start for start, end in shots], K)
    return [start + t for (start, end), n in zip(shots, shares, strict=True) for t in middles(end - start, n)]


def ffmpeg_iframes(clips: list[Path], out: Path) -> None:
    """The I-frames of a clip, at most K; most clips have fewer."""
    from m2raap.video.ffmpeg import ffmpeg_exe

    for clip in clips:
        small = f"scale='if(lt(iw,ih),min({SHORT_SIDE_PX},iw),-2)':'if(lt(iw,ih),-2,min({SHORT_SIDE_PX},ih))'"
        subprocess.run(
            [ffmpeg_exe(), "-v", "error", "-nostdin", "-threads", "1", "-skip_frame", "nokey", "-i", str(clip), "-vf", small,
             "-fps_mode", "vfr", "-frames:v", str(K), "-q:v", "3", str(out / f"{clip.stem}-%d.jpg")],
            check=True,
        )  # fmt: skip


def full_decode(clips: list[Path], out: Path) -> None:
    import av

    for clip in clips:
        with av.open(str(clip)) as container:
            for _ in container.decode(one_thread(container)):
                pass


CONTENDERS: dict[str, tuple[Contender, int]] = {  # name -> (work, cores)
    "ours, 1 worker": (ours(1), 1),
    "ours, 2 workers": (ours(2), 2),
    "ours, referenced frames": (ours(1, "referenced"), 1),
    "decord2 uniform-8": (decord2_uniform, 1),
    "PySceneDetect + extraction": (scenedetect_then_extraction, 1),
    "ffmpeg I-frames": (ffmpeg_iframes, 1),
    "bare full decode": (full_decode, 1),
}
IMPORTS = ("av", "av.video.reformatter", "cv2", "numpy", "PIL.JpegImagePlugin", "decord", "scenedetect")


# --- measuring ---


def measure_in_process(name: str, clips: list[Path]) -> None:
    """Runs a contender in this process and prints its figures as JSON."""
    import importlib

    for module in IMPORTS if not name.startswith("ours") else ("m2raap.video.worker",):
        try:
            importlib.import_module(module)
        except ImportError:
            continue  # the contender itself reports a package that it needs
    work, cores = CONTENDERS[name]
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, available[:cores])
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = cpu_s(), time.perf_counter()
        try:
            work(clips, Path(folder))
        except NotInstalled as absent:
            print(json.dumps({"absent": str(absent)}))
            return
        times = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_s() - cpu}
        jpegs = list(Path(folder).iterdir())
        print(json.dumps(times | {"jpegs": len(jpegs), "mb": sum(p.stat().st_size for p in jpegs) / 1e6}))


def cpu_s() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in both)


def measure(name: str, clips: list[Path]) -> dict[str, Any]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(
        command, input="\n".join(map(str, clips)), capture_output=True, text=True, env=env, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(names: list[str], clips: list[Path], repeats: int) -> dict[str, dict[str, float]]:
    """Median figures by name; prints a line each. Peers that are absent are named and left out."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            if runs[name] and "absent" in runs[name][0]:
                continue
            runs[name].append(measure(name, clips))
            print(f"  {name}: {json.dumps(runs[name][-1])}", file=sys.stderr, flush=True)
    medians = {}
    print(f"  {'':28s} {'wall s':>8s} {'CPU s':>8s} {'JPEGs':>7s} {'MB':>7s}   wall of each run")
    for name, results in runs.items():
        if "absent" in results[0]:
            print(f"  {name:28s} not installed: {results[0]['absent']}")
            continue
        middle = {key: statistics.median(run[key] for run in results) for key in results[0]}
        walls = " ".join(f"{run['wall_s']:.2f}" for run in results)
        print(
            f"  {name:28s} {middle['wall_s']:8.2f} {middle['cpu_s']:8.2f} {middle['jpegs']:7.0f} {middle['mb']:7.2f}   {walls}"
        )
        medians[name] = middle
    return medians


def ratio(medians: dict[str, dict[str, float]], above: str, below: str, goal: str) -> None:
    if above in medians and below in medians:
        wall, cpu = (medians[above][key] / medians[below][key] for key in ("wall_s", "cpu_s"))
        print(f"  {above} / {below}: wall {wall:.2f}, CPU {cpu:.2f}; goal {goal}")


def long_video(folder: Path) -> Path:
    """Ten minutes of 1280x720 at 25 frames/s, an I-frame every 2 s: 20 s of a moving fractal with noise, repeated."""
    path = folder / f"long-{LONG_S}s-720p.mp4"
    if not path.exists():
        import ffmpeg

        from m2raap.video.ffmpeg import ffmpeg_exe, run_ffmpeg

        once, whole = folder / "once.mp4", folder / "whole.mp4"
        fractal = ffmpeg.input(f"mandelbrot=s=1280x720:r=25:end_scale=0.03:end_pts={LONG_LOOP_S * 25}", f="lavfi")
        noisy = fractal.filter("noise", alls=4, allf="t").filter("format", "yuv420p")
        coded = {"vcodec": "libx264", "preset": "veryfast", "crf": 28, "g": 50, "keyint_min": 50, "sc_threshold": 0}
        run_ffmpeg(ffmpeg.output(noisy, str(once), t=LONG_LOOP_S, **coded).compile(cmd=ffmpeg_exe()), timeout_s=900)
        again = ffmpeg.input(str(once), stream_loop=LONG_S // LONG_LOOP_S - 1)
        run_ffmpeg(ffmpeg.output(again, str(whole), c="copy").compile(cmd=ffmpeg_exe()))
        once.unlink()
        whole.rename(path)
    return path


def write_choices(clips: list[Path], path: Path) -> None:
    """Writes a JSON object a line and clip: the choice with its times, reasons and signals, and the digest of each JPEG."""
    import dataclasses
    import hashlib

    from m2raap.video.extract import KeyframeConfig
    from m2raap.video.limits import Refused, VideoConfig
    from m2raap.video.worker import VideoWorker

    cfg = KeyframeConfig(k=K, short_side_px=SHORT_SIDE_PX, jpeg_quality=JPEG_QUALITY)
    with VideoWorker(VideoConfig(timeout_s=600)) as worker, path.open("w") as file:
        for clip in clips:
            try:
                choice = dataclasses.asdict(worker.extract(clip, 0.0, None, cfg))
                choice["jpegs"] = [hashlib.sha256(jpeg).hexdigest() for jpeg in choice["jpegs"]]
            except Refused as refused:
                choice = {"refused": refused.reason, "detail": refused.detail}
            file.write(json.dumps({"clip": clip.name} | choice) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of video clips")
    parser.add_argument("--limit", type=int, help="only the first N clips")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, help="contenders to run")
    parser.add_argument("--no-long", action="store_true", help="without the ten-minute video")
    parser.add_argument(
        "--choices", type=Path, metavar="FILE", help="write the choices of our own as JSON lines and stop"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_in_process(options.measure, [Path(line) for line in sys.stdin.read().splitlines()])
        return
    names = options.only or list(CONTENDERS)
    clips = sorted(options.data.glob("*.mp4"))[: options.limit]
    if options.choices:
        write_choices(clips, options.choices)
        return
    if clips:
        print(f"{len(clips)} clips of {options.data}, {K} JPEGs each, median of {options.repeats}:")
        medians = table(names, clips, options.repeats)
        ratio(medians, "ours, 1 worker", "decord2 uniform-8", "at most 1.3, then 1.1")
        ratio(medians, "PySceneDetect + extraction", "ours, 1 worker", "at least 2.5")
        ratio(medians, "ours, referenced frames", "decord2 uniform-8", "at most 1.1")
        ratio(medians, "PySceneDetect + extraction", "ours, referenced frames", "at least 2.5")
        ratio(medians, "ours, 1 worker", "ours, 2 workers", "at least 1.7 (wall)")
        ratio(medians, "ours, 1 worker", "bare full decode", "none (what choosing frames adds to a decode)")
    else:
        print(f"no clips at {options.data}: give --data DIR")
    if not options.no_long:
        folder = Path(tempfile.gettempdir()) / f"m2raap-bench-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * 1024**3:
            print(f"no long video: less than 2 GB free in {folder}")
            return
        path = long_video(folder)
        print(f"{path.name}, {path.stat().st_size / 1e6:.0f} MB:")
        medians = table([n for n in ("ours, 1 worker", "bare full decode") if n in names], [path], 1)
        ratio(medians, "bare full decode", "ours, 1 worker", "at least 8")


if __name__ == "__main__":
    main()
