from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from m2raap.retrieval.agreement import agreement, spearman
from tests.retrieval.test_results import World


def test_one_language_twice_agrees_wholly() -> None:
    world = World(40)
    same = np.concatenate([world.text_TE[:40], world.text_TE[:40]])
    for row in agreement(world.evaluate(text_TE=same).ranks, 0):
        assert row["spearman"] == 1 and row["only_en"] == row["only_zh"] == 0 and row["clips"] == 40
        gap = row["gaps"]["R@1"]
        # No clip of 40 tells the two apart: the share of clips that would is at most 8.8 % (Wilson's interval of 0 of 40).
        assert gap["diff"] == 0 and gap["hi"] == -gap["lo"] == pytest.approx(8.762, abs=1e-3) and gap["p"] == 1
        assert gap["smallest"] == pytest.approx(100 * 6 / 40), "no clip changed: fewer than six could not be shown"


def test_a_language_that_knows_nothing() -> None:
    world = World(60, noise=0)
    blind = np.concatenate([world.text_TE[:60], world.text_TE[np.random.default_rng([1]).permutation(60)]])
    t2v, v2t = agreement(world.evaluate(text_TE=blind).ranks, 0)
    assert (t2v["direction"], v2t["direction"]) == ("t2v", "v2t")
    assert t2v["gaps"]["R@1"]["en"] == 100 and t2v["gaps"]["R@1"]["diff"] > 90
    assert t2v["spearman"] is None, "every English rank is 1"
    assert t2v["only_en"] > 0.9 and t2v["both"] + t2v["only_en"] + t2v["only_zh"] + t2v["neither"] == pytest.approx(1)
    assert t2v["gaps"]["R@1"]["lo"] > 0 and t2v["gaps"]["R@1"]["p"] < 0.01


def test_several_texts_count_as_one_clip() -> None:
    found = agreement(World(20, several=8).evaluate().ranks, 0)
    assert {row["clips"] for row in found} == {20}


def test_one_language_or_no_clip_in_common_has_no_agreement() -> None:
    world = World(6)
    assert agreement(world.evaluate(text_langs=["en"] * 12).ranks, 0) == []
    apart: dict[str, Any] = {"text_video_ids": [f"v00{i}" for i in (0, 1, 2) * 2 + (3, 4, 5) * 2]}
    assert agreement(world.evaluate(**apart).ranks, 0) == []


def test_spearman_by_hand() -> None:
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 40])) == 1
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([4.0, 3, 2, 1])) == -1
    # 1 - 6 * sum d^2 / (n (n^2 - 1)) where nothing ties
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(1 - 6 * 4 / 60)
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 1, 2])) == 1


def test_compat_stands_beside_the_results() -> None:
    found = World(20, several=4).evaluate(lost=2)
    assert found.compat["en"]["t2v"]["queries"] == 28 - 2 * 3
    assert found.compat["zh"]["t2v"]["queries"] == 18 == found.compat["zh"]["v2t"]["queries"]
    assert "not ours" in found.to_dict()["compat"]["label"]
