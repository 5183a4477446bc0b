"""The arithmetic of `--dry-run` against what PyTorch counts on a small model: weights, FLOP, kept activations."""

import json
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2raap.adapt.optim import choose_trained
from m2raap.models.config import BackboneConfig, MeanConfig
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.shapes import shape_of
from m2raap.pipeline.train_cost import (
    as_tree,
    cost_lines,
    kept_bytes,
    layer_flop,
    temporal_flop,
    tower_learning,
    training_cost,
)

torch.set_num_threads(1)
FRAMES = 6
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3},
}
STAN: dict[str, Any] = {"name": "stan", "layers": 2, "drop_path": 0.0}
CASES: list[tuple[dict[str, Any], int]] = [
    ({"name": "mean"}, 4), (STAN, 0), (STAN, 4), (STAN | {"patch_pool": 2}, 0), ({"name": "seqtransf", "layers": 2}, 0),
    ({"name": "adapter", "layers": 2}, 0), ({"name": "message", "layers": 2}, 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("small")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL}))
    return {"model": f"local-dir:{folder}", "random_init": True}


def recipe(backbone: dict[str, Any], **adapt: Any) -> Recipe:
    return Recipe.model_validate({"name": "r", "backbone": backbone, "adapt": {"num_frames": FRAMES} | adapt})


def test_lora_learns_little(small: dict[str, Any]):
    pytest.importorskip("peft", reason="peft is an extra: pip install 'm2raap[lora]'")
    from m2raap.adapt.lora import add_lora

    one = recipe(small, temporal=STAN, train_vision_layers=2, lora={"rank": 4}, batch_size=2)
    model = VideoCLIP(load_backbone(one.backbone), one.adapt.temporal)
    choose_trained(model, one.adapt)
    assert one.adapt.lora
    add_lora(model, one.adapt.lora, 0)
    learning = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and "lora" in name)
    shape = shape_of(one.backbone)
    assert tower_learning(one.adapt, shape, 2) == learning
    whole = training_cost(recipe(small, temporal=STAN, train_vision_layers=2, batch_size=2), 64)
    cost = training_cost(one, 64)
    assert (
        whole.learning - cost.learning
        == tower_learning(one.adapt.model_copy(update={"lora": None}), shape, 2) - learning
    )
    assert cost.state_bytes < whole.state_bytes


@pytest.mark.parametrize(("temporal", "layers"), CASES, ids=lambda v: v if isinstance(v, int) else v["name"])
def test_the_arithmetic_is_what_pytorch_counts(small: dict[str, Any], temporal: dict[str, Any], layers: int):
    one = recipe(small, temporal=temporal, train_vision_layers=layers, batch_size=2)
    model = VideoCLIP(load_backbone(one.backbone), one.adapt.temporal)
    choose_trained(model, one.adapt)
    cost, shape = training_cost(one, 64), shape_of(one.backbone)
    # Biases and norms are left out of the arithmetic: 1% in a small model.
    assert cost.weights == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.02)
    assert cost.learning == pytest.approx(sum(p.numel() for p in model.parameters() if p.requires_grad), rel=0.02)

    frames = torch.randn(1, FRAMES, 3, 64, 64)
    pixels = 0 if layers else frames.nbytes  # a frozen tower keeps them no longer than it looks at them
    measured = kept(model, frames, model.backbone.tokenize(["a red circle"]))
    assert kept_bytes(one.adapt, shape) - pixels == pytest.approx(measured, rel=0.2)

    mean = VideoCLIP(model.backbone, MeanConfig())
    model.requires_grad_(True)  # what needs no gradient takes fused ways that the counter does not see
    added = counted(model, frames) - counted(mean, frames)
    assert temporal_flop(one.adapt, shape) == pytest.approx(added, rel=0.05)
    # There for all, back twice for what learns; the text tower learns in every case.
    bare = counted(mean, frames)
    text = counted_text(model)
    forward, learns = bare + added + text, (bare if layers else 0) + added + text
    through = bare / 2 if temporal["name"] in ("adapter", "message") and not layers else 0  # two frozen layers of four
    once = recipe(small, temporal=temporal, train_vision_layers=layers, cache="off", batch_size=2, steps=1)
    assert training_cost(once, 2).flop == pytest.approx(2 * (forward + 2 * learns + through), rel=0.05)


def test_the_terms_on_the_order_of_events_are_passes_and_texts(small: dict[str, Any]):
    """Each other order of frames is a pass of the temporal module, and of the vision layers only where it is inside."""

    def flop(temporal: dict[str, Any], **loss: float) -> float:
        changes = {"train_vision_layers": 4, "cache": "off", "batch_size": 2, "steps": 1, "texts_per_clip": 3}
        return training_cost(recipe(small, temporal=temporal, loss=loss, **changes), 2).flop

    shape = shape_of(recipe(small).backbone)
    text = 2 * 3 * layer_flop(shape.text_width, shape.context) * shape.text_layers  # of both clips, 3 texts a clip
    layers = 2 * FRAMES * 4 * layer_flop(shape.width, shape.vision_tokens)
    branch = 2 * temporal_flop(recipe(small, temporal=STAN).adapt, shape)
    stan = flop(STAN)
    assert flop(STAN, clauses=1.0) - stan == pytest.approx(3 * 2 * text)  # there, and twice back
    assert flop(STAN, event_order=1.0) - stan == pytest.approx(3 * (text + branch))
    assert flop(STAN, event_order=1.0, direction=1.0, clauses=0.5) - stan == pytest.approx(3 * (3 * text + 2 * branch))
    adapter = {"name": "adapter", "layers": 2}
    inside = 2 * temporal_flop(recipe(small, temporal=adapter).adapt, shape)
    assert flop(adapter, direction=1.0) - flop(adapter) == pytest.approx(3 * (layers + inside))
    costs = [training_cost(recipe(small, temporal=STAN, loss=loss), 64) for loss in ({}, {"clauses": 1.0})]
    assert costs[1].learning - costs[0].learning == 2 * shape.embed**2
    kept = [
        kept_bytes(recipe(small, temporal=adapter, train_vision_layers=4, loss=loss).adapt, shape)
        for loss in ({}, {"direction": 1.0})
    ]
    assert kept[1] > 1.7 * kept[0]


def counted(model: VideoCLIP, frames: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.encode_video(frames)
    return counter.get_total_flops()


def counted_text(model: VideoCLIP) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.encode_text(model.backbone.tokenize(["a red circle"]))
    return counter.get_total_flops()


def kept(model: VideoCLIP, frames: torch.Tensor, tokens: torch.Tensor) -> int:
    """Bytes that autograd keeps for the way back, each storage once, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.temporal.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.encode_video(frames), model.encode_text(tokens)
    assert len(out) == 2
    return sum(found.values())


def test_chunks_bound_the_memory_and_go_there_twice(small: dict[str, Any]):
    whole = training_cost(recipe(small, batch_size=64, train_vision_layers=4, cache="off"), 640)
    assert whole.memory_bytes(8) < whole.memory_bytes()
    said = cost_lines("a", as_tree(whole, recipe(small)))
    assert "pairs seen" in said[0] and "GB on each of 8" in said[1] and "guessed" not in said[1]


def test_what_is_decoded_and_validated(small: dict[str, Any]):
    """Without a cache in every step and validation, with one once; no cache saves the val clips of input video."""
    steps = {"batch_size": 8, "steps": 25, "val_every_steps": 10, "val_clips": 30, "temporal": STAN}
    live = training_cost(recipe(small, **steps, train_vision_layers=4), 64, 50)
    assert (live.val_clips, live.validations, live.decoded) == (30, 4, 25 * 8 + 4 * 30)
    cached = training_cost(recipe(small, **steps), 64, 50)
    assert cached.decoded == 64 + 30 and cached.cached
    without = training_cost(recipe(small, **steps, train_vision_layers=4), 64)
    assert without.validations == 0 and without.decoded == 200 and without.flop < live.flop
    again = training_cost(recipe(small, **steps, train_vision_layers=4, recompute=True), 64, 50)
    assert again.kept_bytes_a_clip < live.kept_bytes_a_clip and again.flop > live.flop


@pytest.mark.parametrize(
    ("model", "width", "layers", "tokens", "text", "sure"),
    [
        ("ViT-B-32", 768, 12, 50, 512, True), ("ViT-L-14", 1024, 24, 257, 768, True),
        ("ViT-B-16-SigLIP2-256", 768, 12, 256, 768, True), ("builtin:tiny", 128, 6, 37, 128, True),
        ("hf-hub:google/siglip2-so400m-patch14-384", 1152, 27, 730, 768, False),
        ("OFA-Sys/chinese-clip-vit-base-patch16", 768, 12, 197, 768, False),
        ("PE-Core-B-16", 768, 12, 197, 1024, True), ("PE-Core-bigG-14-448", 1536, 50, 1024, 1280, True),
        ("facebook/metaclip-2-worldwide-l14", 1024, 24, 257, 768, False),
        ("facebook/metaclip-2-mt5-worldwide-b32", 768, 12, 50, 768, False),
    ],
)  # fmt: skip
def test_shapes_are_read_or_guessed(model: str, width: int, layers: int, tokens: int, text: int, sure: bool):
    found = shape_of(BackboneConfig(model=model))
    assert (found.width, found.layers, found.vision_tokens, found.text_width) == (width, layers, tokens, text)
    assert found.from_config is sure
