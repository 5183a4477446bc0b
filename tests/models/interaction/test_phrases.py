"""Phrases as spans of characters, and as spans of the tokens of several tokenizers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone
from m2raap.models.interaction.phrases import phrase_spans, token_spans


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("A red ball moves to the left, then it's growing", ["red ball moves", "left", "growing"]),
        ("one two three four five six", ["one two three", "four five six"]),
        ("the man's dog-friendly house", ["man's dog-friendly house"]),
        ("红色的圆向左移动，然后一个蓝色方块变大", ["红色", "圆", "左移动", "蓝色方块", "变大"]),
        ("一只小狗 in a park", ["小狗", "park"]),
        ("the of a", []),
        ("", []),
    ],
)
def test_phrases(text: str, phrases: list[str]) -> None:
    assert [text[start:stop] for start, stop in phrase_spans(text)] == phrases


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab the-'.,\n 红色的圆了一个\U0001f600é", max_size=60))
def test_spans_are_in_order_and_apart(text: str) -> None:
    spans = phrase_spans(text)
    assert all(0 <= start < stop <= len(text) for start, stop in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    for start, stop in spans:
        words = text[start:stop].replace("-", " ").split()
        assert len(words) <= 4 and (len(words) <= 1 or text[start:stop].isascii() or "é" in text[start:stop])


TEXTS = [
    "A red ball moves to the left!",
    "红色的圆向左移动，一个方块变大",
    "",
    "the of a",
    "word " * 200,
    "a café ﬁre 1/2 &amp;",
]


def decoded(backbone: Backbone, ids: torch.Tensor) -> str:
    tokenizer = backbone.text.tokenizer
    return getattr(tokenizer, "tokenizer", tokenizer).decode(ids.tolist()).strip()


@pytest.mark.parametrize("own", [True, False], ids=["bilingual", "clip_bpe"])
def test_token_spans(own: bool, backbone: Backbone) -> None:
    backbone = load_backbone(BackboneConfig()) if own else backbone
    spans, ids = token_spans(TEXTS, backbone.tokenize), backbone.tokenize(TEXTS)
    covered = [
        [decoded(backbone, row[a:b]) for a, b in of_row if b > a]
        for row, of_row in zip(ids, spans.tolist(), strict=True)
    ]
    assert covered[0] == ["red ball moves", "left"]
    if own:
        assert [text.replace(" ", "") for text in covered[1]] == ["红色", "圆", "左移动", "方块变大"]
    length = ids.shape[1]
    for of_row in spans.tolist():
        filled = [(a, b) for a, b in of_row if b > a]
        assert filled and all(0 <= a < b <= length for a, b in filled)
        assert all(before[1] <= after[0] for before, after in pairwise(filled))
    assert spans[2].tolist()[0] == [0, 1] and spans[3].tolist()[0] == [1, 4]
    assert decoded(backbone, ids[3, 1:4]) == "the of a"
    assert (
        max(stop for _, stop in spans[4].tolist()) == length - 1
    )  # the end token of a text that was cut off is none of a phrase


def test_no_texts(backbone: Backbone) -> None:
    assert token_spans([], backbone.tokenize).shape == (0, 1, 2)
