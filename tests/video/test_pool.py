from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video.pool import AFTER_CUT_S, MAX_PER_PICK, FramePool

PLANE = np.zeros((2, 2, 3), np.uint8)


@given(st.integers(1, 8), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=400), st.booleans(), st.booleans())
def test_bounded_ordered_and_at_least_k(k: int, steps_s: list[float], known: bool, large: bool) -> None:
    times_s = np.cumsum(steps_s).tolist()
    pool = FramePool(k, times_s[-1] if known else 0.0, 10**9 if large else 1, lambda p: p)
    for t, until_s in pairwise([*times_s, times_s[-1] + 1]):
        pool.offer(t, until_s, PLANE, t)
    held = [f.time_s for f in pool.frames]
    assert min(k, len(times_s)) <= len(held) <= pool.capacity
    assert held == sorted(set(held)) and set(held) <= set(times_s)
    assert all(f.picture == f.time_s for f in pool.frames)


def test_spread_over_a_clip_of_unknown_length() -> None:
    pool = FramePool(8, 0.0, 1, lambda p: p)
    for i in range(10_000):
        pool.offer(i / 25, (i + 1) / 25, PLANE, i)
    gaps = np.diff([f.time_s for f in pool.frames])
    assert len(pool.frames) == MAX_PER_PICK * 8
    assert gaps.max() <= 4 * 400 / (MAX_PER_PICK * 8)


def test_a_short_shot_keeps_a_frame() -> None:
    pool = FramePool(2, 600.0, 1, lambda p: p)  # spacing 25 s
    for i in range(600 * 10):
        t = i / 10
        if t == 301.0:
            pool.cut_at([300.0])
        if t == 302.5:
            pool.cut_at([300.0, 302.0])
        if t == 304.5:
            pool.cut_at([300.0, 302.0, 304.0])
        pool.offer(t, t + 0.1, PLANE, i)
    assert any(300 <= f.time_s < 302 for f in pool.frames)
    assert any(302 <= f.time_s < 304 for f in pool.frames)


def test_many_shots_remove_no_middle() -> None:
    """The frames after cuts lie right before and after the middles of eight segments."""
    pool = FramePool(8, 60.0, 1, lambda p: p)
    middles_s = [3.75 + 7.5 * j for j in range(8)]
    for i in range(60 * 24):
        time_s = i / 24
        pool.cut_at([m + off - AFTER_CUT_S for m in middles_s for off in (-0.05, 0.05) if m - AFTER_CUT_S <= time_s])
        pool.offer(time_s, time_s + 1 / 24, PLANE, i)
    held = [f.time_s for f in pool.frames]
    assert len(held) == pool.capacity and set(middles_s) <= set(held)


def test_large_frames_are_shrunk_at_once() -> None:
    shrunk: list[int] = []
    pool = FramePool(4, 10.0, 50_000_000, lambda p: shrunk.append(p) or "small")
    for i in range(250):
        pool.offer(i / 25, (i + 1) / 25, PLANE, i)
    assert {f.picture for f in pool.frames} == {"small"}
    assert len(shrunk) <= pool.capacity + 4


def test_the_frame_displayed_at_a_point_of_the_grid_is_held() -> None:
    """Frames every 40 ms, and only every third of them."""
    pools = [FramePool(1, 12.0, 1, lambda p: p) for _ in range(2)]  # a point each second
    for pool, step in zip(pools, (1, 3), strict=True):
        for i in range(0, 300, step):
            pool.offer(i / 25, (i + step) / 25, PLANE, i)
    dense, sparse = ([f.picture for f in pool.frames] for pool in pools)
    assert dense == [25 * n for n in range(12)]
    assert sparse == [3 * (25 * n // 3) for n in range(12)]


def test_short_clips_have_fewer_candidates_and_their_middles_among_them() -> None:
    for window_s, per_pick in ((2.0, 4), (8.0, 8), (60.0, 12)):
        pool = FramePool(8, window_s, 1, lambda p: p)
        assert pool.capacity == 8 * per_pick
        for i in range(int(window_s * 64)):
            pool.offer(i / 64, (i + 1) / 64, PLANE, i)
        held = {f.time_s for f in pool.frames}
        assert {math.floor(window_s * (2 * j + 1) * 4) / 64 for j in range(8)} <= held


def test_i_frames_are_held_and_kept_with_keep_keys() -> None:
    pool = FramePool(2, 40.0, 1, lambda p: p, keep_keys=True)
    for i in range(1000):
        pool.offer(i / 25, (i + 1) / 25, PLANE, i, is_key=i % 77 == 3)
    assert {i for i in range(1000) if i % 77 == 3} <= {f.picture for f in pool.frames}
    assert len(pool.frames) == pool.capacity
