"""Training with the terms on the order of events: what they cost where no caption says an order, and what they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.adapt import step as steps
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.distributed import DistContext
from m2raap.adapt.frame_order import reverse_frames, swap_halves
from m2raap.adapt.loop import adapt
from m2raap.adapt.order_texts import OrderTexts
from m2raap.adapt.pixels import Decoding, images_of
from m2raap.adapt.prepare import prepare
from m2raap.adapt.sources import ListSource
from m2raap.core.config import build
from m2raap.core.errors import UsageError
from m2raap.models.config import AdapterConfig, BackboneConfig, StanConfig
from m2raap.models.video_clip import VideoCLIP
from tests.adapt.world import ordered

ORDER = {"clauses": 1.0, "event_order": {"weight": 1.0, "start": 0.5}}


def config(tiny_dir: Path, **changes: Any) -> AdaptConfig:
    base = {
        "backbone": BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True), "num_frames": 4, "steps": 4,
        "batch_size": 6, "temporal": StanConfig(layers=1), "threads": 1, "lr_new": 1e-2, "warmup": 0.0,
    }  # fmt: skip
    return AdaptConfig(**(base | changes))


def without_order(num_clips: int) -> ListSource:
    source = ordered(num_clips, 0)
    source.pairs = [[(lang, text.replace("then", "and").replace("先", "有"), origin) for lang, text, origin in pair]
                    for pair in source.pairs]  # fmt: skip
    return source


def terms_of(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text().splitlines()]
    return [line["terms"] for line in lines if "terms" in line]


def test_each_term_counts_from_its_start_and_the_heads_stay_out_of_the_model(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = adapt(config(tiny_dir, loss=ORDER), ordered(12, 0), None, tmp_path)
    assert [list(terms) for terms in terms_of(tmp_path)] == (
        [["plain", "clauses"]] * 2 + [["plain", "clauses", "event_order"]] * 2
    )
    assert all(value > 0 for terms in terms_of(tmp_path) for value in terms.values())
    assert not any("head" in name for name in VideoCLIP.load(result.model_dir).state_dict())
    assert "24 of 24 texts say which of two events comes first" in capsys.readouterr().err


def test_the_heads_learn_at_the_rate_of_what_is_new(tiny_dir: Path, tmp_path: Path) -> None:
    state = prepare(
        config(tiny_dir, loss=ORDER), ordered(12, 0), None, tmp_path, lambda *_: None, DistContext(), Decoding()
    )
    try:
        heads = state.optim.modules.order_heads
        assert heads is not None
        groups = [g for g in state.optim.optimiser.param_groups if any(p is heads.weight_2EE for p in g["params"])]
        assert [(group["name"], group["base_lr"]) for group in groups] == [("new", 1e-2)]
        assert any(p is heads.weight_2EE for p in state.optim.grad_cache.of_loss)
        steps.gradients(state, state.prefetcher.get(1))
        assert heads.weight_2EE.grad is not None and float(heads.weight_2EE.grad.abs().max()) > 0
    finally:
        state.close()


def test_captions_without_order_cost_nothing_and_change_nothing(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = adapt(config(tiny_dir), without_order(12), None, tmp_path / "plain")

    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is encoded for a term that no caption of the batch serves")

    monkeypatch.setattr(steps, "swap_halves", refuse)
    monkeypatch.setattr(OrderTexts, "encode", refuse)
    loss = {"clauses": 1.0, "event_order": 1.0}
    order = adapt(config(tiny_dir, loss=loss, micro_batch=2), without_order(12), None, tmp_path / "order")
    assert all(terms["clauses"] == terms["event_order"] == 0.0 for terms in terms_of(tmp_path / "order"))
    assert "warning: 0 of 24 texts" in capsys.readouterr().err
    same = adapt(config(tiny_dir, micro_batch=2), without_order(12), None, tmp_path / "same")
    weights = [(result.model_dir / "model.safetensors").read_bytes() for result in (same, order)]
    assert weights[0] == weights[1] and plain.steps == 4


def test_no_event_is_encoded_where_no_caption_says_an_order(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = VideoCLIP.encode_text

    def of_texts(model: VideoCLIP, tokens_BL: torch.Tensor) -> torch.Tensor:
        assert len(tokens_BL), "towers of a fixed text length refuse an empty batch"
        return encode(model, tokens_BL)

    monkeypatch.setattr(VideoCLIP, "encode_text", of_texts)
    adapt(config(tiny_dir, loss=ORDER, train_text=False), without_order(12), None, tmp_path)
    assert all(terms["clauses"] == 0.0 for terms in terms_of(tmp_path))


@pytest.mark.parametrize(
    "temporal", [StanConfig(layers=1, start="open"), AdapterConfig(layers=2)], ids=lambda cfg: cfg.name
)
def test_frames_in_another_order_have_the_vectors_of_such_a_clip(temporal: Any, tiny_dir: Path, tmp_path: Path) -> None:
    loss = {"direction": 1.0, "event_order": 1.0}
    cfg, source = config(tiny_dir, loss=loss, temporal=temporal, cache="off", train_vision_layers=1), ordered(12, 0)
    state = prepare(cfg, source, None, tmp_path, lambda *_: None, DistContext(), Decoding())
    try:
        for p in state.model.temporal.parameters():  # a new module gives every order the same vector
            p.data += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        share = state.prefetcher.get(1)
        features = steps.encode(state, share, 0, 6)
        state.model.eval()
        images, mask = images_of(share.inputs, share.mask_BT, state.model.backbone.preprocess), share.mask_BT
        for order, vectors_BE in ((reverse_frames, features.reversed_BE), (swap_halves, features.swapped_BE)):
            assert vectors_BE is not None
            expected_BE = state.model.encode_video(order(images, mask, 1), mask)
            torch.testing.assert_close(vectors_BE, expected_BE, atol=1e-5, rtol=0)
            assert float((vectors_BE - features.video_BE).detach().abs().max()) > 1e-3
    finally:
        state.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temporal": {"name": "mean"}}, r"adapt\.temporal\.name mean.*adapt\.loss\.event_order"),
        ({"num_frames": 1}, r"adapt\.loss\.event_order.*adapt\.num_frames is 1"),
    ],
)
def test_what_cannot_see_an_order_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(AdaptConfig, {"loss": {"event_order": 1.0}} | changes, "recipe")
    build(AdaptConfig, {"loss": {"clauses": 1.0}} | changes, "recipe")
