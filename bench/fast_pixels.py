"""What `adapt.decode: fast` changes: the vectors of a benchmark's clips from OpenCV's pixels against Pillow's, and its R@1.

On the synthetic world by the tiny model with mean pooling, and, where real clips are at hand, the pixels of their key-frames.
Printed: mean and largest difference of pixels (0..255), mean and smallest cosine of the two vectors of a clip, R@1 from text to
video by either, and the share of queries whose hit differs.

    python bench/fast_pixels.py [--data DIR] [--out DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from loader import SHARED, stored_frames

from m2raap.adapt.pixels import Decoding, JpegFrames, images_of
from m2raap.adapt.texts import text_table
from m2raap.core.videos import VideoDigests
from m2raap.core.view import open_view
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.pictures import Resize, pixels_from_jpegs
from m2raap.models.video_clip import VideoCLIP
from m2raap.stages.source import ViewSource
from m2raap.video.limits import VideoConfig


def m2raap(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "m2raap.cli.main", *words], check=True, stdout=subprocess.DEVNULL)


def vectors(model: VideoCLIP, source: ViewSource, decode: Literal["exact", "fast"]) -> torch.Tensor:
    decoding, blocks = Decoding(), []
    frames = JpegFrames(source, model.backbone.preprocess, 8, decoding, decode=decode)
    with torch.inference_mode():
        for start in range(0, source.num_clips, 32):
            pixels, mask = frames.batch(np.arange(start, min(start + 32, source.num_clips)))
            blocks.append(model.encode_video(images_of(pixels, mask, model.backbone.preprocess), mask))
    decoding.close()
    return torch.cat(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of video clips")
    parser.add_argument("--out", type=Path, help="folder of the world, which is made where it is absent and stays")
    options = parser.parse_args()
    real = list(stored_frames(options.data))
    exact, fast = (
        pixels_from_jpegs(real, Resize(224, "bicubic", "shortest"), fast=f).astype(int) for f in (False, True)
    )
    away = np.abs(exact - fast)
    print(f"{len(real)} key-frames to 224 px: pixels differ by {away.mean():.2f} in the mean, {away.max()} at most")
    with tempfile.TemporaryDirectory() as temp:
        out = options.out or Path(temp)
        if not (out / "K" / "manifest.json").exists():
            m2raap("data", "import", "world", "--out", str(out / "W"))
            m2raap("keyframes", str(out / "W" / "test"), "--out", str(out / "K"))
        source = ViewSource(open_view(out / "K"), "test", VideoConfig(), VideoDigests(out / "videos.json"))
        model = VideoCLIP(load_backbone(BackboneConfig()), MeanConfig())
        by_way = [vectors(model, source, "exact"), vectors(model, source, "fast")]
        cosine = (by_way[0] * by_way[1]).sum(1)
        print(
            f"{source.num_clips} clips, tiny model: cosine of the vectors {cosine.mean():.5f}, at least {cosine.min():.5f}"
        )
        table = text_table(source, model.backbone.tokenizer, ("en", "zh"), {}, {})
        for lang in table.langs:
            clips, rows = table.queries_of(lang)
            with torch.inference_mode():
                text = model.encode_text(table.tokens.rows(rows))
            hits = [((text @ vectors_NE.T).argmax(1).numpy() == clips) for vectors_NE in by_way]
            r1 = [f"{100 * hit.mean():.1f}" for hit in hits]
            print(
                f"{lang}: R@1 {r1[0]} exact, {r1[1]} fast; {100 * (hits[0] != hits[1]).mean():.1f}% of the hits differ"
            )


if __name__ == "__main__":
    main()
