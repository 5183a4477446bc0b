"""Near-identical texts: MinHash over pairs of neighbouring tokens (words, or Han characters).

A sketch is 128 bytes a text: 16 band keys that find candidates (equal key: four equal minima) and one byte of each of the
64 minima, whose agreement estimates the share of common pairs (Jaccard; standard error 0.05 at 0.8; Broder 1997). The first
of several similar texts is their leader; a text is compared with leaders only, so groups do not grow by chains. Work and
memory grow linearly with the number of texts: 16 sorts, and one comparison for each text and band.

Shapes: N texts, P = 64 permutations, B = 16 bands.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from m2raap.curate.columns import Columns, mix

NUM_MINIMA, NUM_BANDS = 64, 16
SKETCH_BYTES = NUM_MINIMA + 4 * NUM_BANDS


@lru_cache(maxsize=1)
def _permutations() -> np.ndarray:
    """(P, 2) odd factors and offsets."""
    rng = np.random.default_rng([0, 64])
    return rng.integers(0, 1 << 63, (NUM_MINIMA, 2), np.uint64) * np.uint64(2) + np.uint64(1)


def sketches(columns: Columns) -> np.ndarray:
    """(N, 128) uint8. A text of one token is sketched by that token; a text without tokens is equal to no other one."""
    pairs_T = columns.shingles(2)
    alone = (columns.num_tokens_N == 1)[columns.text_of_T]
    pairs_T = np.where(alone, columns.plain_T, pairs_T)
    valid = pairs_T != 0
    pairs_T, text_of = pairs_T[valid], columns.text_of_T[valid]
    filled, first = np.unique(text_of, return_index=True)
    minima_NP = np.zeros((columns.num, NUM_MINIMA), np.uint32)
    for column, (factor, offset) in enumerate(_permutations()):
        values = ((pairs_T * factor + offset) >> np.uint64(32)).astype(np.uint32)
        if len(filled):
            minima_NP[filled, column] = np.minimum.reduceat(values, first)
    keys_NB = mix(minima_NP.view(np.uint64).reshape(columns.num, NUM_BANDS, 2).sum(axis=2, dtype=np.uint64) * np.uint64(3)
                  + minima_NP.view(np.uint64).reshape(columns.num, NUM_BANDS, 2)[:, :, 0])  # fmt: skip
    bands = (keys_NB >> np.uint64(32)).astype("<u4")
    return np.concatenate([bands.view(np.uint8), (minima_NP & 0xFF).astype(np.uint8)], axis=1)


def leaders(sketches_NS: np.ndarray, min_jaccard: float) -> np.ndarray:
    """(N,) for every text the first row whose text is almost the same, or its own row.

    `sketches_NS`: (N, 128) uint8 from `sketches`, the preferred texts first.
    """
    num = len(sketches_NS)
    leader_N = np.arange(num)
    if not num:
        return leader_N
    keys_NB = np.ascontiguousarray(sketches_NS[:, : 4 * NUM_BANDS]).view("<u4")
    minima_NP = sketches_NS[:, 4 * NUM_BANDS :]
    filled = np.asarray(minima_NP.any(axis=1))
    for band in range(NUM_BANDS):
        order = np.argsort(keys_NB[:, band], kind="stable")
        keys = keys_NB[order, band]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        first = np.repeat(order[starts], np.diff(np.append(starts, num)))
        near = (first < leader_N[order]) & filled[order]
        members, heads = order[near], first[near]
        for start in range(0, len(members), 1 << 18):
            block = slice(start, start + (1 << 18))
            agree = np.mean(minima_NP[members[block]] == minima_NP[heads[block]], axis=1)
            good = np.asarray((agree - 1 / 256) / (1 - 1 / 256) >= min_jaccard)
            leader_N[members[block][good]] = heads[block][good]
    return leader_N
