from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest

from m2raap.core.errors import M2raapError
from m2raap.curate.captioners import CAPTIONERS, CaptionerConfig, ClipFrames, RetrievalCaptioner, Tools, candidates
from m2raap.curate.llm.cache import Cache
from tests.curate.scripted import serving


def encode(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(zlib.crc32(t.encode())).normal(size=16) for t in texts]
    return np.stack(rows) * 3.0  # not unit on purpose


def no_cache() -> Cache:
    raise AssertionError("this captioner asks nobody")


def retrieval(encode_texts=encode, cfg: CaptionerConfig | None = None) -> RetrievalCaptioner:
    """Pictures are rows of features here."""
    as_features = lambda jpegs: np.stack([np.frombuffer(jpeg, np.float64) for jpeg in jpegs])  # noqa: E731
    return RetrievalCaptioner(
        cfg or CaptionerConfig(),
        Tools(as_features, encode_texts, no_cache, lambda clips: [as_features(jpegs) for jpegs in clips]),
    )


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
    captioner = retrieval(lambda texts: calls.append(len(texts)) or encode(texts))
    frames = unit(encode(["a dog", "a red circle", "一只猫"]))
    rows = captioner.nearest([frames], ["en", "zh"])[0]
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
    jpegs = [row.tobytes() for row in frames]
    clips = [ClipFrames("a", jpegs[:1]), ClipFrames("none", []), ClipFrames("b", jpegs[1:])]
    found = captioner.caption_many(clips, ["en", "zh"])
    assert [row["text"] for clip in found for row in clip] == [row["text"] for row in rows] and found[1] == []
    assert len(calls) == 2  # candidates are encoded once a language


def test_batches_equal_single_clips() -> None:
    rng = np.random.default_rng(0)
    clips = [unit(rng.normal(size=(k, 16))).astype(np.float32) for k in (3, 1, 0, 5)]
    captioner = retrieval()
    many = captioner.nearest(clips, ["zh"])
    for rows, clip in zip(many, clips, strict=True):
        single = captioner.nearest([clip], ["zh"])[0]
        assert [r["text"] for r in rows] == [r["text"] for r in single]
        assert [r["score"] for r in rows] == pytest.approx([r["score"] for r in single], abs=1e-5)
    assert captioner.nearest([], ["en"]) == []


def test_low_scores_are_skipped_and_bad_features_refused() -> None:
    captioner = retrieval(cfg=CaptionerConfig(min_score=1.5))
    assert CAPTIONERS["retrieval"] is RetrievalCaptioner
    row = captioner.nearest([unit(encode(["a dog"]))], ["en"])[0][0]
    assert (row["text"], row["outcome"]) == (None, "skipped")
    with pytest.raises(M2raapError, match="NaN"):
        captioner.nearest([np.full((1, 16), np.nan)], ["en"])
    with pytest.raises(M2raapError, match="8 dimensions"):
        captioner.nearest([np.ones((1, 8))], ["en"])


def test_orders_on_a_screen_become_no_caption(tmp_path: Path) -> None:
    """A model that reads every hostile text off the picture and says it: none of them becomes an auxiliary caption."""
    data = Path(__file__).parent / "data"
    rows = [
        json.loads(line) for name in ("dev", "held") for line in (data / f"hostile_{name}.jsonl").open(encoding="utf-8")
    ]
    texts = {lang: [row["text"] for row in rows if row["lang"] == lang] for lang in ("en", "zh")}
    num = max(map(len, texts.values()))
    assert len(rows) > 60

    def read_off(body: dict, before: int) -> dict[str, str]:
        url = body["messages"][-1]["content"][1]["image_url"]["url"]
        index = next(i for i, jpeg in enumerate(jpegs) if url.endswith(base64.b64encode(jpeg).decode()))
        return {lang: own[index % len(own)] for lang, own in texts.items()}

    jpegs = [f"picture {i:04d}".encode() for i in range(num)]
    with serving(read_off) as server:
        endpoint = {"base_url": server.url, "model": "sees"}
        cfg = CaptionerConfig.model_validate({"name": "endpoint", "endpoint": endpoint})
        tools = Tools(lambda _: np.zeros(0), lambda _: np.zeros(0), lambda: Cache(tmp_path / "llm.sqlite"), list)
        found = CAPTIONERS["endpoint"](cfg, tools).caption_many([ClipFrames("c", jpegs)], ["en", "zh"])[0]
    assert len(found) == 2 * num and {row["outcome"] for row in found} <= {"refused", "error"}
    assert all(row["text"] is None for row in found)
