from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video.pool import PER_PICK, FramePool

LUMA = np.zeros((2, 2), np.uint8)


@given(st.integers(1, 8), st.lists(st.floats(0.001, 1.0), min_size=1, max_size=400), st.booleans(), st.booleans())
def test_bounded_ordered_and_at_least_k(k: int, steps_s: list[float], known: bool, large: bool) -> None:
    times_s = np.cumsum(steps_s).tolist()
    pool = FramePool(k, times_s[-1] if known else 0.0, 10**9 if large else 1, lambda p: p)
    for t in times_s:
        pool.offer(t, LUMA, t)
    held = [f.time_s for f in pool.frames]
    assert min(k, len(times_s)) <= len(held) <= pool.capacity
    assert held == sorted(set(held)) and set(held) <= set(times_s)
    assert all(f.picture == f.time_s for f in pool.frames)


def test_spread_over_a_clip_of_unknown_length() -> None:
    pool = FramePool(8, 0.0, 1, lambda p: p)
    for i in range(10_000):
        pool.offer(i / 25, LUMA, i)
    gaps = np.diff([f.time_s for f in pool.frames])
    assert len(pool.frames) == PER_PICK * 8
    assert gaps.max() <= 4 * 400 / (PER_PICK * 8)


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
        pool.offer(t, LUMA, i)
    assert any(300 <= f.time_s < 302 for f in pool.frames)
    assert any(302 <= f.time_s < 304 for f in pool.frames)


def test_large_frames_are_shrunk_at_once() -> None:
    shrunk: list[int] = []
    pool = FramePool(4, 10.0, 50_000_000, lambda p: shrunk.append(p) or "small")
    for i in range(250):
        pool.offer(i / 25, LUMA, i)
    assert {f.picture for f in pool.frames} == {"small"}
    assert len(shrunk) <= pool.capacity + 4
