"""Evenly spread indices."""

from __future__ import annotations


def spread(num: int, count: int | None) -> list[int]:
    """Indices of `count` out of `num` items: the middles of `count` equal segments; all indices for None or a larger `count`."""
    if count is None or count >= num:
        return list(range(num))
    return [(2 * i + 1) * num // (2 * count) for i in range(count)]
