"""An even choice out of a row of things."""

from __future__ import annotations


def spread(num: int, wanted: int | None) -> list[int]:
    """Indices of `wanted` of `num`: the middles of that many equal segments; all of them for None or where there are fewer."""
    if wanted is None or wanted >= num:
        return list(range(num))
    return [(2 * i + 1) * num // (2 * wanted) for i in range(wanted)]
