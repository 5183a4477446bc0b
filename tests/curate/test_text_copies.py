from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.core.errors import M2raapError
from m2raap.curate import language, minhash
from m2raap.curate.columns import Columns
from m2raap.curate.text_copies import Copies, TextTable, allowed_copies, decide, text_key

WORDS = [
    "dog",
    "cat",
    "boy",
    "girl",
    "runs",
    "jumps",
    "over",
    "under",
    "red",
    "blue",
    "field",
    "river",
    "house",
    "street",
    "then",
    "slowly",
    "again",
    "with",
    "kite",
    "ball",
]


def jaccard(a: str, b: str) -> float:
    def pairs(text: str) -> set[tuple[str, ...]]:
        tokens = language.tokens(text)
        return {tuple(tokens)} if len(tokens) == 1 else set(pairwise(tokens))

    one, two = pairs(a), pairs(b)
    return len(one & two) / len(one | two) if one | two else 0.0


def agreement(a: str, b: str) -> float:
    minima = minhash.sketches(Columns([a, b]))[:, 4 * minhash.NUM_BANDS :]
    return float((minima[0] == minima[1]).mean())


def test_agreement_of_sketches_estimates_shared_pairs() -> None:
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(60):
        words = rng.choice(WORDS, 14).tolist()
        other = [w if rng.random() < 0.85 else str(rng.choice(WORDS)) for w in words]
        gaps.append(agreement(" ".join(words), " ".join(other)) - jaccard(" ".join(words), " ".join(other)))
    assert abs(np.mean(gaps)) < 0.03 and np.std(gaps) < 0.09
    assert agreement("一个红色圆形向右移动", "一个红色圆形向右移动。") == 1
    assert agreement("dog", "Dog!") == 1 and agreement("dog", "cat") < 0.1
    assert agreement("clip 17 of a dog", "clip 9 of a dog") == 1  # numbers count as one


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS[:6]), max_size=9).map(" ".join), max_size=14))
def test_a_leader_comes_first_and_is_near(texts: list[str]) -> None:
    columns = Columns(texts) if texts else None
    sketches = minhash.sketches(columns) if columns else np.zeros((0, minhash.SKETCH_BYTES), np.uint8)
    found = minhash.leaders(sketches, 0.8)
    for at, head in enumerate(found.tolist()):
        assert head <= at
        assert head == at or agreement(texts[at], texts[head]) >= 0.79
        if head == at and texts[at].strip():
            assert all(language.tokens(texts[at]) != language.tokens(other) for other in texts[:at])


def test_texts_without_words_have_no_copies() -> None:
    assert minhash.leaders(minhash.sketches(Columns(["", "!!", "", "..."])), 0.8).tolist() == [0, 1, 2, 3]


def table(rows: list[tuple[str, str, str, str]]) -> TextTable:
    """Rows (text_id, clip_id, source, text)."""
    made = TextTable()
    sketches = minhash.sketches(Columns([row[3] for row in rows]))
    for (text_id, clip_id, source, words), sketch in zip(rows, sketches, strict=True):
        made.add(
            text_id,
            clip_id,
            source,
            {"text_key": text_key(words, "en"), "content_words": 2.0, "sketch": sketch.tobytes()},
        )
    return made


OFF = {"copies": None, "source_share": None, "near_copies": None}


def test_clips_are_counted_not_texts() -> None:
    rows = [(f"t{i}", f"c{i // 3}", "s", "the same words") for i in range(30)]
    found = decide(table(rows), OFF | {"copies": 4.9}, 0.8)
    assert found["copies"] == {"names": [text_key("the same words", "en")], "scores": [5.0]}  # ten clips, two words
    assert decide(table(rows), OFF | {"copies": 5.0}, 0.8)["copies"]["names"] == []
    assert decide(table(rows), OFF, 0.8) == {name: {"names": [], "scores": []} for name in OFF}


def test_copies_tell_what_was_found() -> None:
    rows = [(f"t{i:03d}", f"c{i}", "big", f"a dog number {i} runs" if i % 10 else "summer party") for i in range(600)]
    rows += [(f"u{i}", f"d{i}", "small", "summer party") for i in range(5)]
    found = decide(table(rows), {"copies": 30, "source_share": 0.04, "near_copies": 100}, 0.8)
    copies = Copies(found)
    party = text_key("summer party", "en")
    assert copies.of("t000", "big", party) == {"copies": 32.5, "source_share": 0.05}
    assert copies.of("u0", "small", party) == {"copies": 32.5}
    dog = text_key("a dog number 1 runs", "en")
    assert copies.of("t001", "big", dog) == {"copies": 270.0, "source_share": 0.45, "near_copies": 270.0}
    assert copies.of("t001", "small", 12345) == {"near_copies": 270.0}


def test_keys_join_what_reads_the_same() -> None:
    assert text_key("ＶＩＤＥＯ  clip 7.", "en") == text_key("video clip 1", "en")
    assert text_key("video clip 0", "zh") != text_key("video clip 0", "en")
    assert text_key("no dog", "en") != text_key("dog", "en") != text_key("dog no", "en")
    assert text_key("红色圆形", "zh") == text_key("红色，圆形。", "zh")
    with pytest.raises(M2raapError, match="'fr'"):
        text_key("chien", "fr")


def test_limits_grow_with_the_corpus() -> None:
    assert allowed_copies(20, 0.001, 5_000) == 20 and allowed_copies(20, 0.001, 1_000_000) == 1000
