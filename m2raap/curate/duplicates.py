"""Near-identical clips: 64-bit hashes in banded buckets find candidates, 8 x 8 colour thumbnails of their frames decide.

A clip has three hashes (m2raap.curate.thumbnails): of the whole, of its first and of its second half. Two clips are
candidates if one of their hashes differs in at most `max_hamming` bits; the bands miss none of these as long as no bucket
overflows. The clip of better quality is kept; a dropped clip drops no other, so chains of similar clips end there.

Cost: sorting and a comparison with the neighbours in each bucket, so n log n and a term n^2 / 2^16 (2^21 with the larger
number of bands for millions of clips); `max_bucket` bounds it if many clips show one picture. Memory: about 100 bytes a clip
for the hashes, 1.5 KB for each clip that is a candidate.

Shapes: N clips, P pairs, H = 3 hashes a clip. Rows are in the order of rank, the best first; pairs are (earlier, later).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise

import numpy as np
from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.stage import Signals
from m2raap.core.tables import Row
from m2raap.core.view import Part
from m2raap.curate import thumbnails
from m2raap.curate.thumbnails import matching_shares

_BLOCK = 2048  # number of pairs whose thumbnails are compared at once
_MAX_PAIRS = 64  # most better clips with which one clip is compared


class DuplicateConfig(Config):
    """When two clips count as copies of each other."""

    max_hamming: int = Field(
        default=6, ge=0, le=12, description="Most bits of 64 in which the hashes of two candidates may differ."
    )
    max_bucket: int = Field(default=256, ge=2, description="Most neighbours in a bucket with which a clip is compared.")
    max_distance: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Distance up to which two frames match; 0: the same picture, about 1: unrelated pictures.",
    )
    min_share: float = Field(default=0.75, gt=0, le=1, description="Share of the frames, in order, that must match.")
    max_duration_gap: float = Field(default=0.1, ge=0, description="Largest relative difference of the durations.")


class ClipTable:
    """The clips among which copies are searched: about 100 bytes each besides the id."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._rows: list[tuple[float, float, bytes]] = []

    def add(self, clip_id: str, signals: Row) -> None:
        """`signals`: of keyframes and m2raap.curate.picture_signals. A clip of which no frame shows anything is left out."""
        if signals["thumbnail_hashes"] is None:
            return
        # Where too few frames could be measured, sharpness and length are unknown: such a clip ranks last, and can be a copy
        # only of a clip whose length is unknown, too.
        self._ids.append(clip_id)
        self._rows.append((signals["pick_sharpness"] or 0.0, signals["duration_s"] or 0.0, signals["thumbnail_hashes"]))

    def copies(self, parts: Iterable[tuple[Part, Signals]], cfg: DuplicateConfig) -> dict[str, str]:
        """dropped clip_id -> kept clip_id, sorted by dropped id. Of copies the sharpest is kept."""
        order = sorted(range(len(self._ids)), key=lambda at: (-self._rows[at][0], self._ids[at]))
        if not order:
            return {}
        row_of = {self._ids[at]: row for row, at in enumerate(order)}
        hashes_NH = np.frombuffer(b"".join(self._rows[at][2] for at in order), "<u8").reshape(-1, thumbnails.NUM_HASHES)

        def thumbnails_of(rows: np.ndarray) -> np.ndarray:
            asked_rows = set(rows.tolist())
            thumbs: dict[int, np.ndarray] = {}
            for part, signals_of in parts:
                for clip in part.clips:
                    if (row := row_of.get(clip["clip_id"], -1)) in asked_rows:
                        small = np.frombuffer(signals_of[clip["clip_id"]]["thumbnails"], np.uint8)
                        thumbs[row] = thumbnails.in_step(small.reshape(-1, thumbnails.SIDE, thumbnails.SIDE, 3))
            return np.stack([thumbs[row] for row in rows.tolist()])

        copies = near_duplicates(hashes_NH, [self._rows[at][1] for at in order], thumbnails_of, cfg)
        names = [self._ids[at] for at in order]
        return dict(sorted((names[dropped], names[kept]) for dropped, kept in copies.items()))


def near_duplicates(
    hashes_NH: np.ndarray,
    durations_s: Sequence[float],
    thumbnails_of: Callable[[np.ndarray], np.ndarray],
    cfg: DuplicateConfig,
) -> dict[int, int]:
    """Row of a dropped clip -> row of the kept one that it copies.

    hashes_NH: uint64; the caller leaves out clips without any frame that shows something. `thumbnails_of(rows)` returns
    (R, K, 8, 8, 3) uint8 of the R sorted rows that it is given; it is called once.
    """
    pairs = candidates(hashes_NH, cfg)
    durations = np.asarray(durations_s, np.float64)
    gap = np.abs(durations[pairs[:, 0]] - durations[pairs[:, 1]])
    longer = np.maximum(durations[pairs[:, 0]], durations[pairs[:, 1]])
    pairs = pairs[gap <= cfg.max_duration_gap * np.maximum(longer, 1e-9)]
    if not len(pairs):
        return {}
    rows = np.unique(pairs)
    thumbs = thumbnails_of(rows)
    copies: dict[int, int] = {}
    for start in range(0, len(pairs), _BLOCK):
        block = pairs[start : start + _BLOCK]
        first, second = (thumbs[np.searchsorted(rows, block[:, side])] for side in (0, 1))
        match = matching_shares(first, second, cfg.max_distance) >= cfg.min_share
        for earlier, later in block[match].tolist():  # sorted by the later clip, so the earlier one is decided already
            if later not in copies and earlier not in copies:
                copies[later] = earlier
    return copies


def candidates(hashes_NH: np.ndarray, cfg: DuplicateConfig) -> np.ndarray:
    """(P, 2) pairs with a hash that is near, sorted by the later row, then by the earlier one."""
    pairs_P2 = np.zeros((0, 2), np.int64)
    for column in range(hashes_NH.shape[1]):
        pairs_P2 = _best(np.concatenate([pairs_P2, near_pairs(hashes_NH[:, column], cfg.max_hamming, cfg.max_bucket)]))
    return pairs_P2


def near_pairs(hashes_N: np.ndarray, max_hamming: int, max_bucket: int) -> np.ndarray:
    """(P, 2) pairs of uint64 hashes that differ in at most `max_hamming` bits, each once, sorted by the later row.

    Exact while no bucket holds more than `max_bucket` hashes; in a larger one each hash is compared with that many
    neighbours in the order of the bucket. A row keeps its 64 earliest partners.
    """
    num = len(hashes_N)
    if num < 2:
        return np.zeros((0, 2), np.int64)
    # Equal hashes are compared with the others as one: a picture of many clips costs one comparison.
    values, first, inverse, counts = np.unique(hashes_N, return_index=True, return_inverse=True, return_counts=True)
    parts = [_pairs_of_equals(inverse, counts, first)]
    pending = 0
    for order in band_orders(len(values), max_hamming):
        keys, bits = _with_bands_first(values, order)
        rows = np.argsort(keys, kind="stable")
        keys, sorted_values = keys[rows] >> np.uint64(64 - bits), values[rows]
        at = np.arange(len(rows) - 1)
        for step in range(1, max_bucket + 1):
            at = at[: np.searchsorted(at, len(rows) - step)]
            at = at[keys[at] == keys[at + step]]
            if not len(at):
                break
            near = np.bitwise_count(sorted_values[at] ^ sorted_values[at + step]) <= max_hamming
            pair = np.stack([first[rows[at[near]]], first[rows[at[near] + step]]], axis=1)
            parts.append(np.sort(pair, axis=1))
            pending += len(pair)
        if pending > 4_000_000:
            parts, pending = [_best(np.concatenate(parts))], 0
    return _best(np.concatenate(parts))


def _pairs_of_equals(inverse: np.ndarray, counts: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Pairs of rows with equal hashes: each row with up to 64 rows before it."""
    rows = np.flatnonzero(counts[inverse] > 1)
    rows = rows[np.argsort(inverse[rows], kind="stable")]
    parts = [np.zeros((0, 2), np.int64)]
    for step in range(1, _MAX_PAIRS + 1):
        same = inverse[rows[step:]] == inverse[rows[:-step]] if step < len(rows) else np.zeros(0, bool)
        if not same.any():
            break
        parts.append(np.stack([rows[:-step][same], rows[step:][same]], axis=1))
    head = first[inverse[rows]]
    parts.append(np.stack([head, rows], axis=1)[head != rows])
    return np.concatenate(parts)


def _best(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, sorted by the later row; of one row at most _MAX_PAIRS, those with the earliest partners."""
    if not len(pairs):
        return pairs
    keys = np.sort(pairs[:, 1] << 32 | pairs[:, 0])  # one number sorts faster than two
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    pairs = np.stack([keys & 0xFFFFFFFF, keys >> 32], axis=1)
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:, 1] != pairs[:-1, 1]]))
    place = np.arange(len(pairs)) - np.repeat(starts, np.diff(np.append(starts, len(pairs))))
    return pairs[place < _MAX_PAIRS]


def band_orders(num: int, max_hamming: int) -> list[tuple[tuple[int, int], ...]]:
    """Sets of bands (low bit, high bit) such that hashes within `max_hamming` bits agree in all bands of at least one set.

    Of b bands at least b - max_hamming agree; the b with the least cost for that many hashes is taken.
    """

    def cost(bands: int) -> float:
        keep = bands - max_hamming
        return math.comb(bands, keep) * (30 + num / 2 ** (64 * keep / bands))

    bands = min(range(max_hamming + 1, max_hamming + 4), key=cost)
    edges = np.linspace(0, 64, bands + 1).astype(int).tolist()
    return list(combinations(pairwise(edges), bands - max_hamming))


def _with_bands_first(values: np.ndarray, bands: tuple[tuple[int, int], ...]) -> tuple[np.ndarray, int]:
    """The hashes with the bits of `bands` moved to the top, the others below, and how many bits the bands have."""
    edges = [0, *(edge for band in bands for edge in band), 64]
    rest = [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]
    moved = np.zeros(len(values), np.uint64)
    for low, high in (*bands, *rest):
        width = high - low
        mask = np.uint64((1 << width) - 1) if width < 64 else np.uint64(0xFFFFFFFFFFFFFFFF)
        moved = (moved << np.uint64(width) if width < 64 else np.zeros_like(moved)) | (
            (values >> np.uint64(low)) & mask
        )
    return moved, sum(high - low for low, high in bands)
