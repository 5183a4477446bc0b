"""Claim: training's loader decodes stored frames at the rate of the decoder, and reads each byte once an epoch.

Real clips' key-frames (or pictures made up, without --data) as a corpus of many clips. Every contender turns the same clips of
eight JPEGs into uint8 pictures of 224 x 224, in one process held to one core; CPU seconds hold those of threads. Libraries are
imported, and files opened, before the clock starts. Two are bare: decode and resize alone, of what lies in memory. Repeats are
interleaved; medians are printed, then the read amplification of an epoch by bytes counted, and how often a step decodes a clip.

    python bench/loader.py [--data DIR] [--clips N] [--repeats N] [--json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m" / "videos"
FRAMES, SIZE, BATCH = 8, 224, 32
Contender = Callable[["Clips"], Callable[[], int]]  # what turns the clips into pictures, and returns their number


class Clips:
    """The corpus of a run of the bench."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def ids(self) -> list[str]:
        return [f"clip{number:06d}" for number in range(len(self.jpegs))]

    @property
    def jpegs(self) -> list[list[bytes]]:
        rows = np.load(self.folder / "jpegs.npz")
        return [[rows[f"{clip}-{frame}"].tobytes() for frame in range(FRAMES)] for clip in range(len(rows) // FRAMES)]


def ours(decode: Literal["exact", "fast"], in_files: bool = True) -> Contender:
    """The loader, over the files of the corpus in their first epoch, or over JPEGs in memory."""

    def opened(clips: Clips) -> Callable[[], int]:
        from m2raap.adapt.pixels import Decoding, JpegFrames
        from m2raap.adapt.sampler import BatchSampler
        from m2raap.adapt.sources import ListSource
        from m2raap.models.backbone import Preprocess

        source: Any = source_of(clips.folder) if in_files else ListSource(clips.ids, clips.jpegs, [[]] * len(clips.ids))
        preprocess = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest")
        decoding: Any = Decoding()
        frames = JpegFrames(source, preprocess, FRAMES, decoding, decode=decode)
        sampler = BatchSampler(source.num_clips, BATCH, 0, 1, None, source.read_groups, source.shuffle_window)

        def run() -> int:
            done = 0
            for step in range(1, sampler.steps_per_epoch + 1):
                batch = frames.batch(sampler.clips(step), 0)[0]
                done += len(batch)
                frames.give_back(batch)
            decoding.close()
            return done

        return run

    return opened


def source_of(folder: Path) -> Any:
    from m2raap.core.videos import VideoDigests
    from m2raap.core.view import open_view
    from m2raap.stages.source import ViewSource
    from m2raap.video.limits import VideoConfig

    return ViewSource(open_view(folder / "keyframes"), "train", VideoConfig(), VideoDigests(folder / "videos.json"))


def in_memory(turn: Callable[[bytes], object]) -> Contender:
    """`turn` of every JPEG, which lie in memory before the clock starts."""

    def opened(clips: Clips) -> Callable[[], int]:
        rows = clips.jpegs

        def run() -> int:
            for jpegs in rows:
                for data in jpegs:
                    turn(data)
            return len(rows)

        return run

    return opened


def pillow(data: bytes) -> object:
    """open_clip's transforms without the normalisation: decode, bicubic resize of the short side, centre crop."""
    from PIL import Image

    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIZE / min(picture.size)
    size = (int(picture.size[0] * scale), int(picture.size[1] * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
    return np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)))


def opencv(data: bytes) -> object:
    """Bare: decode and a cubic resize of the whole picture."""
    import cv2

    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    scale = SIZE / min(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB)


def torchvision(data: bytes) -> object:
    """Bare: decode_jpeg and resize with antialiasing."""
    import torch
    from torchvision.io import decode_jpeg
    from torchvision.transforms.v2 import functional

    picture: Any = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    resized: Any = functional.resize(picture, [SIZE], functional.InterpolationMode.BICUBIC)
    return functional.center_crop(resized, [SIZE])


def webdataset_loader(clips: Clips) -> Callable[[], int]:
    """Shards of tar files, a shuffle buffer, Pillow's decoding and torchvision's transforms, by torch's DataLoader."""
    import webdataset

    wds: Any = webdataset
    from torch.utils.data import DataLoader
    from torchvision.transforms.v2 import functional

    def pictures(sample: dict[str, Any]) -> Any:
        frames = [sample[f"{frame}.jpg"] for frame in range(FRAMES)]
        resized = [functional.resize(frame, [SIZE], functional.InterpolationMode.BICUBIC) for frame in frames]
        return np.stack([np.asarray(functional.center_crop(frame, [SIZE])) for frame in resized])

    data = wds.WebDataset(str(clips.folder / "shard.tar"), shardshuffle=False).shuffle(1000).decode("pil").map(pictures)
    loader = DataLoader(data.batched(BATCH), batch_size=None, num_workers=0)
    return lambda: sum(len(batch) for batch in loader)


CONTENDERS: dict[str, Contender] = {
    "ours, exact": ours("exact"),
    "ours, fast": ours("fast"),
    "ours, fast, JPEGs in memory": ours("fast", in_files=False),
    "Pillow, exact arithmetic": in_memory(pillow),
    "OpenCV, bare": in_memory(opencv),
    "torchvision, bare": in_memory(torchvision),
    "webdataset + DataLoader": webdataset_loader,
}
WARMED = (
    "cv2",
    "PIL.Image",
    "torch",
    "torchvision.io",
    "torchvision.transforms.v2",
    "webdataset",
    "m2raap.adapt.pixels",
)


# --- the corpus ---


def make(folder: Path, data: Path, num_clips: int) -> None:
    """A corpus of `num_clips` clips whose key-frames are stored, and the same pictures for the other contenders."""
    from m2raap.core.corpus import write_corpus

    pictures = list(stored_frames(data))
    rng = np.random.default_rng(0)
    rows = [[pictures[i] for i in rng.integers(len(pictures), size=FRAMES)] for _ in range(num_clips)]
    ids = [f"clip{number:06d}" for number in range(num_clips)]
    clips = [{"clip_id": i, "video": "a.mp4", "start_s": None, "end_s": None, "split": "train"} for i in ids]
    texts = [text_row(i) for i in ids]
    (folder / "videos").mkdir()
    corpus = write_corpus(folder / "corpus", clips, texts, video_root=folder / "videos", source={"kind": "bench"})
    write_frames(corpus, folder / "keyframes", dict(zip(ids, rows, strict=True)))
    np.savez(
        folder / "jpegs.npz",
        **{f"{c}-{f}": np.frombuffer(j, np.uint8) for c, r in enumerate(rows) for f, j in enumerate(r)},
    )
    try:
        import webdataset
    except ImportError:
        return
    library: Any = webdataset
    with library.TarWriter(str(folder / "shard.tar")) as sink:
        for clip_id, jpegs in zip(ids, rows, strict=True):
            sink.write({"__key__": clip_id} | {f"{frame}.jpg": jpeg for frame, jpeg in enumerate(jpegs)})


def text_row(clip_id: str) -> dict[str, Any]:
    return {
        "text_id": f"{clip_id}.en", "clip_id": clip_id, "lang": "en", "text": f"what {clip_id} shows", "origin": "raw",
        "parent_text_id": None, "frame_index": None, "producer": None, "active": True,
    }  # fmt: skip


def write_frames(corpus: Any, folder: Path, jpegs_of: dict[str, list[bytes]]) -> None:
    """A finished folder of the stage keyframes with these pictures."""
    from m2raap.core.corpus import open_corpus
    from m2raap.core.files import write_json
    from m2raap.core.folder import plan_of
    from m2raap.core.signed import FORMAT, manifest_digest, part_key
    from m2raap.core.tables import part_of, write_part
    from m2raap.core.view import View

    parts: list[list[dict[str, Any]]] = [[] for _ in range(corpus.num_parts)]
    for clip_id, jpegs in jpegs_of.items():
        count = len(jpegs)
        parts[part_of(clip_id, corpus.num_parts)].append(
            {
                "clip_id": clip_id, "times_s": [float(i) for i in range(count)], "shots": [0] * count,
                "scores": [1.0] * count, "why": ["bench"] * count, "hashes": [0] * count, "jpegs": jpegs,
                "width": 455, "height": 256,
            }
        )  # fmt: skip
    files = {part_key("frames", part): write_part(folder, "frames", part, rows) for part, rows in enumerate(parts)}
    plan = plan_of("keyframes", 1, View(open_corpus(corpus.path).path), {"score": {}, "apply": {}})
    view = {"corpus": os.path.relpath(corpus.path, folder), "folders": [], "langs": ["en", "zh"], "cutoff": None}
    manifest: dict[str, Any] = plan | {
        "kind": "stage", "format": FORMAT, "files": files, "view": view, "counts": {"clips": len(jpegs_of)}, "models": {},
        "libraries": {},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest | {"digest": manifest_digest(manifest)})


def stored_frames(data: Path) -> Iterator[bytes]:
    """JPEGs as the stage keyframes stores them, of real clips; made up where there are none."""
    from PIL import Image

    clips = sorted(data.glob("*.mp4"))[:12]
    if clips:
        from m2raap.video.extract import KeyframeConfig
        from m2raap.video.limits import VideoConfig
        from m2raap.video.worker import VideoWorker

        with VideoWorker(VideoConfig()) as worker:
            for clip in clips:
                yield from worker.extract(clip, 0.0, None, KeyframeConfig(k=FRAMES)).jpegs
        return
    rng = np.random.default_rng(0)
    for _ in range(96):
        picture = Image.fromarray(rng.integers(0, 256, (16, 28, 3), dtype=np.uint8)).resize((455, 256))
        noisy = np.asarray(picture).astype(int) + rng.integers(-6, 7, (256, 455, 3))
        out = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        yield out.getvalue()


# --- measuring ---


def measure_in_process(name: str, folder: Path) -> None:
    import importlib

    for module in WARMED:
        try:
            importlib.import_module(module)
        except ImportError:
            continue
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    clips = Clips(folder)
    _ = clips.jpegs  # into the page cache
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    try:
        run = CONTENDERS[name](clips)
        begin, wall = cpu_s(), time.perf_counter()
        done = run()
    except ImportError as absent:
        print(json.dumps({"absent": str(absent)}))
        return
    print(json.dumps({"clips": done, "cpu_s": cpu_s() - begin, "wall_s": time.perf_counter() - wall}))


def cpu_s() -> float:
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime


def amplification(folder: Path, window_clips: int) -> dict[str, float]:
    """Bytes read in an epoch over the bytes of all key-frames, where a window of the shuffle holds so many clips."""
    from m2raap.adapt.sampler import WINDOW_BATCHES, BatchSampler
    from m2raap.core.frames import FrameReader

    source, batch = source_of(folder), window_clips // WINDOW_BATCHES
    total = sum(len(jpeg) for clip in range(source.num_clips) for jpeg in source.frames(clip))
    mean = total / source.num_clips
    read = {}
    for name, groups, window in (("windows", source.read_groups, window_clips), ("one permutation", None, None)):
        source._frames = FrameReader([folder / "keyframes"], int(mean * window_clips * 1.05), verify=False)
        sampler = BatchSampler(source.num_clips, batch, 0, 1, None, groups, window)
        clips = np.concatenate([sampler.clips(step) for step in range(1, sampler.steps_per_epoch + 1)])
        needed = sum(len(jpeg) for clip in clips for jpeg in source.frames(int(clip)))
        read[name] = source.read_bytes / needed
    return read


def decodes_a_step(folder: Path) -> float:
    """How often a training with gradient caching decodes a clip in a step."""
    import m2raap.adapt.pixels as pixels
    from m2raap.adapt.config import AdaptConfig
    from m2raap.adapt.loop import adapt
    from m2raap.models.config import MeanConfig

    decoded = []
    real = pixels.decode_clips

    def counting(items: Any, *args: Any) -> Any:
        decoded.extend(clip_id for clip_id, _ in items)
        return real(items, *args)

    pixels.decode_clips = counting
    try:
        cfg = AdaptConfig(
            temporal=MeanConfig(),
            train_vision_layers=4,
            cache="off",
            batch_size=16,
            micro_batch=4,
            steps=3,
            langs=("en",),
        )
        with tempfile.TemporaryDirectory() as out:
            adapt(cfg, source_of(folder), None, Path(out))
    finally:
        pixels.decode_clips = real
    return len(decoded) / (3 * 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of video clips")
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure_in_process(options.measure[0], Path(options.measure[1]))
        return
    with tempfile.TemporaryDirectory(prefix="m2raap-bench-loader-") as temp:
        folder = Path(temp)
        make(folder, options.data, options.clips)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        for _ in range(options.repeats):
            for name in CONTENDERS:
                command = [sys.executable, __file__, "--measure", name, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
                if done.returncode:
                    raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        rates = {
            name: statistics.median(run["clips"] / run["cpu_s"] for run in results)
            for name, results in runs.items()
            if "absent" not in results[0]
        }
        quickest = max(rates["OpenCV, bare"], rates.get("torchvision, bare", 0))
        result = {
            "clips_per_core_s": rates,
            "fast over the quickest bare": rates["ours, fast, JPEGs in memory"] / quickest,
            "fast over the quickest bare, with reading": rates["ours, fast"] / quickest,
            "fast over exact": rates["ours, fast"] / rates["ours, exact"],
            "read amplification": amplification(folder, options.clips // 4),
            "decodes of a clip a step": decodes_a_step(folder),
        }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    for name, rate in rates.items():
        print(f"{name:28s} {rate:8.1f} clips a second of a core")
    print(
        f"ours fast / quickest bare, both of JPEGs in memory: {result['fast over the quickest bare']:.2f}; goal at least 0.9"
    )
    print(
        f"ours fast, with reading the files / quickest bare: {result['fast over the quickest bare, with reading']:.2f}"
    )
    print(f"ours fast / ours exact: {result['fast over exact']:.2f}; goal at least 2")
    for name, read in result["read amplification"].items():
        print(f"bytes read / bytes needed, {name}: {read:.2f}; goal at most 1.3")
    print(f"decodes of a clip a step with gradient caching: {result['decodes of a clip a step']:.2f}; goal 1")


if __name__ == "__main__":
    main()
