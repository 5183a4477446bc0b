"""Token ids of a source in a file: made once, by however many processes, and made again where the file is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2raap.adapt import tokens
from m2raap.adapt.tokens import Tokens, TokenStore, tokenised
from m2raap.core.strings import Strings
from m2raap.models.backbone import Backbone
from tests.adapt.letters import Letters

TEXTS = Strings.of(["a red circle", "word " * 40, "先红后绿", *(f"number {i}" for i in range(30))])


def alone(make: Callable[[], Tokens]) -> Tokens:
    return make()


def test_processes_make_the_tokens_of_one(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens._can_be_sent(backbone.tokenizer)
    plain = tokenised(backbone.tokenizer, TEXTS)
    ids = backbone.tokenize(list(TEXTS)).numpy()
    assert np.array_equal(plain.ids_NL, ids[:, : plain.ids_NL.shape[1]]) and plain.num_truncated == 1
    assert plain.rows(np.array([[2, 0]])).shape == (1, 2, plain.ids_NL.shape[1])
    monkeypatch.setattr(tokens, "SPREAD_FROM", 1)
    monkeypatch.setattr(tokens, "available_cores", lambda: 2)
    monkeypatch.setattr(tokens, "CHUNK", 7)
    letters = tokenised(Letters(), TEXTS)  # which the processes open without loading a library of models
    assert letters.ids_NL.tolist() == [[ord(letter) for letter in text[:2]] for text in TEXTS]
    assert letters.num_truncated == len(TEXTS)


def test_they_are_made_once_for_the_same_data_and_again_for_other(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counting(*args: object) -> Tokens:
        made.append(1)
        return tokenised(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(tokens, "tokenised", counting)
    plain = tokenised(backbone.tokenizer, TEXTS)

    def stored(digest: str = "d", text_length: int | None = None) -> Tokens:
        return TokenStore(tmp_path, digest, alone).tokens("texts", backbone.tokenizer, TEXTS, text_length)

    for _ in range(2):
        first = stored()
        assert np.array_equal(first.ids_NL, plain.ids_NL) and first.num_truncated == 1
    assert isinstance(first.ids_NL, np.memmap) and len(made) == 1
    stored("other")
    assert stored("other", 5).num_truncated > 1 and len(made) == 3
    path = tmp_path / "texts.npy"
    path.write_bytes(path.read_bytes()[:-8])
    stored("other", 5)
    (tmp_path / "texts.json").write_text("[]")
    stored("other", 5)
    assert len(made) == 5
