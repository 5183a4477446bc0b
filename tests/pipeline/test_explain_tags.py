"""What `explain` says of tags, and of a text that contradicts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2raap.annotate.config import AnnotateConfig, FitConfig
from m2raap.core.corpus import write_corpus
from m2raap.core.view import View
from m2raap.pipeline.explain import explain
from m2raap.pipeline.signal_text import signal_text
from tests.conftest import m2raap
from tests.stages.tagged import tagged, write_tagger


@pytest.fixture
def view(tmp_path: Path) -> View:
    clips = [{"clip_id": "v", "video": "v.mp4", "split": "train"}]
    texts = [
        {"text_id": f"v.{i}", "clip_id": "v", "lang": "en", "text": text, "origin": "raw", "active": True}
        for i, text in enumerate(("a red bus", "a blue bus"))
    ]
    write_corpus(tmp_path / "C", clips, texts, video_root=tmp_path, source={}, benchmark=None, num_parts=1)
    return View(tmp_path / "C")


TAGS = {"v": {"red / 红色": 0.93126, "bus": 0.5}}
NAMED = {"v.0": (["red / 红色"], 1.5), "v.1": (["blue"], -2.5)}


def test_tags_are_told_with_their_probabilities(view: View, tmp_path: Path) -> None:
    folder = tagged(view, tmp_path / "A", TAGS, NAMED, cfg=AnnotateConfig(least_support=-1.0))
    lines = m2raap("explain", "v", "--in", folder).stdout.splitlines()
    assert "  clip: tags red / 红色 0.93, bus 0.5" in lines
    assert "  v.1: tag_support -2.5, tags_named [blue]" in lines
    assert "  v.0 passed contradicts_tags/1 (tag_support 1.5, refused below -1)" in lines
    assert "  v.1 failed contradicts_tags/1 (tag_support -2.5, refused below -1)" in lines
    assert "  dropped v.1: contradicts_tags (tag_support -2.5 against -1), rule contradicts_tags/1" in lines
    assert [text["text_id"] for text in explain(folder, "v")["fate"]["texts"]] == ["v.0"]


def test_the_rule_of_a_tagger_that_was_given_with_one_fold(view: View, tmp_path: Path) -> None:
    """Folds are of a tagger that the stage fits; the manifest does not name the place of the one that was given."""
    write_tagger(tmp_path / "T" / "tagger", ["red", "blue"])
    cfg = AnnotateConfig(tagger=tmp_path / "T", fit=FitConfig(folds=1), least_support=-1.0)
    rules = explain(tagged(view, tmp_path / "A", TAGS, NAMED, cfg=cfg), "v")["stages"][0]["rules"]
    assert [(rule["text_id"], rule["failed"]) for rule in rules] == [("v.0", False), ("v.1", True)]


def test_signals_in_words() -> None:
    row = {"clip_id": "v", "labels": ["猫", "dog"], "tags": ["猫"], "tags_p": [0.98765], "top_tag": 3, "x": 0.123456}
    assert signal_text(row) == "tags 猫 0.99, labels [猫, dog], x 0.1235"
    assert signal_text({"clip_id": "v", "tags": ["a", "b"], "tags_p": [0.5]}) == "tags [a, b], tags_p [0.5]"
    assert signal_text({"clip_id": "v", "top_tag": -1}) == "" and signal_text({"text_id": "t"}) == ""
    assert signal_text({"ok": True, "n": 3, "word": "b"}) == "ok true, n 3, word b"
