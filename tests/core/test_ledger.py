from hypothesis import given
from hypothesis import strategies as st

from m2raap.core.ledger import Counts, TableCounts, count_part
from m2raap.core.view import Part

CLIPS = [{"clip_id": clip_id} for clip_id in "abc"]
TEXTS = [{"text_id": f"{clip_id}.{n}", "clip_id": clip_id, "active": True} for clip_id in "abc" for n in range(2)]
DROPS = [
    {"clip_id": "a", "text_id": None, "reason": "black"},
    {"clip_id": "b", "text_id": "b.0", "reason": "digits"},
    {"clip_id": "c", "text_id": "c.new", "reason": "rewrite_echo"},
]
ADDED = [
    {"text_id": "c.new", "clip_id": "c", "active": True},
    {"text_id": "a.new", "clip_id": "a", "active": True},
    {"text_id": "c.0", "clip_id": "c", "active": False},
]


def test_every_row_of_a_part_is_accounted_for():
    counts = count_part(Part(0, CLIPS, TEXTS), ADDED, DROPS, is_benchmark=False)  # type: ignore[arg-type]
    assert counts.balanced()
    assert counts.to_dict() == {
        "clips_dropped:black": 1,
        "clips_in": 3,
        "clips_out": 2,
        "texts_added": 2,
        "texts_dropped:clip black": 3,
        "texts_dropped:digits": 1,
        "texts_dropped:rewrite_echo": 1,
        "texts_in": 6,
        "texts_out": 3,
        "texts_superseded": 1,
    }


def test_a_benchmark_counts_missing_clips_and_drops_none():
    counts = count_part(Part(0, CLIPS, TEXTS), [], DROPS[:1], is_benchmark=True)  # type: ignore[arg-type]
    assert counts.clips == TableCounts(3, 0, {}, 3) and counts.others["clips_missing"] == 1


def test_numbers_that_are_zero_are_not_written_and_a_lost_row_is_noticed():
    empty = Counts(TableCounts(2, 0, {"black": 2}, 0), TableCounts())
    assert empty.balanced() and "clips_out" not in empty.to_dict()
    assert not Counts(TableCounts(2, 0, {"black": 1}, 0)).balanced()
    assert not Counts(texts=TableCounts(2, 1, {}, 2)).balanced()


NUMBER = st.integers(0, 9)
TABLE = st.builds(
    TableCounts, NUMBER, NUMBER, st.dictionaries(st.sampled_from(["black", "clip black"]), st.integers(1, 9)), NUMBER
)
COUNTS = st.builds(Counts, TABLE, TABLE, st.dictionaries(st.sampled_from(["texts_superseded", "sent"]), NUMBER))


@given(COUNTS, COUNTS)
def test_what_is_written_is_read_back_and_parts_add_up(first: Counts, second: Counts):
    assert Counts.from_dict(first.to_dict()) == first
    total = (first + second).to_dict()
    expected = {**first.to_dict(), **second.to_dict()}
    assert total == {key: first.to_dict().get(key, 0) + second.to_dict().get(key, 0) for key in expected}
