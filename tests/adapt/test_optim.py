import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.optim import choose_trained, lr_multiplier, make_optimiser, parameter_groups, set_rates
from m2raap.core.config import build
from m2raap.core.errors import UsageError
from m2raap.models.backbone import Backbone
from m2raap.models.config import StanConfig
from m2raap.models.video_clip import VideoCLIP


def groups_of(backbone: Backbone, **settings: object) -> tuple[VideoCLIP, AdaptConfig]:
    cfg = AdaptConfig.model_validate({"temporal": StanConfig(layers=2, start="gate"), **settings})
    model = VideoCLIP(backbone, cfg.temporal, interaction=cfg.interaction)
    choose_trained(model, cfg)
    return model, cfg


@pytest.mark.parametrize("layers", [0, 2, 4])
@pytest.mark.parametrize("text", [True, False])
def test_every_learning_weight_is_in_one_group(backbone: Backbone, layers: int, text: bool) -> None:
    model, cfg = groups_of(backbone, train_vision_layers=layers, train_text=text, learn_temperature=True)
    inside = [id(p) for group in parameter_groups(model, cfg) for p in group["params"]]  # type: ignore[attr-defined]
    assert len(inside) == len(set(inside))
    assert set(inside) == {id(p) for p in model.parameters() if p.requires_grad}
    assert backbone.clip.token_embedding.weight.requires_grad is text
    assert backbone.clip.visual.conv1.weight.requires_grad is (layers == 4)
    assert [b.ln_1.weight.requires_grad for b in backbone.vision.blocks] == [i >= 4 - layers for i in range(4)]


def test_gates_have_a_rate_of_their_own_and_no_decay(backbone: Backbone) -> None:
    model, cfg = groups_of(backbone, lr=1e-5, lr_new=1e-4, lr_gate=1e-2, weight_decay=0.1)
    optimiser = make_optimiser(model, cfg)
    set_rates(optimiser, 0.5)
    seen = {(g["name"], g["weight_decay"]): g["lr"] for g in optimiser.param_groups}
    assert seen == pytest.approx(
        {("backbone", 0.1): 5e-6, ("backbone", 0.0): 5e-6, ("new", 0.1): 5e-5, ("new", 0.0): 5e-5, ("gate", 0.0): 5e-3}
    )
    decayed = {id(p) for g in optimiser.param_groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert "temporal.spatial.0.block.mlp.c_fc.weight" in names and "backbone.clip.text_projection" in names
    assert not any(word in name for name in names for word in ("ln_", "bias", "embedding", "time", "gate", "norm"))


def test_scalars_of_an_interaction_are_gates_and_its_matrices_new(backbone: Backbone) -> None:
    interaction = {"name": "caption_guided_mug", "weights": "cross_attention"}
    model, cfg = groups_of(backbone, interaction=interaction, loss={"interaction": 1.0}, lr_gate=0.5, lr_new=0.25)
    rate = {id(p): (g["base_lr"], g["weight_decay"] > 0) for g in parameter_groups(model, cfg) for p in g["params"]}
    rates = {name: rate[id(p)] for name, p in model.interaction.named_parameters()}
    assert rates["gate"] == rates["weight_gate"] == (0.5, False)
    assert rates["query.frames.weight"] == rates["key.captions.weight"] == (0.25, True)
    assert rates["query.frames.bias"] == (0.25, False) and len(rates) == 8


@pytest.mark.parametrize("decayed", [False, True])
def test_embeddings_have_decay_only_where_it_is_set(backbone: Backbone, decayed: bool) -> None:
    model, cfg = groups_of(backbone, train_vision_layers=4, weight_decay=0.1, decay_embeddings=decayed)
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, cfg) for p in g["params"]}
    of = {name.removeprefix("backbone.clip."): decay[id(p)] for name, p in model.named_parameters() if id(p) in decay}
    tables = ["token_embedding.weight", "positional_embedding", "visual.positional_embedding", "temporal.time"]
    assert {of[name] for name in (*tables, "visual.class_embedding")} == {0.1 if decayed else 0.0}
    assert of["visual.ln_post.weight"] == of["visual.transformer.resblocks.0.attn.in_proj_bias"] == 0.0
    assert of["visual.conv1.weight"] == of["text_projection"] == 0.1


def test_a_learnt_temperature_moves_as_gates_do(backbone: Backbone) -> None:
    """At the rate of the backbone its logarithm would move by 1e-4 in ten steps."""
    model, cfg = groups_of(backbone, lr=1e-5, lr_gate=1e-2, learn_temperature=True, weight_decay=0.5)
    optimiser = make_optimiser(model, cfg)
    start = float(backbone.logit_scale.detach())
    for _ in range(10):
        set_rates(optimiser, 1.0)
        optimiser.zero_grad()
        backbone.logit_scale.exp().backward()
        optimiser.step()
    assert float(backbone.logit_scale.detach()) - start == pytest.approx(-10 * 1e-2, rel=0.05)


def test_layers_further_from_the_features_learn_more_slowly(backbone: Backbone) -> None:
    model, cfg = groups_of(backbone, train_vision_layers=4, lr=1.0, layer_decay=0.5)
    rate = {id(p): g["base_lr"] for g in parameter_groups(model, cfg) for p in g["params"]}
    of = {name.removeprefix("backbone.clip."): rate.get(id(p)) for name, p in model.named_parameters()}
    assert [of[f"visual.transformer.resblocks.{i}.mlp.c_fc.weight"] for i in range(4)] == [1 / 16, 1 / 8, 1 / 4, 1 / 2]
    assert [of[f"transformer.resblocks.{i}.ln_1.weight"] for i in range(3)] == [1 / 8, 1 / 4, 1 / 2]
    assert of["visual.conv1.weight"] == of["visual.positional_embedding"] == 1 / 32
    assert of["token_embedding.weight"] == of["positional_embedding"] == 1 / 16
    assert of["visual.proj"] == of["visual.ln_post.bias"] == of["text_projection"] == of["ln_final.weight"] == 1.0
    assert of["temporal.spatial.0.block.mlp.c_fc.weight"] == cfg.lr_new


def test_the_rate_rises_then_falls_to_the_floor() -> None:
    shares = [lr_multiplier(step, 100, 0.1, 0.1) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert shares[-1] == pytest.approx(0.1) and shares[54] == pytest.approx(0.55)
    assert all(a > b for a, b in itertools.pairwise(shares[9:]))
    assert lr_multiplier(1, 1, 0.5, 0.1) == pytest.approx(0.1)


@given(st.integers(2, 2000), st.data())
def test_a_warm_up_of_k_of_n_steps_lasts_k_steps(steps: int, data: st.DataObject) -> None:
    rising = data.draw(st.integers(1, steps - 1))
    rates = [lr_multiplier(step, steps, rising / steps, 0.1) for step in (rising, rising + 1)]
    assert rates[0] == 1.0 > rates[1]
    assert rising == 1 or lr_multiplier(rising - 1, steps, rising / steps, 0.1) < 1


@given(st.integers(1, 400), st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_a_warm_up_always_ends_before_the_run(steps: int, warmup: float, floor: float) -> None:
    rates = [lr_multiplier(step, steps, warmup, floor) for step in range(1, steps + 1)]
    assert rates[-1] == pytest.approx(floor), "the last step is on the cosine, not on the rise"
    risen = min(steps - 1, int(warmup * steps + 1e-9))
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert risen == 0 or rates[risen - 1] == max(rates) == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warmup_steps": 500}, r"adapt\.warmup, the share of the run.*0\.04"),
        ({"warmup": 500}, r"share of the run.* 500 is not.*number of steps"),
        ({"warmup": 1.0}, r"share of the run.* 1 is not"),
        ({"warmup": -0.1}, r"greater than or equal to 0"),
    ],
)
def test_a_number_of_steps_is_no_share(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(AdaptConfig, settings, "recipe.yaml")
