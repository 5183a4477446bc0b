"""The events of captions as texts of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2raap.adapt.order_texts import FIRST, SECOND, SWAPPED, order_texts
from m2raap.models.backbone import Backbone
from m2raap.models.config import MeanConfig
from m2raap.models.video_clip import VideoCLIP

TEXTS = ["red then green", "a dog runs", "green then red", "blue then blue", "after it rains, they leave", "先红后绿"]


def test_each_text_has_the_rows_of_its_events_and_equal_clauses_share_a_row(backbone: Backbone) -> None:
    order = order_texts(TEXTS, backbone.tokenizer)
    words = [[order.texts[row] if row >= 0 else None for row in rows] for rows in order.rows_N3]
    assert words[0] == ["red", "green", "green then red"] and words[2] == ["green", "red", "red then green"]
    assert words[1] == words[3] == [None] * 3  # no order, and events in the same words
    assert words[4] == ["it rains", "they leave", "after they leave, it rains"] and words[5] == ["红", "绿", "先绿后红"]
    assert order.rows_N3[0, FIRST] == order.rows_N3[2, SECOND] and order.num_split == 4
    assert len(order.texts) == len(set(order.texts)) == len(order.tokens.ids_NL)


@torch.no_grad()
def test_they_are_encoded_as_any_text_is_and_what_is_missing_is_zero(backbone: Backbone) -> None:
    order, model = order_texts(TEXTS, backbone.tokenizer), VideoCLIP(backbone, MeanConfig())
    rows = order.rows_N3[[1, 0, 5]]
    vectors = order.encode(model, rows)
    assert vectors.shape == (3, 3, 32) and not vectors[0].any()
    expected = model.encode_text(backbone.tokenize(["red", "先绿后红"]))
    torch.testing.assert_close(torch.stack([vectors[1, FIRST], vectors[2, SWAPPED]]), expected, atol=1e-6, rtol=0)
    frozen = order.encode(model, rows, model.encode_text(order.tokens.rows(np.arange(len(order.texts)))))
    torch.testing.assert_close(frozen, vectors, atol=1e-6, rtol=0)


@pytest.mark.parametrize("texts", [["a dog runs"], []], ids=["no order", "no texts"])
def test_texts_without_order_have_none(texts: list[str], backbone: Backbone) -> None:
    order = order_texts(texts, backbone.tokenizer)
    assert order.num_split == 0 and order.texts == [] and order.rows_N3.shape == (len(texts), 3)
    vectors = order.encode(VideoCLIP(backbone, MeanConfig()), np.full((2, 3), -1))
    assert vectors.shape == (2, 3, 32) and not vectors.any()
