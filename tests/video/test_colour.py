"""HDR and BT.2020 as an ordinary screen shows them, and as signals."""

from __future__ import annotations

from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest

from m2raap.core.config import build
from m2raap.curate.video_rules import VideoRulesConfig, video_refusals
from m2raap.video import colour
from m2raap.video.extract import KeyframeConfig, extract
from m2raap.video.limits import VideoConfig
from m2raap.video.planes import PlaneMaker
from m2raap.video.probe import examine, probe
from m2raap.video.render import Renderer

LIMITS = VideoConfig()
BARS = np.array([[180, 180, 180], [180, 180, 0], [0, 180, 180], [0, 180, 0], [180, 0, 180], [180, 0, 0], [0, 0, 0]])
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
NUMBERS = {"smpte2084": 16, "arib-std-b67": 18, "bt709": 1}


def encoded(nits: np.ndarray, transfer: str) -> np.ndarray:
    """Light of a display -> values 0..1, by the formulas of ST 2084 and BT.2100."""
    if transfer == "smpte2084":
        power = (nits / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    if transfer == "arib-std-b67":
        scene = (nits / 1000) ** (1 / 1.2)
        bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)
    return (nits / 203) ** (1 / 2.4)


def frame_of(rgb: np.ndarray, transfer: str) -> av.VideoFrame:
    """A frame in BT.2020 of bars that an SDR screen with white at 203 cd/m2 shows as `rgb` (0..255)."""
    light = 203 * (rgb / 255.0) ** 2.4 @ TO_BT2020.T
    values = (encoded(light, transfer) * 65535).round().astype(np.uint16)
    frame = av.VideoFrame.from_ndarray(np.repeat(np.repeat(values[None], 24, 0), 16, 1), format="rgb48le")
    frame.color_trc, frame.color_primaries = NUMBERS[transfer], 9
    return frame


@pytest.mark.parametrize("transfer", NUMBERS)
def test_hdr_is_shown_as_sdr(transfer: str) -> None:
    frame = frame_of(BARS, transfer)
    pixels = np.asarray(Renderer(None, frame, 256).picture(frame))[12, 8::16].astype(int)
    assert np.abs(pixels - BARS).max() <= 8, pixels.tolist()
    plane = PlaneMaker().plane(frame)  # the measures see the same brightness, without the gamut
    assert abs(int(plane[12, 8].mean()) - 180) <= 8


def test_what_is_brighter_than_white_is_compressed() -> None:
    ramp = colour.screen_table("smpte2084").astype(int)
    assert (np.diff(ramp) >= 0).all() and ramp[0] == 0 and ramp[-1] == 255
    white, bright = (int(encoded(np.array(float(nits)), "smpte2084") * 255) for nits in (203, 600))
    assert 215 < ramp[white] < ramp[bright] < 255


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_a_signal_and_may_be_refused(make, tmp_path: Path, transfer: str) -> None:
    colours = {"color_primaries": "bt2020", "color_trc": transfer, "colorspace": "bt2020nc"}
    source = ffmpeg.input("smptebars=s=64x48:r=10:d=0.4", f="lavfi").filter("setparams", **colours)
    hdr = make(source, tmp_path / "hdr.mp4")
    header, health = probe(hdr, LIMITS), examine(hdr, LIMITS)
    for figures in (header, health):
        assert (figures.transfer, figures.primaries, figures.hdr, figures.wide_gamut) == (
            transfer,
            "bt2020",
            True,
            True,
        )
    signals = extract(hdr, 0.0, None, KeyframeConfig(k=2), LIMITS).signals
    assert (signals["transfer"], signals["hdr"], signals["size_changes"]) == (transfer, True, 0)
    rules = build(VideoRulesConfig, {"rules": {"hdr": 0, "wide_gamut": 0}}, "r.yaml").thresholds()
    signals |= {"duration_s": 3.0, "frozen_share": 0.0}
    assert [r.reason for r in video_refusals(signals, rules) if r.reason != "clip_too_small"] == ["hdr", "wide_gamut"]
    assert "hdr" not in {r.reason for r in video_refusals(signals, VideoRulesConfig().thresholds())}
