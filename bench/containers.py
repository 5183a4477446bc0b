"""Claim: one clip in 21 containers gives the same eight frames, or is refused with a reason.

The clip is that of the package iscc-samples (its mp4 is the reference):

    pip download --no-deps --no-binary :all: iscc-samples && tar xzf iscc_samples-*.tar.gz
    python bench/containers.py --samples iscc_samples-*/iscc_samples/files/video

A file passes with exactly eight frames whose times lie within 0.1 s of the mp4's (some containers start their clock later:
then within 0.1 s after the median offset, which is printed) and whose structural similarity to them, after scaling, is at
least 0.8; or if it is refused with a reason. Every file goes through the killable decoder process and its limits.
"""

from __future__ import annotations

import argparse
import io
import statistics
from pathlib import Path

import numpy as np

from m2raap.video.extract import ClipKeyframes, KeyframeConfig
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.worker import VideoWorker

K = 8
SLACK_S = 0.1
MIN_SSIM = 0.8
SIZE = (256, 192)  # both sides of a comparison are scaled to this


def luma(jpeg: bytes) -> np.ndarray:
    """float64 [H, W] in 0..255."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L").resize(SIZE, Image.Resampling.BICUBIC), np.float64)


def ssim(one_HW: np.ndarray, two_HW: np.ndarray) -> float:
    """Mean structural similarity with a Gaussian window of sigma 1.5 (Wang et al. 2004, eq. 13)."""
    import cv2

    def blur(image_HW: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image_HW, (11, 11), 1.5)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_1, mean_2 = blur(one_HW), blur(two_HW)
    var_1, var_2 = blur(one_HW**2) - mean_1**2, blur(two_HW**2) - mean_2**2
    both = blur(one_HW * two_HW) - mean_1 * mean_2
    top = (2 * mean_1 * mean_2 + c1) * (2 * both + c2)
    return float((top / ((mean_1**2 + mean_2**2 + c1) * (var_1 + var_2 + c2))).mean())


def compare(clip: ClipKeyframes, mp4: ClipKeyframes) -> tuple[bool, str]:
    """Whether the frames are those of the mp4, and the figures."""
    if len(clip.jpegs) != K:
        return False, f"{len(clip.jpegs)} frames"
    shifts = [a - b for a, b in zip(clip.times_s, mp4.times_s, strict=True)]
    offset_s = statistics.median(shifts)
    apart_s = max(map(abs, shifts))
    if apart_s > SLACK_S:
        apart_s = max(abs(shift - offset_s) for shift in shifts)
    similarities = [ssim(luma(a), luma(b)) for a, b in zip(clip.jpegs, mp4.jpegs, strict=True)]
    good = apart_s <= SLACK_S and min(similarities) >= MIN_SSIM
    return good, (
        f"{K} frames, {clip.width}x{clip.height}, times apart {apart_s:.3f} s (offset {offset_s:+.3f} s), "
        f"SSIM least {min(similarities):.3f}, mean {statistics.mean(similarities):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True, help="the folder with demo.mp4 and its copies")
    parser.add_argument("--strategy", default="uniform", help="of m2raap.video.choose")
    args = parser.parse_args()
    cfg = KeyframeConfig.model_validate({"k": K, "strategy": args.strategy})
    counts = {"frames": 0, "reason": 0, "WRONG": 0}
    with VideoWorker(VideoConfig()) as worker:
        mp4 = worker.extract((args.samples / "demo.mp4").resolve(), 0.0, None, cfg)
        for path in sorted(args.samples.glob("demo.*")):
            try:
                good, figures = compare(worker.extract(path.resolve(), 0.0, None, cfg), mp4)
                outcome = "frames" if good else "WRONG"
            except Refused as refused:
                outcome, figures = "reason", str(refused)
            counts[outcome] += 1
            print(f"{path.suffix[1:]:<5} {outcome:<7} {figures}")
    print(", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
