"""Gates: what a script may demand of a run. They look at official rows only, whatever else `compare` is asked to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def failed_thresholds(
    official: Mapping[str, Any], min_r1: float | None, against: Mapping[str, Any] | None = None
) -> list[str]:
    """What the gates object to, a sentence each.

    `official`: `alone` of a; with `min_r1` every text-to-video R@1 of it, on each of its benchmarks, has to reach it.
    `against`: a compared with the run not to be worse than; on every benchmark of that run no R@1 may lie below that run's
    with its whole 95 % interval, and a benchmark that a lacks is a failure.
    """
    sentences = []
    if min_r1 is not None:
        for bench in official["benches"]:
            for row in bench["rows"]:
                r1 = row["metrics"]["R@1"]
                if row["direction"] == "t2v" and not r1 >= min_r1:  # also for NaN
                    sentences.append(
                        f"{bench['name']} {row['lang']} t2v R@1 {r1:.2f} of {official['a']} (official row) is under "
                        f"--min-r1 {min_r1:g}"
                    )
    if against is None:
        return sentences
    for bench in against["benches"]:
        for row in bench["differences"]:
            if row["metric"] == "R@1" and row["hi"] < 0:
                sentences.append(
                    f"{bench['name']} {row['lang']} {row['direction']} R@1 of {against['a']} is {-row['diff']:.2f} points "
                    f"below {against['b']} ({row['lo']:+.2f} to {row['hi']:+.2f})"
                )
    for name in against["lacking"]["a"]:
        sentences.append(
            f"{against['a']} has no benchmark '{name}', {against['b']} has: whether it is worse there is not known"
        )
    return sentences
