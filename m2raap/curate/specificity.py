"""How much a caption says about its clip: the words left when grammar and talk about the video itself are taken away."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np

from m2raap.curate.columns import HAN, Columns, HashSet, TextBatch


def num_content_words(batch: TextBatch) -> np.ndarray:
    """(N,) words that not every clip's caption could hold; a Han character counts half a word."""
    columns = batch.columns
    single, double = _generic()
    generic = single.holds(columns.hash_T)
    pairs = double.holds(columns.pair_T)
    generic |= pairs
    generic[1:] |= pairs[:-1]
    weight_T = np.where((columns.flags_T & HAN) != 0, 0.5, 1.0)
    return columns.sum_T(np.where(generic, 0.0, weight_T))


@lru_cache(maxsize=1)
def _generic() -> tuple[HashSet, HashSet]:
    """Hashes of the listed words, and of Chinese words of two characters as pairs of tokens."""
    lines = resources.files("m2raap").joinpath("assets/words/generic.txt").read_text(encoding="utf-8").splitlines()
    words = [word for line in lines if not line.startswith("#") for word in line.split()]
    columns = Columns(words)
    pairs = columns.pair_T
    return HashSet([columns.hash_T[columns.num_tokens_N[columns.text_of_T] == 1]]), HashSet([pairs[pairs != 0]])
