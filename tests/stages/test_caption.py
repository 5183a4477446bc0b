"""caption: how many frames are described, by which captioner, and to which server pictures are sent."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from m2raap.core.files import read_json
from tests.curate.scripted import Say, completion, payload, serving
from tests.stages.pictures import draw, drawn_corpus, with_frames
from tests.stages.test_rewrite import here, rows

COLOURS = {"a": "red", "b": "blue"}


def frames_of(tmp_path: Path) -> Path:
    corpus = drawn_corpus(tmp_path / "C", {"a": [("en", "x y z")], "b": [("en", "x y z")]})
    return with_frames(corpus, tmp_path / "k", COLOURS, num=5)


def see(body: dict[str, Any], before: int) -> Any:
    """A captioner that recognises the drawn pictures by their bytes."""
    url = body["messages"][-1]["content"][1]["image_url"]["url"]
    jpeg = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    colour = next(c for c in ("red", "blue") for t in range(5) if draw(c, side_px=96 + 2 * t) == jpeg)
    if colour == "blue" and jpeg == draw("blue", side_px=100):
        return Say({}, 400)
    words = {
        "en": f"A {colour} circle is seen.",
        "zh": {"red": "红色的圆形。", "blue": "以下是描述：蓝色的圆形。"}[colour],
    }
    return {lang: words[lang] for lang in payload(body)["languages"]}


def test_frames_says_how_many_of_the_key_frames_are_described(tmp_path: Path):
    frames = frames_of(tmp_path)
    for wanted, expected in ((2, [1, 3]), (9, [0, 1, 2, 3, 4])):
        out = tmp_path / f"c{wanted}"
        here(
            "caption", frames, "--out", out, "--set", "langs=[en]", "--set", f"caption.frames={wanted}", "--workers", 1
        )
        texts = rows(out, "texts")
        assert sorted({row["frame_index"] for row in texts.values()}) == expected
        assert {(row["clip_id"], row["text"]) for row in texts.values()} == {
            ("a", "a red circle"),
            ("b", "a blue circle"),
        }
        assert read_json(out / "manifest.json")["counts"]["texts_added"] == 2 * len(expected)


def test_an_endpoint_describes_pictures_and_the_ledger_says_where_they_went(tmp_path: Path):
    frames = frames_of(tmp_path)
    with serving(see) as server:
        settings = {"name": "endpoint", "frames": "2", "endpoint.base_url": server.url, "endpoint.model": "sees"}
        words = [word for key, value in settings.items() for word in ("--set", f"caption.{key}={value}")]
        here("caption", frames, "--out", tmp_path / "c", "--workers", 1, *words)
        assert len(server.bodies) == 4 and "circle" not in json.dumps(server.bodies), (
            "captions of the corpus are not shown"
        )
    signals = rows(tmp_path / "c", "signals")
    assert {key: row["caption_outcome"] for key, row in signals.items() if row["text_id"]} == {
        "a.aux.en1": "ok", "a.aux.zh1": "ok", "a.aux.en3": "ok", "a.aux.zh3": "ok",
        "b.aux.en1": "ok", "b.aux.zh1": "refused", "b.aux.en3": "ok", "b.aux.zh3": "refused",
    } | ({"b.aux.en1": "ok"})  # fmt: skip
    assert signals["b.aux.zh1"]["caption_note"] == "the answer holds: talk about the task"
    texts = rows(tmp_path / "c", "texts")
    assert texts["a.aux.zh3"]["text"] == "红色的圆形。" and "sees describe:" in texts["a.aux.zh3"]["producer"]
    assert "b.aux.zh1" not in texts and signals["b"]["num_captions"] == 2
    counts = read_json(tmp_path / "c" / "manifest.json")["counts"]
    assert counts[f"frames_sent_to:{server.url.removeprefix('http://').removesuffix('/v1')}"] == 4


def test_a_frame_that_cannot_be_described_ends_in_its_outcome(tmp_path: Path):
    frames = frames_of(tmp_path)
    declined = "I'm sorry, I can't."
    answers = iter([Say({}, 400), declined, Say(completion('{"en": "a', "length")), Say({}, 400), declined])
    with serving(lambda body, n: next(answers)) as server:
        settings = {"name": "endpoint", "frames": "2", "endpoint.base_url": server.url, "endpoint.model": "sees"}
        settings |= {"endpoint.budget.max_requests": "3", "endpoint.concurrency": "1"}
        words = [word for key, value in settings.items() for word in ("--set", f"caption.{key}={value}")]
        command = ("caption", frames, "--out", tmp_path / "c", "--set", "langs=[en]", "--workers", 1, *words)
        here(*command, check=3)
        assert len(server.bodies) == 3 and not (tmp_path / "c" / "manifest.json").exists()
        here(*command, "--set", "caption.endpoint.budget.max_requests=5")
    outcomes = sorted(row["caption_outcome"] for row in rows(tmp_path / "c", "signals").values() if row["text_id"])
    assert outcomes == ["error", "refused", "refused", "truncated"]
    assert rows(tmp_path / "c", "texts") == {}
