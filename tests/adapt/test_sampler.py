from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.sampler import BatchSampler


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 5))
def test_an_epoch_has_every_clip_at_most_once(num_clips: int, batch_size: int, seed: int) -> None:
    sampler = BatchSampler(num_clips, batch_size, seed)
    per_epoch = sampler.steps_per_epoch
    for epoch in range(2):
        seen = np.concatenate([sampler.clips(epoch * per_epoch + step) for step in range(1, per_epoch + 1)])
        assert len(set(seen.tolist())) == len(seen) == per_epoch * sampler.size > num_clips - sampler.size
    assert sampler.clips(1).tolist() == BatchSampler(num_clips, batch_size, seed).clips(1).tolist()


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(BatchSampler(30, 30, seed).clips(step)) for seed in (0, 1) for step in (1, 2)]
    assert len(set(orders)) == 4


@given(st.integers(4, 60), st.integers(2, 6), st.integers(0, 3))
def test_groups_are_a_permutation_too(num_clips: int, group_size: int, seed: int) -> None:
    looks = np.random.default_rng(seed).standard_normal((num_clips, 4))
    sampler = BatchSampler(num_clips, num_clips, seed, group_size, looks)
    assert sorted(sampler.clips(1)) == sorted(sampler.clips(2)) == list(range(num_clips))


def test_groups_look_alike() -> None:
    """Twelve clips of three looks, groups of four: every group is one look."""
    looks = np.eye(3)[np.arange(12) % 3]
    sampler = BatchSampler(12, 4, 0, 4, looks)
    assert all(len(set((sampler.clips(step) % 3).tolist())) == 1 for step in range(1, 7))
    assert {tuple(sorted(sampler.clips(step))) for step in (1, 2, 3)} == {
        tuple(range(look, 12, 3)) for look in range(3)
    }


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 60), st.integers(0, 3))
def test_a_windowed_epoch_has_every_clip_and_reads_a_group_once(
    sizes: list[int], batch_size: int, window: int, seed: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    sampler = BatchSampler(len(groups), batch_size, seed, read_groups=groups, window=window)
    per_epoch = sampler.steps_per_epoch
    order = np.concatenate([sampler.clips(step) for step in range(1, per_epoch + 1)])
    assert len(set(order.tolist())) == len(order) == per_epoch * sampler.size > len(groups) - sampler.size
    held = max(window, 8 * sampler.size) + 2 * max(sizes)  # a window, and the groups that it cuts
    for group in range(len(sizes)):
        places = np.flatnonzero(groups[order] == group)
        assert not len(places) or places[-1] - places[0] < 2 * held
    assert np.array_equal(order, np.concatenate([sampler.clips(step) for step in range(1, per_epoch + 1)]))


def test_a_window_of_all_clips_is_the_permutation() -> None:
    plain, windowed = (BatchSampler(50, 7, 3, read_groups=np.arange(50) // 8, window=w) for w in (None, 50))
    assert all(np.array_equal(plain.clips(step), windowed.clips(step)) for step in range(1, 20))


def test_a_windowed_shuffle_mixes() -> None:
    """20,000 clips, groups of 8, a window of 1,600: neighbours of the corpus seldom meet, and other ones in each epoch."""
    groups = np.arange(20_000) // 8
    sampler = BatchSampler(20_000, 200, 0, read_groups=groups, window=1_600)
    met = []
    for epoch in range(2):
        batches = [sampler.clips(epoch * 100 + step) for step in range(1, 101)]
        met.append({tuple(sorted(pair)) for batch in batches for pair in _neighbours(batch)})
        of_one_group = np.mean([len(batch) - len(set(groups[batch].tolist())) for batch in batches])
        assert (
            of_one_group < 0.5 * 200
        )  # seven of a clip's group are among the 1,599 of its window: 200 * 7 / 1,600 pairs
        order = np.concatenate(batches)
        assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.05
    assert len(met[0] & met[1]) < 0.3 * len(met[0])


def _neighbours(batch: np.ndarray) -> list[tuple[int, int]]:
    ordered = np.sort(batch)
    return [(int(a), int(b)) for a, b in pairwise(ordered) if a // 8 == b // 8]
