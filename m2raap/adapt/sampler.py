"""The choice of the clips of a step: a function of (seed, step), so that a resumed run draws what the undisturbed run would have.

B clips of a step, N clips, E size of their vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

GROUPING_CHUNK = 4096  # clips among which similar ones are searched for, so that memory and time stay bounded
WINDOW_BATCHES = 8  # a window of the shuffle has at least so many batches


@dataclass(frozen=True)
class BatchSampler:
    """The clips of every step. Each epoch is a new seeded order of all clips, cut into whole batches.

    The order is a permutation of all clips where `window` is None or as many. Else the runs of clips of equal `read_groups`,
    which are read from the disk together, are permuted, the order is cut into windows of `window` clips, and each window is
    permuted: a group is read once an epoch, by the processes that share a batch mostly by one of them, and no more than a
    window has to be in memory (the shuffle buffer of tf.data and WebDataset, in windows).

    The clips that are left over at the end of an epoch are not trained on in it. With `group_size` > 1 a batch consists of
    groups of clips whose `looks_NE` (unit vectors) are similar, so that the model has to learn what distinguishes clips of
    similar looks: what happens in them, and in which order.
    """

    num_clips: int
    batch_size: int
    seed: int
    group_size: int = 1
    looks_NE: np.ndarray | None = None
    read_groups: np.ndarray | None = None
    window: int | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return min(self.batch_size, self.num_clips)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_clips // self.size

    def epoch(self, step: int) -> int:
        """The epoch (from 0) of a step (from 1)."""
        return (step - 1) // self.steps_per_epoch

    def clips(self, step: int) -> np.ndarray:
        """(B,) the clips of a step (from 1)."""
        epoch, place = self.epoch(step), (step - 1) % self.steps_per_epoch
        order = self._orders.get(epoch)
        if order is None:  # the prefetcher reads the next epoch's order while this epoch's is still in use
            order = self._orders[epoch] = self._order(epoch)
            self._orders.pop(epoch - 2, None)
        return order[place * self.size : (place + 1) * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 0, epoch])
        window = self.num_clips if self.window is None else max(self.window, WINDOW_BATCHES * self.size)
        if window >= self.num_clips:
            return self._grouped(rng.permutation(self.num_clips), rng)
        clips = self._groups_permuted(rng)
        windows = []
        for start in range(0, self.num_clips, window):
            part = clips[start : start + window]
            places = rng.permutation(len(part))
            if self.group_size == 1:
                # In a batch the order means nothing: sorted, the share of each process lies in few groups.
                batches = [np.sort(places[at : at + self.size]) for at in range(0, len(places), self.size)]
                places = np.concatenate(batches)
            windows.append(self._grouped(part[places], rng))
        return np.concatenate(windows)

    def _groups_permuted(self, rng: np.random.Generator) -> np.ndarray:
        """All clips, the groups that are read together in random order."""
        groups = np.arange(self.num_clips) if self.read_groups is None else self.read_groups
        first = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
        size = np.diff(np.r_[first, self.num_clips])
        order = rng.permutation(len(first))
        ends = np.cumsum(size[order])
        return np.repeat(first[order] - (ends - size[order]), size[order]) + np.arange(self.num_clips)

    def _grouped(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The clips in groups of similar looks, where groups are wanted."""
        if self.group_size == 1 or self.looks_NE is None:
            return order
        groups = []
        for start in range(0, len(order), GROUPING_CHUNK):
            groups += _groups_of_alike(order[start : start + GROUPING_CHUNK], self.looks_NE, self.group_size)
        return np.concatenate([groups[place] for place in rng.permutation(len(groups))])


def _groups_of_alike(clips: np.ndarray, looks_NE: np.ndarray, size: int) -> list[np.ndarray]:
    """Greedy groups: the first clip without a group takes the nearest `size` - 1 others without a group, and so on."""
    similarity = looks_NE[clips] @ looks_NE[clips].T
    np.fill_diagonal(similarity, np.inf)
    ungrouped = np.ones(len(clips), bool)
    groups = []
    for place in range(len(clips)):
        if ungrouped[place]:
            similarity_to_ungrouped = np.where(ungrouped, similarity[place], -np.inf)
            group = np.argsort(-similarity_to_ungrouped, kind="stable")[: min(size, int(ungrouped.sum()))]
            ungrouped[group] = False
            groups.append(clips[group])
    return groups
