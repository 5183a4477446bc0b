"""One record of YouTube-8M (Abu-El-Haija et al., arXiv 1609.08675): a video's id, the numbers of its labels, and its vectors.

A video-level record is an Example with `mean_rgb` and `mean_audio`; a frame-level one is a SequenceExample with `rgb` and
`audio`, a vector of one byte a value for each second. The starter kit (google/youtube-8m, utils.py, Dequantize) reads such
bytes as the middles of equal steps from -2 to 2, nearly: x * 4 / 255 + 4 / 512 - 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_tools.tf_example import parse, serialise

STEP = 4 / 255  # by which two neighbouring bytes differ
LOWEST = 4 / 512 - 2  # what the byte 0 means
IDS = ("id", "video_id")  # the second in the first release
_VIDEO_LEVEL, _FRAME_LEVEL = ("mean_rgb", "mean_audio"), ("rgb", "audio")
_READ = (*IDS, "labels", *_VIDEO_LEVEL, *_FRAME_LEVEL)


@dataclass(frozen=True)
class Video:
    """`labels`: numbers, each once; empty where the record has none. `features`: float16 (K, dim), rgb before audio; at the
    video level K is 1. `unread`: names of what else the record holds."""

    video_id: str
    labels: tuple[int, ...]
    features: np.ndarray
    level: str  # video or frame
    unread: frozenset[str] = frozenset()


def read_video(data: bytes) -> Video:
    """The video of a record. Raises ValueError that says what is wrong with it."""
    context, lists = parse(data)
    level = "frame" if "rgb" in lists else "video"
    names = _FRAME_LEVEL if level == "frame" else _VIDEO_LEVEL
    vectors = [_frames(lists, name) if level == "frame" else _means(context, name) for name in names]
    rgb, audio = vectors
    if rgb is None:
        present = ", ".join(sorted([*context, *lists])[:20]) or "nothing"
        raise ValueError(f"has no features: expected 'mean_rgb', or the list 'rgb', and has {present}")
    if audio is not None and len(audio) != len(rgb):
        raise ValueError(f"has {len(rgb):,} frames of 'rgb' and {len(audio):,} of 'audio'")
    whole = np.concatenate([vector for vector in vectors if vector is not None], axis=1)
    with np.errstate(over="ignore"):
        features = whole.astype("<f2")
    if not np.isfinite(features).all():
        raise ValueError("has features that are NaN, infinite, or too large for float16 (65,504)")
    unread = {*context, *lists}.difference(_READ)
    return Video(_id(context), _labels(context), features, level, frozenset(unread))


def _id(context: Mapping[str, Any]) -> str:
    values = [value for name in IDS if name in context for value in context[name].bytes_list.value]
    if len(values) != 1:
        raise ValueError(f"has {len(values) or 'no'} values of 'id'; expected one")
    try:
        video_id = values[0].decode()
    except UnicodeDecodeError:
        raise ValueError(f"has the id {values[0][:40]!r}, which is not UTF-8") from None
    if not 0 < len(video_id) <= 500 or not video_id.isprintable():
        raise ValueError(f"has the id {video_id[:40]!r}; expected 1 to 500 characters without control characters")
    return video_id


def _labels(context: Mapping[str, Any]) -> tuple[int, ...]:
    labels = tuple(dict.fromkeys(context["labels"].int64_list.value)) if "labels" in context else ()
    if negative := [label for label in labels if label < 0]:
        raise ValueError(f"has the label {negative[0]}; labels are numbers from 0")
    return labels


def _means(context: Mapping[str, Any], name: str) -> np.ndarray | None:
    """float32 (1, dim)."""
    if name not in context:
        return None
    values = np.asarray(context[name].float_list.value, np.float32)
    if not len(values):
        raise ValueError(f"'{name}' holds no floats")
    return values[None]


def _frames(lists: Mapping[str, Any], name: str) -> np.ndarray | None:
    """float32 (K, dim)."""
    if name not in lists:
        return None
    frames = [list(frame.bytes_list.value) for frame in lists[name].feature]
    lengths = {len(value) for values in frames for value in values}
    if not frames or any(len(values) != 1 for values in frames) or len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"'{name}' is no list of frames with one vector of bytes each, all of one length")
    bytes_KD = np.frombuffer(b"".join(values[0] for values in frames), np.uint8).reshape(len(frames), -1)
    return bytes_KD.astype(np.float32) * np.float32(STEP) + np.float32(LOWEST)


def quantised(features: np.ndarray) -> np.ndarray:
    """uint8 of the same shape: the nearest bytes; values below -2 or above 2 become 0 and 255."""
    return np.clip(np.rint((features.astype(np.float64) - LOWEST) / STEP), 0, 255).astype(np.uint8)


def write_video(video: Video) -> bytes:
    """The record of a video, whose whole vector is `mean_rgb` or `rgb`; at the video level the mean of its frames."""
    context: dict[str, Any] = {"id": [video.video_id.encode()], "labels": list(video.labels)}
    if video.level == "frame":
        return serialise(context, {"rgb": [[row.tobytes()] for row in quantised(video.features)]})
    return serialise(context | {"mean_rgb": video.features.astype(np.float32).mean(axis=0)})
