"""Evenly spread indices."""

from __future__ import annotations


def spread(num: int, count: int | None) -> list[int]:
    """Indices of `count` of `num`: the middles of that many equal segments; all of them for None or where there are fewer."""
    if count is None or count >= num:
        return list(range(num))
    return [(2 * i + 1) * num // (2 * count) for i in range(count)]
