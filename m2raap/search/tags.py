"""The tags of the clips of an index: which clips have a tag, how probable it is, and which tags are frequent among clips.

A label of two languages is named `red / 红色`; a user names it by the whole name or by one of its parts, in upper or lower case.
N clips, T tags of all clips together, L labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from m2raap.core.config import suggestion
from m2raap.core.errors import M2raapError, UsageError, excerpt

pc: Any = pyarrow.compute  # whose functions are made when it is imported, so that no checker knows them
TAGS, TAGS_P = "tags", "tags_p"
_PARTS = " / "
_MOST_CHARS = 100  # of an unknown tag for which the nearest known one is looked up, which takes long for a long text


def tags_of_signals(clip_id: str, signals: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """The tags of a clip and their probabilities, as `annotate` stores them in its signals; two empty lists without them.

    Raises M2raapError where the two do not belong together: signals may also be those of a list that the user imported.
    """
    tags, p = signals.get(TAGS), signals.get(TAGS_P)
    if tags is None or p is None:
        return [], []
    are_texts = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    are_shares = isinstance(p, list) and all(isinstance(value, int | float) and 0 <= value <= 1 for value in p)
    if not are_texts or not are_shares or len(tags) != len(p):
        raise M2raapError(
            f"clip {excerpt(clip_id)}: its signals {TAGS} and {TAGS_P} are no tags with a probability from 0 to 1 each; index a "
            "view that ends with 'm2raap annotate apply', or import the corpus with other names for these columns"
        )
    return tags, [float(value) for value in p]


def with_numbered_tags(clips: pa.Table) -> pa.Table:
    """The clips of an index with each label's name in memory once. Clips of an index that was made before tags were kept have
    none."""
    for name in (TAGS, TAGS_P):
        lists = clips[name].combine_chunks()
        if lists.null_count:
            lists = pc.if_else(lists.is_valid(), lists, pa.scalar([], lists.type))
        if name == TAGS:
            lists = pa.ListArray.from_arrays(lists.offsets, lists.values.dictionary_encode())
        clips = clips.set_column(clips.schema.get_field_index(name), name, lists)
    return clips


@dataclass(frozen=True)
class ClipTags:
    """`labels_T` and `p_T` hold the tags of clip after clip: those of clip i from starts[i] to starts[i + 1]."""

    names_L: tuple[str, ...]
    labels_T: np.ndarray
    p_T: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, clips: pa.Table) -> ClipTags:
        """The tags of the clips of an opened index, as `with_numbered_tags` left them."""
        lists = clips[TAGS].combine_chunks()
        numbered = lists.flatten()
        starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(zero_copy_only=False))])
        p_T = clips[TAGS_P].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        labels_T = numbered.indices.to_numpy(zero_copy_only=False)
        return cls(tuple(numbered.dictionary.to_pylist()), labels_T, p_T, starts.astype(np.int64))

    @cached_property
    def _labels_of(self) -> dict[str, list[int]]:
        """Name or part of a name, folded -> labels. Whole names come first, frequent ones before rare ones."""
        labels_of: dict[str, list[int]] = {}
        expected_clips_L = np.bincount(self.labels_T, self.p_T, len(self.names_L))
        frequent = np.argsort(-expected_clips_L, kind="stable").tolist()
        for label in frequent:
            labels_of.setdefault(_folded(self.names_L[label]), []).append(label)
        for label in frequent:
            for part in {_folded(part) for part in self.names_L[label].split(_PARTS)}:
                if label not in labels_of.setdefault(part, []):
                    labels_of[part].append(label)
        return labels_of

    def labels(self, tag: str) -> list[int]:
        """The labels that a tag names. Raises UsageError with the nearest known tag where there is none."""
        if not self.names_L:
            raise UsageError(
                f"--tag {tag[:_MOST_CHARS]}: no clip of the index has tags; index a view that ends with 'm2raap annotate apply'"
            )
        folded = _folded(tag)
        if folded not in self._labels_of:
            cut, known = folded[:_MOST_CHARS], [name for name in self._labels_of if len(name) <= _MOST_CHARS]
            raise UsageError(f"--tag {cut}: is no tag of the index; {suggestion(cut, known)}")
        return self._labels_of[folded]

    def p(self, tags: Sequence[str], least_p: float) -> np.ndarray:
        """(N,): the product of the probabilities of all `tags`, which is NaN for a clip that lacks one of them.

        A clip has a tag where one of the labels that the tag names has a probability of at least `least_p`, of which the
        highest counts. Raises UsageError for an unknown tag.
        """
        num = len(self.starts) - 1
        product_N = np.ones(num)
        for tag in tags:
            best_N = np.full(num, -1.0)
            places = self._places(self.labels(tag), least_p)
            np.maximum.at(best_N, self._rows(places), self.p_T[places])
            product_N *= np.where(best_N >= 0, best_N, np.nan)
        return product_N

    def frequent(self, most: int, least_p: float, allowed_N: np.ndarray | None = None) -> list[dict[str, Any]]:
        """The most frequent labels, as `of_rows` gives them, of all clips (or of those that are allowed)."""
        counts_L = self._counts_among(least_p, allowed_N)
        best = np.argsort(-counts_L, kind="stable")[:most]
        return self._numbers([label for label in best.tolist() if counts_L[label]], least_p, counts_L, allowed_N)

    def of_rows(
        self, rows: Sequence[int], most: int, least_p: float, allowed_N: np.ndarray | None
    ) -> list[dict[str, Any]]:
        """The labels that most of `rows` have: {tag, clips}, `clips` being the number of all allowed clips with that tag."""
        if not self.names_L:
            return []
        spans = [slice(self.starts[row], self.starts[row + 1]) for row in rows]
        in_rows = Counter(
            label for span in spans for label in set(self.labels_T[span][self.p_T[span] >= least_p].tolist())
        )
        counts_L = self._counts_among(least_p, allowed_N)
        order = sorted(in_rows, key=lambda label: (-in_rows[label], -counts_L[label], self.names_L[label]))
        return self._numbers(order[:most], least_p, counts_L, allowed_N)

    def _numbers(
        self, labels: list[int], least_p: float, counts_L: np.ndarray, allowed_N: np.ndarray | None
    ) -> list[dict[str, Any]]:
        tags = [self.names_L[label] for label in labels]
        return [
            {
                "tag": tag,
                "clips": int(counts_L[label]) if self.labels(tag) == [label] else self._num(tag, least_p, allowed_N),
            }
            for tag, label in zip(tags, labels, strict=True)
        ]

    def _num(self, tag: str, least_p: float, allowed_N: np.ndarray | None) -> int:
        """The number of clips with a tag that names several labels, of which a clip may have two."""
        has_N = ~np.isnan(self.p([tag], least_p))
        return int((has_N if allowed_N is None else has_N & allowed_N).sum())

    def _places(self, labels: Sequence[int], least_p: float) -> np.ndarray:
        """Places in `labels_T` of these labels with at least `least_p`."""
        is_meant_L = np.zeros(len(self.names_L), bool)
        is_meant_L[labels] = True
        return np.flatnonzero(is_meant_L[self.labels_T] & (self.p_T >= least_p))

    def _rows(self, places: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.starts, places, side="right") - 1

    def _counts_among(self, least_p: float, allowed_N: np.ndarray | None) -> np.ndarray:
        """(L,): the number of clips with each label."""
        places = np.flatnonzero(self.p_T >= least_p)
        if allowed_N is not None:
            places = places[allowed_N[self._rows(places)]]
        return np.bincount(self.labels_T[places], minlength=len(self.names_L))


def _folded(tag: str) -> str:
    return tag.strip().casefold()
