from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video.choose import STRATEGIES, Candidate, allot, fill_up, iframe, keyframe, middles, shot_bounds, uniform

# Hashes that differ in many bits, so that no two frames are near-copies.
FAR = [(0x9E3779B97F4A7C15 * (i + 1)) % 2**63 for i in range(400)]


def clean(n: int, duration_s: float) -> list[Candidate]:
    return [Candidate(duration_s * i / n, 100.0, FAR[i % len(FAR)]) for i in range(n)]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Candidate], list[float], float, int]:
    duration_s = draw(st.floats(0.5, 100))
    ticks = draw(st.lists(st.integers(0, 999), min_size=1, max_size=60, unique=True))
    candidates = [
        Candidate(
            duration_s * t / 1000,
            draw(st.floats(0, 5000)),
            draw(st.integers(-(2**63), 2**63 - 1)),
            black=draw(st.booleans()),
            flat=draw(st.booleans()),
            is_key=draw(st.booleans()),
            lasts_s=draw(st.sampled_from([0.0, duration_s * (after - t) / 1000])),
        )
        for t, after in pairwise([*sorted(ticks), 1000])
    ]
    cuts_s = draw(st.lists(st.floats(-1, 101), max_size=12))
    return candidates, cuts_s, duration_s, draw(st.integers(1, 16))


@pytest.mark.parametrize("name", STRATEGIES)
@given(scene=scenes())
def test_k_picks_or_all_frames_in_order(name: str, scene: tuple) -> None:
    candidates, cuts_s, duration_s, k = scene
    picks = STRATEGIES[name](candidates, cuts_s, duration_s, k)
    allowed = [c for c in candidates if c.is_key or name != "iframe"]
    assert len(picks) == min(k, len(allowed))
    times_s = [candidates[p.index].time_s for p in picks]
    assert all(a < b for a, b in pairwise(times_s))
    shots = shot_bounds(cuts_s, duration_s)
    for pick, time_s in zip(picks, times_s, strict=True):
        start, end = shots[pick.shot]
        assert start <= time_s <= end
        assert 0 <= pick.score <= 1 and pick.why
    assert picks == STRATEGIES[name](list(candidates), list(cuts_s), duration_s, k)


@given(scene=scenes())
def test_every_shot_gets_a_pick_while_shots_are_few(scene: tuple) -> None:
    candidates, cuts_s, duration_s, k = scene
    shots = shot_bounds(cuts_s, duration_s)

    def shot_of(c: Candidate) -> int:
        return next((i for i, (_, end) in enumerate(shots) if c.time_s < end), len(shots) - 1)

    visible = {shot_of(c) for c in candidates if not c.black}
    picks = keyframe(candidates, cuts_s, duration_s, k)
    picked = {p.shot for p in picks}
    if len(visible) <= k:
        assert visible <= picked
    else:
        assert len(picks) == min(k, len(candidates))


@given(st.integers(1, 16), st.integers(2, 20), st.floats(1, 200))
def test_a_clip_without_defects_is_sampled_evenly(k: int, density: int, duration_s: float) -> None:
    n = k * density
    candidates = clean(n, duration_s)
    tick_s = duration_s / n
    for strategy in (keyframe, uniform):
        picks = strategy(candidates, [], duration_s, k)
        for j, pick in enumerate(picks):
            middle_s = duration_s * (2 * j + 1) / (2 * k)
            assert abs(candidates[pick.index].time_s - middle_s) <= tick_s * 0.5 + 1e-6


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=10), st.integers(0, 20))
def test_allot(lengths: list[float], extra: int) -> None:
    k = len(lengths) + extra
    num_slots = allot(lengths, k)
    assert sum(num_slots) == k and min(num_slots) >= 1
    # Moving a slot to another shot cannot shorten the longest gap: it would leave slots at least that long in its own shot.
    gaps = [length / n for length, n in zip(lengths, num_slots, strict=True)]
    for length, n in zip(lengths, num_slots, strict=True):
        assert n == 1 or length / (n - 1) >= max(gaps) - 1e-9


def test_more_shots_than_picks_covers_the_clip() -> None:
    candidates = clean(400, 40.0)
    cuts_s = [float(c) for c in range(2, 40, 2)]
    picks = keyframe(candidates, cuts_s, 40.0, 8)
    assert len({p.shot for p in picks}) == 8
    for j, pick in enumerate(picks):
        assert 5.0 * j <= candidates[pick.index].time_s <= 5.0 * (j + 1)


@pytest.mark.parametrize(("flaw", "why"), [("black", "avoids black"), ("flat", "avoids flat"), ("blur", "avoids blur")])
def test_a_damaged_centre_is_avoided(flaw: str, why: str) -> None:
    candidates = clean(80, 8.0)
    bad = set(range(3, 7))  # around the middle (0.5 s) of the first slot
    for i in bad:
        c = candidates[i]
        candidates[i] = Candidate(
            c.time_s, 1.0 if flaw == "blur" else c.sharpness, c.hash64, black=flaw == "black", flat=flaw == "flat"
        )
    pick = keyframe(candidates, [], 8.0, 8)[0]
    assert pick.index not in bad and candidates[pick.index].time_s < 1.0
    assert pick.why == why and pick.score < 1


def test_picks_keep_away_from_cuts() -> None:
    candidates = clean(200, 8.0)
    cuts_s = [1.0, 1.5, 4.0]
    for pick in keyframe(candidates, cuts_s, 8.0, 12):
        assert min(abs(candidates[pick.index].time_s - c) for c in cuts_s) >= 0.1


def test_a_near_copy_is_avoided() -> None:
    candidates = [Candidate(i * 0.1, 100.0, FAR[0] if i < 14 else FAR[i]) for i in range(20)]
    picks = keyframe(candidates, [], 2.0, 2)
    assert candidates[picks[1].index].hash64 != FAR[0]
    # 1.5 s is the centre of the second slot and not a copy; the pick moves only where the centre is a copy.
    assert picks[1].why == "centre"
    candidates = [Candidate(i * 0.1, 100.0, FAR[0] if i < 16 else FAR[i]) for i in range(20)]
    picks = keyframe(candidates, [], 2.0, 2)
    assert (picks[1].index, picks[1].why) == (16, "avoids copy")


def test_a_black_shot_gets_nothing_while_others_have_frames() -> None:
    candidates = [Candidate(i * 0.1, 100.0, FAR[i], black=i < 20) for i in range(60)]
    picks = keyframe(candidates, [2.0], 6.0, 4)
    assert {p.shot for p in picks} == {1}
    all_black = [Candidate(i * 0.1, 0.0, 0, black=True) for i in range(60)]
    picks = keyframe(all_black, [2.0], 6.0, 4)
    assert len(picks) == 4 and {p.shot for p in picks} == {0, 1}
    assert all("despite" in p.why for p in picks)


def test_empty_slots_are_filled() -> None:
    # All candidates are in the first of ten seconds, so that six slots are empty.
    candidates = [Candidate(i * 0.1, 100.0, FAR[i]) for i in range(10)]
    picks = keyframe(candidates, [], 10.0, 8)
    assert len(picks) == 8
    assert any(p.why.startswith("fill") for p in picks)


def test_no_candidates() -> None:
    assert keyframe([], [], 5.0, 8) == [] and uniform([], [], 5.0, 8) == []


@given(scenes())
def test_i_frames_alone_or_filled_up(scene: tuple) -> None:
    candidates, cuts_s, duration_s, k = scene
    picks = iframe(candidates, cuts_s, duration_s, k)
    assert all(candidates[p.index].is_key and p.why == "I-frame" for p in picks)
    filled = fill_up(picks, candidates, cuts_s, duration_s, k)
    assert len(filled) == min(k, len(candidates)) and set(picks) <= set(filled)
    assert all(a.index < b.index for a, b in pairwise(filled))
    assert all(p.why.startswith("fill") for p in filled if p not in picks)


@pytest.mark.parametrize("k", [1, 3, 8])
@given(st.lists(st.integers(1, 4), min_size=10, max_size=60), st.sampled_from([(), (3.0,), (1.0, 7.5)]))
def test_repeated_frames_change_nothing(k: int, repeats: list[int], cuts_s: tuple[float, ...]) -> None:
    """A copy at a constant rate, with frame i `repeats[i]` times, gets the same picks as the copy without repeats."""
    tick_s = 10.0 / sum(repeats)
    rng = np.random.default_rng(len(repeats))
    once: list[Candidate] = []
    often: list[Candidate] = []
    shown_s = 0.0
    for i, n in enumerate(repeats):
        looks = {"sharpness": float(rng.integers(50, 150)), "hash64": FAR[i], "black": bool(rng.random() < 0.1)}
        once.append(Candidate(shown_s, lasts_s=n * tick_s, **looks))
        often += [Candidate(shown_s + j * tick_s, lasts_s=tick_s, **looks) for j in range(n)]
        shown_s += n * tick_s
    # A cut is where a new frame begins.
    cuts = sorted({min((c.time_s for c in once[1:]), key=lambda t: abs(t - cut)) for cut in cuts_s})
    for strategy in (uniform, keyframe):
        one, two = strategy(once, cuts, 10.0, k), strategy(often, cuts, 10.0, k)
        seen = [[c[p.index].hash64 for p in picks] for c, picks in ((once, one), (often, two))]
        if strategy is uniform:
            at = [next(c.hash64 for c in reversed(once) if c.time_s <= m + 1e-6) for m in middles(10.0, k)]
            if len(set(at)) == k:
                assert seen == [at, at]
        elif all(p.why == "centre" for p in (*one, *two)):
            assert seen[0] == seen[1]
