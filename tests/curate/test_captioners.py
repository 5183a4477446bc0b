from __future__ import annotations

import zlib

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.curate.captioners import CAPTIONERS, CaptionerConfig, RetrievalCaptioner, candidates


def encode(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(zlib.crc32(t.encode())).normal(size=16) for t in texts]
    return np.stack(rows) * 3.0  # not unit on purpose


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_list_is_bilingual_and_general() -> None:
    lists = candidates()
    assert len(lists["en"]) == len(lists["zh"]) >= 250
    at = lists["en"].index("a red circle")
    assert lists["zh"][at] == "一个红色圆形"
    assert lists["zh"][lists["en"].index("a dog")] == "一只狗"


def test_every_frame_gets_its_nearest_caption_in_each_language() -> None:
    calls = []
    captioner = RetrievalCaptioner(lambda texts: calls.append(len(texts)) or encode(texts))
    frames = unit(encode(["a dog", "a red circle", "一只猫"]))
    rows = captioner.caption(frames, ["en", "zh"])
    assert [(r["frame_index"], r["lang"]) for r in rows] == [
        (0, "en"),
        (0, "zh"),
        (1, "en"),
        (1, "zh"),
        (2, "en"),
        (2, "zh"),
    ]
    assert [rows[0]["text"], rows[2]["text"], rows[5]["text"]] == ["a dog", "a red circle", "一只猫"]
    assert rows[0]["score"] == pytest.approx(1.0, abs=1e-5) and {r["outcome"] for r in rows} == {"ok"}
    captioner.caption(frames, ["en", "zh"])
    assert len(calls) == 2  # candidates are encoded once a language


def test_batches_equal_single_clips() -> None:
    rng = np.random.default_rng(0)
    clips = [unit(rng.normal(size=(k, 16))).astype(np.float32) for k in (3, 1, 0, 5)]
    captioner = RetrievalCaptioner(encode)
    many = captioner.caption_many(clips, ["zh"])
    for rows, clip in zip(many, clips, strict=True):
        single = captioner.caption(clip, ["zh"])
        assert [r["text"] for r in rows] == [r["text"] for r in single]
        assert [r["score"] for r in rows] == pytest.approx([r["score"] for r in single], abs=1e-5)
    assert captioner.caption_many([], ["en"]) == []


def test_low_scores_are_skipped_and_bad_features_refused() -> None:
    captioner = CAPTIONERS["retrieval"](encode, CaptionerConfig(min_score=1.5))
    row = captioner.caption(unit(encode(["a dog"])), ["en"])[0]
    assert (row["text"], row["outcome"]) == (None, "skipped")
    with pytest.raises(M2raapError, match="NaN"):
        captioner.caption(np.full((1, 16), np.nan), ["en"])
    with pytest.raises(M2raapError, match="8 dimensions"):
        captioner.caption(np.ones((1, 8)), ["en"])
