"""Copies: one text on too many clips, and near-identical clips.

Texts go by a sketch per part (hash, count), merged over parts, then decided. Clips go by 64-bit difference hashes of
their frames: bands find candidates, aligned frames verify them exactly.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.curate import language

_DIGITS = re.compile(r"\d+")


class DuplicateClipsConfig(Config):
    """When two clips are copies. Frames are compared in order, so the same things moving otherwise are no copies."""

    max_hamming: int = Field(
        default=4, ge=0, le=7, description="bits of 64 in which two hashes of one frame may differ"
    )
    min_share: float = Field(default=0.75, gt=0, le=1, description="share of aligned frames that must match")
    min_set_bits: int = Field(
        default=4, ge=0, le=32, description="a hash with fewer set (or unset) bits is a flat frame"
    )
    max_duration_gap: float = Field(default=0.1, ge=0, description="relative difference of the durations")
    max_bucket: int = Field(
        default=500, ge=2, description="clips compared per band value; larger buckets are common frames"
    )


def text_key(text: str, lang: str) -> int:
    """Signed 64-bit hash of language and normalised text: NFKC, lower case, numbers as one, no punctuation."""
    plain = " ".join(language.tokens(_DIGITS.sub("0", unicodedata.normalize("NFKC", language.visible(text)))))
    digest = hashlib.blake2b(f"{lang}\0{plain}".encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def text_sketch(rows: Iterable[tuple[str, str, str]]) -> list[tuple[int, int]]:
    """(text_key, number of clips it stands on), sorted, for rows (clip_id, lang, text) of one part.

    A clip lies in one part, so counts of parts add up.
    """
    seen = {(text_key(text, lang), clip_id) for clip_id, lang, text in rows}
    return sorted(Counter(key for key, _ in seen).items())


def common_texts(sketches: Iterable[Iterable[tuple[int, int]]], max_copies: int) -> dict[int, int]:
    """text_key -> clips, for the texts that stand on more than `max_copies` clips of the corpus."""
    total: Counter[int] = Counter()
    for sketch in sketches:
        for key, count in sketch:
            total[key] += count
    return {key: count for key, count in sorted(total.items()) if count > max_copies}


def near_duplicate_clips(
    ids: Sequence[str],
    hashes: Sequence[Sequence[int]],
    durations_s: Sequence[float],
    cfg: DuplicateClipsConfig | None = None,
    verify: Callable[[str, str], bool] | None = None,
) -> dict[str, str]:
    """dropped clip_id -> kept clip_id (the smallest id of its group), sorted by dropped id.

    hashes: per clip the 64-bit dHashes of its frames in time order, signed or not; clips may differ in number of frames
    (frames are then aligned by relative position). A copy must match a *kept* clip in `min_share` of the aligned frames
    and in duration; flat frames match nothing. `verify(kept, dropped)` may look closer (pixels) at a found pair. The
    result depends on the set of clips alone, never on their order. Work: a sort, and at most max_bucket comparisons a
    clip, band and frame.
    """
    cfg = cfg or DuplicateClipsConfig()
    assert len(ids) == len(hashes) == len(durations_s) and len(set(ids)) == len(ids)
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)  # of kept clips only
    durations = np.asarray(durations_s, np.float64)
    planes = [np.array([h & 0xFFFFFFFFFFFFFFFF for h in row], np.uint64) for row in hashes]
    dropped: dict[str, str] = {}
    for at in sorted(range(len(ids)), key=lambda i: ids[i]):
        bands = _bands(planes[at], cfg)
        near = np.array(sorted({o for band in bands for o in buckets.get(band, ())}), np.int64)
        gap = np.abs(durations[near] - durations[at])
        near = near[gap <= cfg.max_duration_gap * np.maximum(np.maximum(durations[near], durations[at]), 1e-9)]
        shares = _matching_shares(planes, near, at, cfg)
        found = [
            int(o)
            for o in near[shares >= cfg.min_share].tolist()
            if verify is None or verify(str(ids[o]), str(ids[at]))
        ]
        if found:
            dropped[ids[at]] = min(ids[o] for o in found)
            continue
        # A dropped clip is not looked up itself, so that chains of likeness do not drop the unlike.
        for band in bands:
            if len(buckets[band]) < cfg.max_bucket:
                buckets[band].append(at)
    return dropped


def _matching_shares(planes: list[np.ndarray], near: np.ndarray, at: int, cfg: DuplicateClipsConfig) -> np.ndarray:
    """matching_share of clip `at` with each of `near`; those with equally many frames in one go."""
    shares = np.zeros(len(near))
    equal = np.array([len(planes[o]) == len(planes[at]) for o in near], bool)
    if equal.any():
        others_NK = np.stack([planes[o] for o in near[equal]])
        shares[equal] = _frame_matches(others_NK, planes[at][None], cfg).mean(axis=1)
    for i in np.flatnonzero(~equal):
        shares[i] = matching_share(planes[near[i]], planes[at], cfg)
    return shares


def matching_share(first: np.ndarray, second: np.ndarray, cfg: DuplicateClipsConfig) -> float:
    """Share of aligned frames (uint64 hashes, time order) of two clips that match; flat frames do not."""
    if len(first) == 0 or len(second) == 0:
        return 0.0
    num = max(len(first), len(second))
    a, b = first[_stretch(len(first), num)], second[_stretch(len(second), num)]
    return float(np.mean(_frame_matches(a, b, cfg)))


def _frame_matches(a: np.ndarray, b: np.ndarray, cfg: DuplicateClipsConfig) -> np.ndarray:
    near = np.bitwise_count(a ^ b) <= cfg.max_hamming
    return near & _has_content(a, cfg.min_set_bits) & _has_content(b, cfg.min_set_bits)


def _stretch(length: int, num: int) -> np.ndarray:
    return np.rint(np.linspace(0, length - 1, num)).astype(np.int64)


def _has_content(planes: np.ndarray, min_set_bits: int) -> np.ndarray:
    ones = np.bitwise_count(planes)
    return (ones >= min_set_bits) & (ones <= 64 - min_set_bits)


def _bands(planes: np.ndarray, cfg: DuplicateClipsConfig) -> list[tuple[int, int]]:
    """(band, its bits) of all frames with content. With one band more than bits may differ, one band is equal."""
    edges = np.linspace(0, 64, cfg.max_hamming + 2).astype(int)
    whole = [int(plane) for plane in planes[_has_content(planes, cfg.min_set_bits)]]
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    return sorted({(low, plane >> low & ((1 << high - low) - 1)) for plane in whole for low, high in spans})
