"""The terms of the loss: their weights, from when they count, their log, and that each is a loss for every pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.loop import adapt
from m2raap.adapt.loss_config import LossConfig
from m2raap.adapt.objective import loss_rows, step_loss
from m2raap.adapt.pixels import Decoding
from m2raap.adapt.prepare import prepare
from m2raap.adapt.step import encode
from m2raap.core.config import build, merge
from m2raap.core.errors import UsageError
from m2raap.models.config import BackboneConfig, MugConfig, StanConfig
from tests.adapt.world import ordered


def config(tiny_dir: Path, **changes: Any) -> AdaptConfig:
    base = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "num_frames": 4, "steps": 4,
        "batch_size": 6, "temporal": StanConfig(layers=1), "val_every_steps": 4, "threads": 1, "texts_per_clip": 2,
    }  # fmt: skip
    return AdaptConfig(**(base | changes))


def test_a_number_is_the_weight_and_a_mapping_says_from_when() -> None:
    loss = LossConfig.model_validate({"direction": 2, "interaction": {"weight": 0.5, "start": 0.5}})
    assert loss.weights_at(0.0) == {"plain": 1.0, "direction": 2.0}
    assert loss.weights_at(0.49) == loss.weights_at(0.0)
    assert loss.weights_at(0.5) == {"plain": 1.0, "direction": 2.0, "interaction": 0.5}
    tree = merge(loss.model_dump(mode="json"), {"interaction": 0.0})
    assert LossConfig.model_validate(tree).weights_at(1.0) == {"plain": 1.0, "direction": 2.0}


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"plain": 0.0}, "no term that counts from the first step"),
        ({"plain": {"weight": 1.0, "start": 0.2}}, "no term that counts from the first step"),
        ({"plain": -1}, r"loss\.plain\.weight"),
        ({"plain": True}, r"loss\.plain"),
        ({"plain": {"weight": 1.0, "start": 1.0}}, r"loss\.plain\.start"),
        ({"mug": 1.0}, r"unknown key 'loss\.mug'"),
    ],
)
def test_wrong_weights_are_refused_by_key(loss: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(AdaptConfig, {"loss": loss}, "recipe")


def test_every_term_is_logged_from_when_it_counts(tiny_dir: Path, tmp_path: Path) -> None:
    loss = {"plain": 0.5, "direction": {"weight": 2.0, "start": 0.5}}
    adapt(config(tiny_dir, loss=loss), ordered(12, 0), None, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [list(line["terms"]) for line in steps] == [["plain"]] * 2 + [["plain", "direction"]] * 2
    for line in steps:
        weighted = 0.5 * line["terms"]["plain"] + 2.0 * line["terms"].get("direction", 0.0)
        assert line["loss"] == pytest.approx(weighted, rel=1e-5)


def test_terms_of_texts_that_are_kept_are_means_over_those_that_have_them() -> None:
    """Two texts a clip; `clauses` in two texts of the first and one of the second, spread as their rows are."""
    plain = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    clauses = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 5.0], [2.0, 0.0]]) * torch.tensor([4 / 2, 4 / 1])
    caption = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    kept = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    rows = {"plain": plain, "clauses": clauses, "frame_caption": caption}
    terms = step_loss(dict.fromkeys(rows, 1.0), rows, kept_BK=kept).floats()
    assert terms == pytest.approx({"plain": (1 + 3 + 4 + 6 + 8) / 5, "clauses": (1.0 + 5.0) / 2, "frame_caption": 2.5})
    weights = dict.fromkeys(rows, 1.0)
    assert step_loss(weights, rows, kept_BK=torch.ones(4, 2)).floats() == pytest.approx(
        step_loss(weights, rows).floats()
    )
    none = step_loss({"clauses": 1.0}, {"clauses": clauses}, kept_BK=1 - (clauses > 0).float())
    assert float(none.total) == 0


def test_each_term_is_a_loss_for_every_clip_and_text(tiny_dir: Path, tmp_path: Path) -> None:
    loss = dict.fromkeys(("plain", "direction", "frame_caption", "interaction", "clauses", "event_order"), 1.0)
    cfg = config(tiny_dir, loss=loss, interaction=MugConfig())
    state = prepare(cfg, ordered(12, 0), None, tmp_path, lambda *_: None, DistContext(), Decoding())
    try:
        share = state.prefetcher.get(1)
        step, features = share.step, encode(state, share, 0, 6)
        parts = (state.cfg, step.loss_weights, features, step.batch_texts, state.model.backbone.logit_scale.exp())
        of_loss = (state.optim.bias, state.optim.modules, state.model.interaction)
        rows = loss_rows(*parts, *of_loss)
        whole = step_loss(step.loss_weights, rows)
    finally:
        state.close()
    assert {name: tuple(term.shape) for name, term in rows.items()} == {
        "plain": (6, 2), "direction": (6, 2), "interaction": (6, 2), "frame_caption": (6, 1), "clauses": (6, 2),
        "event_order": (6, 2),
    }  # fmt: skip
    assert float(whole.total.detach()) == pytest.approx(
        sum(float(term.detach().mean()) for term in rows.values()), rel=1e-6
    )
