from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from m2raap.core.spread import spread


@given(st.integers(0, 60), st.one_of(st.none(), st.integers(1, 70)))
def test_ascending_even_and_all_where_there_are_fewer(num: int, wanted: int | None) -> None:
    indices = spread(num, wanted)
    assert len(indices) == (num if wanted is None else min(num, wanted))
    assert all(0 <= i < num for i in indices)
    gaps = [b - a for a, b in pairwise(indices)]
    assert all(gap >= 1 for gap in gaps) and (not gaps or max(gaps) - min(gaps) <= 1)
    if wanted is not None and wanted <= num:
        middles = [(i + 0.5) * num / wanted for i in range(wanted)]
        assert all(place <= middle < place + 1 for place, middle in zip(indices, middles, strict=True))


def test_the_middles() -> None:
    assert spread(6, 3) == [1, 3, 5] and spread(8, 1) == [4] and spread(2, 8) == [0, 1]
