"""Converts pictures in the colours of HDR video and BT.2020 to those of ordinary screens: sRGB's primaries, BT.1886's gamma.

A picture of PQ or HLG that is shown without this is grey and flat. White is at 203 cd/m2 (ITU-R BT.2408) and keeps its colour;
what is brighter is compressed by the curve of ITU-R BT.2390, up to PEAK_NITS. The curve is applied to the largest of the three
channels and the others are scaled with it, so that hues stay.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from m2raap.video.limits import Refused

WHITE_NITS = 203.0
PEAK_NITS = 1000.0  # what is brighter is shown as this; usual for HDR10 and nominal for HLG
_GAMMA = 2.4  # of the display, by ITU-R BT.1886
# Linear BT.2020 to BT.709, ITU-R BT.2087.
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)

HDR_TRANSFERS = ("smpte2084", "arib-std-b67")  # PQ and HLG
_HDR_NUMBERS, _BT2020 = (16, 18), 9  # as FFmpeg and ITU-T H.273 number them
UNKNOWN = "unknown"


def transfer(frame: Any) -> str:
    """FFmpeg's name of a frame's transfer function (`color_transfer`), such as bt709, smpte2084 or unknown."""
    from av.video.reformatter import ColorTrc

    return _name(ColorTrc, frame.color_trc)


def primaries(frame: Any) -> str:
    """FFmpeg's name of a frame's colour primaries (`color_primaries`), such as bt709, bt2020 or unknown."""
    from av.video.reformatter import ColorPrimaries

    return _name(ColorPrimaries, frame.color_primaries)


def _name(names: Any, number: int) -> str:
    try:
        name = names(number).name
    except ValueError:
        return UNKNOWN
    return UNKNOWN if name == "UNSPECIFIED" else name.lower().replace("_", "-")


def refuse_dolby_vision_alone(frame: Any) -> None:
    """Raises Refused (unsupported_codec) for a frame of Dolby Vision that is no ordinary picture as well: profile 5.

    Such a picture is green and purple without the conversion that its metadata state, which FFmpeg does not apply. They are
    recognised as FFmpeg does: VDR RPU profile 0 with a base layer of full range.
    """
    metadata = frame.side_data.get("DOVI_METADATA")
    if metadata is None:
        return
    # AVDOVIMetadata: an offset of size_t, at which AVDOVIRpuDataHeader begins (libavutil/dovi_meta.h).
    data = bytes(metadata)
    header = data[int.from_bytes(data[:8], sys.byteorder) :][:11]
    if len(header) == 11 and header[4] == 0 and header[10] == 1:
        raise Refused(
            "unsupported_codec", "the colours are of Dolby Vision alone (profile 5); convert the video to HDR10"
        )


def is_hdr(frame: Any) -> bool:
    """Whether the transfer function of a frame is PQ or HLG."""
    return frame.color_trc in _HDR_NUMBERS  # called for every frame


def has_wide_gamut(frame: Any) -> bool:
    """Whether the colour primaries of a frame are those of BT.2020."""
    return frame.color_primaries == _BT2020


def to_screen(rgb_HWC: np.ndarray, transfer: str, wide_gamut: bool) -> np.ndarray:
    """uint16 RGB [H, W, 3] in the colours of a video -> uint8 RGB [H, W, 3] for an ordinary screen."""
    light_HWC = _linear(transfer)[rgb_HWC]  # 1.0 is white
    if transfer in HDR_TRANSFERS:
        largest_HW = np.maximum(light_HWC.max(axis=-1), 1e-6)
        light_HWC = light_HWC * (_compressed(largest_HW) / largest_HW)[..., None]
    if wide_gamut:
        light_HWC = light_HWC @ _TO_BT709.T
    screen_HWC = np.clip(light_HWC, 0, 1) ** (1 / _GAMMA)
    return (screen_HWC * 255 + 0.5).astype(np.uint8)


@cache
def screen_table(transfer: str) -> np.ndarray:
    """uint8 [256]: the values of one channel of a PQ or HLG picture -> values for an ordinary screen, without the gamut."""
    grey = np.repeat(np.arange(256, dtype=np.uint16)[:, None, None] * 257, 3, axis=-1)
    return to_screen(grey, transfer, wide_gamut=False)[:, 0, 0]


@cache
def _linear(transfer: str) -> np.ndarray:
    """float32 [65536]: the values of one channel -> light; 1.0 is white.

    The system gamma of HLG, 1.2, is applied to each channel, which gives the saturation of an SDR camera (the conversion of
    scene light of BT.2408).
    """
    value = np.linspace(0, 1, 65536)
    if transfer == "smpte2084":
        light = _pq_nits(value) / WHITE_NITS
    elif transfer == "arib-std-b67":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(value <= 0.5, value**2 / 3, (np.exp((value - c) / a) + b) / 12)
        light = scene**1.2 * PEAK_NITS / WHITE_NITS
    else:
        light = value**_GAMMA
    return light.astype(np.float32)


def _compressed(light: np.ndarray) -> np.ndarray:
    """The curve of BT.2390 from PEAK_NITS to WHITE_NITS, on light in units of white."""
    peak, white = _pq(np.float64(PEAK_NITS)), _pq(np.float64(WHITE_NITS))
    largest = white / peak
    knee = 1.5 * largest - 0.5
    value = np.minimum(_pq(light * WHITE_NITS) / peak, 1.0)
    t = np.maximum((value - knee) / (1 - knee), 0.0)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * largest
    return (_pq_nits(np.where(value < knee, value, bent) * peak) / WHITE_NITS).astype(np.float32)


# SMPTE ST 2084.
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128


def _pq(nits: Any) -> Any:
    light = (nits / 10000) ** _M1
    return ((_C1 + _C2 * light) / (1 + _C3 * light)) ** _M2


def _pq_nits(value: Any) -> Any:
    root = value ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)
