"""Chooses the key-frames of a clip: pure functions from measures of its frames to k picks with a score and a reason each.

A clip is divided into k slots of time, each inside one shot, and each slot gives the frame nearest to its middle unless that
frame has a visible defect (near a cut, black, flat, blurred, or a near-copy of the pick before). So a clip without defects is
sampled almost uniformly, whatever its content: temporal models depend on the order and spread of the picks.

A frame counts as displayed from its own time until that of the next frame, so that a copy with variable frame rate, which
leaves out repeated frames, gives the same pictures.
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
NEAR_COPY_BITS = 3  # two frames are near-copies where at most this many of the 64 bits of their hashes differ
# The cost of a frame is that of its defects plus CENTRE_COST * distance**2, with distance 1 at the edges of its slot.
CENTRE_COST = 0.4
DEFECT_COST = {"black": 0.6, "flat": 0.5, "cut": 0.45, "blur": 0.45, "copy": 0.15}


@dataclass(frozen=True)
class Candidate:
    """One undamaged frame that may be picked."""

    time_s: float  # since the start of the clip
    sharpness: float  # variance of the Laplacian
    hash64: int  # difference hash (dHash)
    black: bool = False
    flat: bool = False
    is_key: bool = False  # an I-frame from which decoding can start
    lasts_s: float = 0.0  # seconds until the next frame is displayed

    def nearest_s(self, time_s: float) -> float:
        """The time nearest to `time_s` at which this frame is displayed."""
        return min(max(time_s, self.time_s), self.time_s + self.lasts_s)

    def distance_s(self, time_s: float) -> float:
        """Seconds from `time_s` to the nearest time at which this frame is displayed, rounded to microseconds.

        Rounding makes the distance to both frames equal at a time where one ends and the next begins.
        """
        return round(abs(self.nearest_s(time_s) - time_s), 6)


@dataclass(frozen=True)
class Pick:
    """A chosen frame."""

    index: int  # in the list of candidates
    shot: int  # number of the shot, counted from 0
    score: float  # 0..1; 1 is a frame without defects in the middle of its slot
    why: str  # the reason of the choice, for people


@dataclass(frozen=True)
class Slot:
    """A stretch of the clip from which one frame is picked."""

    start_s: float
    end_s: float
    shot: int | None  # None: any shot

    @property
    def middle_s(self) -> float:
        return (self.start_s + self.end_s) / 2


Strategy = Callable[[Sequence[Candidate], Sequence[float], float, int], list[Pick]]


def shot_bounds(cuts_s: Sequence[float], duration_s: float) -> list[tuple[float, float]]:
    """(start_s, end_s) of each shot; cuts outside the clip are ignored."""
    edges = [0.0, *sorted({c for c in cuts_s if 0 < c < duration_s}), duration_s]
    return list(pairwise(edges))


def allot(lengths: Sequence[float], k: int) -> list[int]:
    """Divides k slots among shots by their lengths, at least one each; of equal shots the earlier gets more.

    Returns the number of slots of each shot. Needs 0 < len(lengths) <= k.
    """
    assert 0 < len(lengths) <= k
    num_slots = [1] * len(lengths)
    for _ in range(k - len(lengths)):
        # The shot with the longest slots gets one more, which keeps the longest gap between picks as short as possible.
        longest = max(range(len(lengths)), key=lambda i: (lengths[i] / num_slots[i], -i))
        num_slots[longest] += 1
    return num_slots


def keyframe(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """min(k, len(candidates)) picks, ascending in time; the times of the candidates must be strictly increasing.

    Where at most k shots are not entirely black, each of them gets a pick. Where there are more, the picks come from k equal
    segments of the clip.
    """
    shots = shot_bounds(cuts_s, duration_s)
    shot_of = [_shot_at(c.time_s, shots) for c in candidates]
    defects = _defects_of(candidates, shot_of, shots)
    picks: dict[int, Pick] = {}
    last_hash: int | None = None
    for slot in _slots(candidates, shot_of, shots, k):
        inside = [
            i
            for i, c in enumerate(candidates)
            if slot.shot in (None, shot_of[i])
            and slot.start_s <= c.nearest_s(slot.middle_s) <= slot.end_s
            and i not in picks
        ]
        if not inside:
            continue
        best: tuple[float, float, int] | None = None
        for i in inside:
            flaws = defects[i] | _near_copy(candidates[i], last_hash)
            distance = _off_centre(candidates[i], slot)
            cost = CENTRE_COST * distance**2 + sum(DEFECT_COST[f] for f in flaws)
            if best is None or (cost, distance, -i) < best:
                best = (cost, distance, -i)
        assert best is not None
        cost, chosen = best[0], -best[2]
        centre = min(inside, key=lambda i: (_off_centre(candidates[i], slot), -i))
        flaws, centre_flaws = (defects[i] | _near_copy(candidates[i], last_hash) for i in (chosen, centre))
        picks[chosen] = Pick(chosen, shot_of[chosen], max(0.0, 1.0 - cost), _why(flaws, centre_flaws))
        last_hash = candidates[chosen].hash64
    _fill(picks, candidates, shot_of, defects, k)
    return [picks[i] for i in sorted(picks)]


def uniform(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """The frames displayed at the middles of k equal segments, whatever their content; min(k, len(candidates)) picks."""
    shots = shot_bounds(cuts_s, duration_s)
    chosen = _spread(list(range(len(candidates))), candidates, duration_s, k)
    return [Pick(i, _shot_at(candidates[i].time_s, shots), 1.0, "uniform") for i in chosen]


def iframe(candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int) -> list[Pick]:
    """I-frames only: spread as by `uniform` where there are more than k, else all of them (`fill_up` adds other frames)."""
    shots = shot_bounds(cuts_s, duration_s)
    chosen = _spread([i for i, c in enumerate(candidates) if c.is_key], candidates, duration_s, k)
    return [Pick(i, _shot_at(candidates[i].time_s, shots), 1.0, "I-frame") for i in chosen]


def fill_up(
    picks: Sequence[Pick], candidates: Sequence[Candidate], cuts_s: Sequence[float], duration_s: float, k: int
) -> list[Pick]:
    """`picks`, filled up to min(k, len(candidates)) with the candidates farthest in time from all picks."""
    shots = shot_bounds(cuts_s, duration_s)
    shot_of = [_shot_at(c.time_s, shots) for c in candidates]
    by_index = {pick.index: pick for pick in picks}
    _fill(by_index, candidates, shot_of, _defects_of(candidates, shot_of, shots), k)
    return [by_index[i] for i in sorted(by_index)]


# Each returns min(k, number of candidates) picks; `iframe` may return fewer.
STRATEGIES: dict[str, Strategy] = {"keyframe": keyframe, "uniform": uniform, "iframe": iframe}


def middles(duration_s: float, k: int) -> list[float]:
    """Times in seconds of the middles of k equal segments."""
    return [duration_s * (2 * j + 1) / (2 * k) for j in range(k)]


def _spread(allowed: list[int], candidates: Sequence[Candidate], duration_s: float, k: int) -> list[int]:
    """The min(k, len(allowed)) candidates of `allowed` displayed nearest to the middles of as many equal segments."""
    count = min(k, len(allowed))
    chosen: list[int] = []
    first = 0
    for j, middle_s in enumerate(middles(duration_s, count)):
        last = len(allowed) - (count - j - 1)  # leave a frame for each later segment
        # Of two equally near frames the later one: where one frame ends and the next begins, the next is displayed.
        place = min(
            range(first, last),
            key=lambda n: (candidates[allowed[n]].distance_s(middle_s), -n),
        )
        first = place + 1
        chosen.append(allowed[place])
    return chosen


def _slots(candidates: Sequence[Candidate], shot_of: list[int], shots: list[tuple[float, float]], k: int) -> list[Slot]:
    """At most k slots ascending in time: within shots that have candidates, or k equal segments for more shots than k."""
    not_black = {shot_of[i] for i, c in enumerate(candidates) if not c.black}
    usable = sorted(not_black or set(shot_of))
    if not usable:
        return []
    if len(usable) <= k:
        num_slots = allot([shots[s][1] - shots[s][0] for s in usable], k)
        return [
            Slot(start + (end - start) * j / n, start + (end - start) * (j + 1) / n, s)
            for s, n in zip(usable, num_slots, strict=True)
            for start, end in (shots[s],)
            for j in range(n)
        ]
    # The segments ignore the shots: otherwise a cut that an encoder moves by a frame or two would move a pick by seconds.
    end_s = shots[-1][1]
    return [Slot(end_s * j / k, end_s * (j + 1) / k, None) for j in range(k)]


def _defects_of(
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
        time_s = c.nearest_s((start + end) / 2)
        at_cut = (shot_of[i] > 0 and time_s - start < margin) or (shot_of[i] < len(shots) - 1 and end - time_s < margin)
        checks = {
            "black": c.black,
            "flat": c.flat and not c.black,
            "cut": at_cut,
            "blur": c.sharpness < BLURRED * typical[shot_of[i]],
        }
        defects.append({name for name, bad in checks.items() if bad})
    return defects


def _near_copy(candidate: Candidate, last_hash: int | None) -> set[str]:
    if last_hash is None or hamming(candidate.hash64, last_hash) > NEAR_COPY_BITS:
        return set()
    return {"copy"}


def _why(flaws: set[str], centre_flaws: set[str]) -> str:
    """Words for the choice, such as 'centre', 'avoids black' or 'centre, despite copy'."""
    avoided = sorted(centre_flaws - flaws)
    text = "avoids " + "+".join(avoided) if avoided else "centre"
    return f"{text}, despite {'+'.join(sorted(flaws))}" if flaws else text


def _fill(
    picks: dict[int, Pick], candidates: Sequence[Candidate], shot_of: list[int], defects: list[set[str]], k: int
) -> None:
    """Adds picks up to min(k, len(candidates)): those without defects first, then those farthest in time from all picks."""
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
    """Distance from the middle of the slot: 0 for a frame displayed there, 1 at the edges of the slot."""
    half_s = (slot.end_s - slot.start_s) / 2
    return candidate.distance_s(slot.middle_s) / half_s if half_s > 0 else 0.0
