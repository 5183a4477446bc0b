import numpy as np
import pytest

from m2raap.adapt.sources import ListSource
from m2raap.adapt.texts import text_table
from m2raap.core.errors import M2raapError
from tests.adapt.letters import Letters
from tests.adapt.world import ordered


def source_of(texts: list[tuple[str, str, str]]) -> ListSource:
    return ListSource(["a"], [[b""]], [texts])


def test_draws_follow_the_odds() -> None:
    texts = [("en", "r", "raw"), ("en", "w", "rewrite"), ("en", "x", "aux"), ("zh", "z", "raw"), ("fr", "f", "raw")]
    odds = {"raw": 1.0, "rewrite": 3.0, "aux": 0.0}
    table = text_table(source_of(texts), Letters(), ("en", "zh"), {"zh": 0.25}, odds)
    assert list(table.texts) == ["r", "w", "z"] and table.num_truncated == 0
    drawn = [table.texts[table.draw(np.array([0]), 1, 7, step)[0, 0]] for step in range(4000)]
    share = {text: drawn.count(text) / 4000 for text in "rwz"}
    assert share == pytest.approx({"r": 0.8 * 0.25, "w": 0.8 * 0.75, "z": 0.2}, abs=0.03)


def test_two_texts_of_a_clip_are_of_two_languages() -> None:
    texts = [("en", "r", "raw"), ("en", "w", "raw"), ("zh", "z", "raw")]
    table = text_table(source_of(texts), Letters(), ("en", "zh"), {}, {})
    for step in range(20):
        drawn = table.draw(np.array([0, 0]), 3, 0, step)
        assert drawn.shape == (3, 2)
        for clip in range(2):
            assert {row == 2 for row in drawn[:2, clip]} == {True, False}
    assert table.draw(np.array([0]), 1, 0, 5).tolist() == table.draw(np.array([0]), 1, 0, 5).tolist()


def test_a_clip_draws_the_same_whatever_stands_beside_it() -> None:
    source = ordered(4, 0, frames=1)
    source.pairs = [[("en", f"{i}{j}", "raw") for j in range(9)] for i in range(4)]
    table = text_table(source, Letters(), ("en",), {}, {})
    assert table.draw(np.array([3, 1]), 1, 0, 1)[0, 1] == table.draw(np.array([1, 2]), 1, 0, 1)[0, 0]


def test_validation_takes_the_first_text_of_a_language() -> None:
    source = ListSource(["a", "b"], [[], []], [[("zh", "z", "raw")], [("en", "long", "raw"), ("en", "e", "raw")]])
    table = text_table(source, Letters(), ("en", "zh"), {}, {})
    assert [a.tolist() for a in table.queries_of("en")] == [[1], [1]]
    assert [a.tolist() for a in table.queries_of("zh")] == [[0], [0]]
    assert table.num_truncated == 1


def test_captions_of_frames_are_no_queries_of_validation() -> None:
    """Their ids sort first, and ACG would find them by themselves."""
    of_all_origins = [("en", "f", "aux"), ("en", "t", "translation"), ("en", "w", "rewrite"), ("en", "r", "raw")]
    texts = [of_all_origins, of_all_origins[:3], [*of_all_origins[:1], ("zh", "z", "raw")], of_all_origins[:1]]
    table = text_table(ListSource(list("abcd"), [[]] * 4, texts), Letters(), ("en", "zh"), {}, {"aux": 0.25})
    clips, rows = table.queries_of("en")
    assert clips.tolist() == [0, 1] and [table.texts[row] for row in rows] == ["r", "w"]
    nothing_else = text_table(source_of(of_all_origins[:1]), Letters(), ("en",), {}, {})
    assert nothing_else.queries_of("en")[0].tolist() == [0]


def test_an_origin_has_its_odds_however_many_texts_it_has() -> None:
    texts = [("en", str(i), "aux") for i in range(8)] + [("en", "w", "rewrite")]
    table = text_table(source_of(texts), Letters(), ("en",), {}, {"aux": 0.25})
    drawn = [table.texts[table.draw(np.array([0]), 1, 7, step)[0, 0]] for step in range(4000)]
    assert drawn.count("w") / 4000 == pytest.approx(0.8, abs=0.03)


def test_who_owns_a_text_is_known_whatever_was_drawn() -> None:
    texts = [[("en", "a", "raw"), ("zh", "b", "raw")], [("en", "b", "raw")], [("en", "a", "raw"), ("en", "a", "aux")]]
    table = text_table(ListSource(list("xyz"), [[]] * 3, texts), Letters(), ("en", "zh"), {}, {})
    assert table.owners(np.array([2, 0, 1])) == {"a": [0, 1], "b": [1, 2]}


def test_a_clip_without_a_text_is_named() -> None:
    with pytest.raises(M2raapError, match="clip 'a' has no text in zh"):
        text_table(source_of([("en", "r", "raw")]), Letters(), ("zh",), {}, {})
