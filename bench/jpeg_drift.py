"""How much embeddings of the stored JPEGs differ from those of the decoded frames, by short side and JPEG quality.

Each clip's eight key-frames are embedded twice: as they come from the decoder (full size, no loss) and as stored. Printed:
the cosine of the two, and how often the nearest caption of the clip (mean of its frames) stays the same.

    python bench/jpeg_drift.py [--data DIR] [--limit N] [--model builtin:tiny] [--random-init]
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "panda70m"
SETTINGS = [(short_side_px, quality) for short_side_px in (224, 256, 336) for quality in (75, 90, 95)]


def as_decoded(path: Path, times_s: list[float]) -> list[bytes]:
    """The frames at `times_s` as PNGs, in the colours that PyAV gives them."""
    import av
    from PIL import Image

    pngs = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        frame: Any
        for frame in container.decode(stream):
            time_s = float((frame.pts - (stream.start_time or 0)) * stream.time_base)
            if len(pngs) < len(times_s) and time_s >= times_s[len(pngs)] - 1e-4:
                buffer = io.BytesIO()
                Image.fromarray(frame.to_ndarray(format="rgb24")).save(buffer, "PNG", compress_level=1)
                pngs.append(buffer.getvalue())
    assert len(pngs) == len(times_s)
    return pngs


def captions_of(data: Path, clips: list[Path]) -> list[str]:
    """One caption per clip, in the order of the clips; an empty list where captions.jsonl is missing or lacks a clip."""
    path = data / "captions.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_name = {Path(row["video"]).name: row["caption"] for row in rows}
    return [by_name[clip.name] for clip in clips] if all(clip.name in by_name for clip in clips) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with videos/ and captions.jsonl")
    parser.add_argument("--limit", type=int, help="only the first N clips")
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--random-init", action="store_true", help="use random weights")
    options = parser.parse_args()
    clips = sorted((options.data / "videos").glob("*.mp4"))[: options.limit]
    if not clips:
        print(f"no clips below {options.data}: give --data DIR")
        return
    import torch

    from m2raap.curate.encode import encoder
    from m2raap.models.config import BackboneConfig
    from m2raap.video.clip import KeyframeConfig
    from m2raap.video.worker import VideoWorker

    torch.set_num_threads(1)
    encode = encoder(BackboneConfig(model=options.model, random_init=options.random_init))
    captions = captions_of(options.data, clips)
    texts_NE = encode.texts(captions) if captions else None

    direct: list[np.ndarray] = []
    stored: dict[tuple[int, int], list[np.ndarray]] = {setting: [] for setting in SETTINGS}
    num_bytes = dict.fromkeys(SETTINGS, 0)
    with VideoWorker() as worker:
        for clip in clips:
            times_s: list[float] = []
            for short_side_px, quality in SETTINGS:
                # All settings choose the same times; only scaling and encoding differ.
                cfg = KeyframeConfig(short_side_px=short_side_px, jpeg_quality=quality)
                clip_frames = worker.extract(clip, 0.0, None, cfg)
                assert clip_frames.times_s == (times_s or clip_frames.times_s)
                times_s = clip_frames.times_s
                stored[short_side_px, quality].append(encode.images(clip_frames.jpegs))
                num_bytes[short_side_px, quality] += sum(map(len, clip_frames.jpegs))
            direct.append(encode.images(as_decoded(clip, times_s)))
    print(f"{len(clips)} clips, {sum(map(len, direct))} frames, {options.model}, against direct decode:")
    print("  short side  quality   kB a frame   cosine mean      min   same nearest caption")
    for (short_side_px, quality), frames in stored.items():
        cosines = np.concatenate(
            [(stored_KE * direct_KE).sum(1) for stored_KE, direct_KE in zip(frames, direct, strict=True)]
        )
        same = "no captions" if texts_NE is None else f"{agreement(frames, direct, texts_NE):.1%}"
        size = num_bytes[short_side_px, quality] / len(cosines) / 1000
        print(
            f"  {short_side_px:10d} {quality:8d} {size:12.1f} {cosines.mean():13.5f} {cosines.min():8.5f}   {same}"
            + ("   (the default)" if (short_side_px, quality) == (256, 90) else "")
        )


def agreement(a_KE: list[np.ndarray], b_KE: list[np.ndarray], texts_NE: Any) -> float:
    """Share of clips whose nearest text is the same by the frames of `a_KE` and of `b_KE`."""
    nearest = [[int((frames_KE.mean(0) @ texts_NE.T).argmax()) for frames_KE in side] for side in (a_KE, b_KE)]
    return float(np.mean(np.equal(nearest[0], nearest[1])))


if __name__ == "__main__":
    main()
