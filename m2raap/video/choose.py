"""Which frames stand for a clip: pure functions from per-frame measures to k picks, each with a score and a reason.

A clip is cut into k slots of time, each inside one shot, and every slot gives the frame nearest its middle unless that
one is damaged to the eye (at a cut, black, flat, blurred, a near-copy of the pick before). So a clip without defects is
sampled near-uniformly, whatever its content: temporal models depend on the order and spread of the picks.

A frame counts as what is seen from its time until the next frame's, so that a copy of variable frame rate, which lacks
repeated frames, gives the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from m2raap.video.quality import hamming

# Seconds on either side of a cut in which a frame counts as being at the cut; never more than a quarter of the shot.
NEAR_CUT_S = 0.2
BLURRED = 0.4  # a frame is blurred below this share of the median sharpness in its shot
NEAR_COPY_BITS = 3  # two frames are near-copies where at most so many of the 64 bits of their hashes differ
# What a defect costs, where a distance from the middle to the edge of the slot costs CENTRE_COST (its square).
CENTRE_COST = 0.4
DEFECT_COST = {"black": 0.6, "flat": 0.5, "cut": 0.45, "blur": 0.45, "copy": 0.15}


@dataclass(frozen=True)
class Candidate:
    """One sound frame that may be picked."""

    time_s: float  # since the start of the clip
    sharpness: float  # variance of the Laplacian
    hash64: int
    black: bool = False
    flat: bool = False
    is_key: bool = False  # an I-frame from which decoding can start
    lasts_s: float = 0.0  # until the next frame is shown

    def nearest(self, time_s: float) -> float:
        """The moment at which this frame is seen that is nearest to `time_s`."""
        return min(max(time_s, self.time_s), self.time_s + self.lasts_s)

    def apart(self, time_s: float) -> float:
        """Seconds between that moment and `time_s`, to the microsecond: frames meet where one ends and the next begins."""
        return round(abs(self.nearest(time_s) - time_s), 6)


@dataclass(frozen=True)
class Pick:
    """`index` into the candidates; `score` 0..1 (1: in the middle of its slot, no defect); `why` for people."""

    index: int
    shot: int
    score: float
    why: str


@dataclass(frozen=True)
class Slot:
    start_s: float
    end_s: float
    shot: int | None  # None: any shot

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2


Strategy = Callable[[Sequence[Candidate], Sequence[float], float, int], list[Pick]]


def shot_bounds(cuts_s: Sequence[float], duration_s: float) -> list[tuple[float, float]]:
    """(start, end) of each shot in seconds; cuts outside the clip are no cuts."""
    edges = [0.0, *sorted({c for c in cuts_s if 0 < c < duration_s}), duration_s]
    return list(pairwise(edges))


def allot(lengths: Sequence[float], k: int) -> list[int]:
    """k slots over shots by length, at least one each (needs len(lengths) <= k); of equals the earlier gets more."""
    assert 0 < len(lengths) <= k
    shares = [1] * len(lengths)
    for _ in range(k - len(lengths)):
        # The shot whose slots are longest gets one more: the longest gap in time stays as short as it can be.
        longest = max(range(len(lengths)), key=lambda i: (lengths[i] / shares[i], -i))
        shares[longest] += 1
    return shares


def keyframe(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """min(k, len(candidates)) picks, ascending in time; candidates ascend strictly. Every shot that is not all black
    gets a pick while there are at most k of them; with more shots than k the picks follow k equal segments."""
    shots = shot_bounds(cuts_s, duration_s)
    shot_of = [_shot_at(c.time_s, shots) for c in candidates]
    defects = _standing_defects(candidates, shot_of, shots)
    picks: dict[int, Pick] = {}
    last_hash: int | None = None
    for slot in _slots(candidates, shot_of, shots, k):
        inside = [
            i
            for i, c in enumerate(candidates)
            if slot.shot in (None, shot_of[i])
            and slot.start_s <= c.nearest(slot.middle_s) <= slot.end_s
            and i not in picks
        ]
        if not inside:
            continue
        best: tuple[float, float, int] | None = None
        for i in inside:
            flaws = defects[i] | _copy(candidates[i], last_hash)
            distance = _off_centre(candidates[i], slot)
            cost = CENTRE_COST * distance**2 + sum(DEFECT_COST[f] for f in flaws)
            if best is None or (cost, distance, -i) < best:
                best = (cost, distance, -i)
        assert best is not None
        cost, chosen = best[0], -best[2]
        centre = min(inside, key=lambda i: (_off_centre(candidates[i], slot), -i))
        flaws, centre_flaws = (defects[i] | _copy(candidates[i], last_hash) for i in (chosen, centre))
        picks[chosen] = Pick(chosen, shot_of[chosen], max(0.0, 1.0 - cost), _why(flaws, centre_flaws))
        last_hash = candidates[chosen].hash64
    _fill(picks, candidates, shot_of, defects, k)
    return [picks[i] for i in sorted(picks)]


def uniform(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """The frames seen in the middles of k equal segments, content unseen; min(k, len(candidates)) picks."""
    shots = shot_bounds(cuts_s, duration_s)
    chosen = _spread(list(range(len(candidates))), candidates, duration_s, k)
    return [Pick(i, _shot_at(candidates[i].time_s, shots), 1.0, "uniform") for i in chosen]


def iframe(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """I-frames alone, spread as `uniform` where there are more than k. With fewer they are all: see `fill_up`."""
    shots = shot_bounds(cuts_s, duration_s)
    chosen = _spread([i for i, c in enumerate(candidates) if c.is_key], candidates, duration_s, k)
    return [Pick(i, _shot_at(candidates[i].time_s, shots), 1.0, "I-frame") for i in chosen]


def fill_up(
    picks: Sequence[Pick], candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int
) -> list[Pick]:
    """`picks` and as many further candidates, each as far from all picks as can be, as make min(k, len(candidates))."""
    shots = shot_bounds(cuts_s, duration_s)
    shot_of = [_shot_at(c.time_s, shots) for c in candidates]
    by_index = {pick.index: pick for pick in picks}
    _fill(by_index, candidates, shot_of, _standing_defects(candidates, shot_of, shots), k)
    return [by_index[i] for i in sorted(by_index)]


# Exactly k picks each, or all that there are; `iframe` may find fewer.
STRATEGIES: dict[str, Strategy] = {"keyframe": keyframe, "uniform": uniform, "iframe": iframe}


def middles(duration_s: float, k: int) -> list[float]:
    """Middles of k equal segments."""
    return [duration_s * (2 * j + 1) / (2 * k) for j in range(k)]


def _spread(allowed: list[int], candidates: Sequence[Candidate], duration_s: float, k: int) -> list[int]:
    """Of the candidates in `allowed` those seen nearest to the middles of equal segments, each once; min(k, all)."""
    count = min(k, len(allowed))
    chosen: list[int] = []
    first = 0
    for j, middle_s in enumerate(middles(duration_s, count)):
        last = len(allowed) - (count - j - 1)  # leave a frame for each later segment
        # Of two equally near the later: at a boundary the frame that begins there is the one seen.
        place = min(
            range(first, last),
            key=lambda n: (candidates[allowed[n]].apart(middle_s), -n),
        )
        first = place + 1
        chosen.append(allowed[place])
    return chosen


def _slots(candidates: Sequence[Candidate], shot_of: list[int], shots: list[tuple[float, float]], k: int) -> list[Slot]:
    """At most k slots ascending in time, each within one shot that has candidates while shots do not outnumber k."""
    good = {shot_of[i] for i, c in enumerate(candidates) if not c.black}
    usable = sorted(good or set(shot_of))
    if not usable:
        return []
    if len(usable) <= k:
        shares = allot([shots[s][1] - shots[s][0] for s in usable], k)
        return [
            Slot(start + (end - start) * j / n, start + (end - start) * (j + 1) / n, s)
            for s, n in zip(usable, shares, strict=True)
            for start, end in (shots[s],)
            for j in range(n)
        ]
    # More shots than picks: k equal segments. Which shots they hold is not asked: where an encoder moves a cut by a frame or
    # two the choice would jump by seconds.
    end_s = shots[-1][1]
    return [Slot(end_s * j / k, end_s * (j + 1) / k, None) for j in range(k)]


def _standing_defects(
    candidates: Sequence[Candidate], shot_of: list[int], shots: list[tuple[float, float]]
) -> list[set[str]]:
    """Defects of each candidate that do not depend on the other picks."""
    sharpness: dict[int, list[float]] = {}
    for i, c in enumerate(candidates):
        sharpness.setdefault(shot_of[i], []).append(c.sharpness)
    typical = {shot: median(values) for shot, values in sharpness.items()}
    defects = []
    for i, c in enumerate(candidates):
        start, end = shots[shot_of[i]]
        margin = min(NEAR_CUT_S, (end - start) / 4)
        seen_s = c.nearest((start + end) / 2)
        at_cut = (shot_of[i] > 0 and seen_s - start < margin) or (shot_of[i] < len(shots) - 1 and end - seen_s < margin)
        checks = {
            "black": c.black,
            "flat": c.flat and not c.black,
            "cut": at_cut,
            "blur": c.sharpness < BLURRED * typical[shot_of[i]],
        }
        defects.append({name for name, bad in checks.items() if bad})
    return defects


def _copy(candidate: Candidate, last_hash: int | None) -> set[str]:
    if last_hash is None or hamming(candidate.hash64, last_hash) > NEAR_COPY_BITS:
        return set()
    return {"copy"}


def _why(flaws: set[str], centre_flaws: set[str]) -> str:
    """'centre', 'avoids black', 'centre, despite copy' ..."""
    avoided = sorted(centre_flaws - flaws)
    text = "avoids " + "+".join(avoided) if avoided else "centre"
    return f"{text}, despite {'+'.join(sorted(flaws))}" if flaws else text


def _fill(
    picks: dict[int, Pick], candidates: Sequence[Candidate], shot_of: list[int], defects: list[set[str]], k: int
) -> None:
    """Slots without a frame leave picks open: take the frames farthest from all picks, sound ones first."""
    while len(picks) < min(k, len(candidates)):
        picked_s = [candidates[i].time_s for i in picks]

        def rank(i: int, picked_s: list[float] = picked_s) -> tuple[bool, float, int]:
            gap = min((abs(candidates[i].time_s - t) for t in picked_s), default=0.0)
            return (not defects[i], gap, -i)

        chosen = max((i for i in range(len(candidates)) if i not in picks), key=rank)
        cost = sum(DEFECT_COST[f] for f in defects[chosen])
        why = "fill" + (f", despite {'+'.join(sorted(defects[chosen]))}" if defects[chosen] else "")
        picks[chosen] = Pick(chosen, shot_of[chosen], max(0.0, 0.5 - cost / 2), why)


def _shot_at(time_s: float, shots: list[tuple[float, float]]) -> int:
    for i, (_, end) in enumerate(shots):
        if time_s < end:
            return i
    return len(shots) - 1


def _off_centre(candidate: Candidate, slot: Slot) -> float:
    """0 if seen in the middle of the slot, 1 at its edges."""
    half = (slot.end_s - slot.start_s) / 2
    return candidate.apart(slot.middle_s) / half if half > 0 else 0.0
