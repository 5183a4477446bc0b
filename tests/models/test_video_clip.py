import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import (
    AcgConfig,
    AdapterConfig,
    BackboneConfig,
    CaptionGuidedMugConfig,
    FineConfig,
    MeanConfig,
    MessageConfig,
    MugConfig,
    SeqTransfConfig,
    StanConfig,
)
from m2raap.models.families import load_backbone
from m2raap.models.losses import cosine_logits, info_nce
from m2raap.models.pooling import pool_raw, pool_unit
from m2raap.models.video_clip import VideoCLIP

SAFE = [
    MeanConfig(),
    SeqTransfConfig(layers=2),
    SeqTransfConfig(layers=2, from_text=False),
    StanConfig(layers=3, start="gate", time_std=0.0),
    StanConfig(layers=2, start="matrix", time_std=1.0),
    StanConfig(layers=2, patch_pool=2, time_std=0.5),
    StanConfig(layers=2, inputs="normed"),
    StanConfig(layers=2, across="conv"),
    StanConfig(layers=2, class_token="frame"),
    AdapterConfig(layers=2),
    MessageConfig(layers=3),
]
POOLINGS = [None, AcgConfig(), AcgConfig(mix=True)]


def captions_of(backbone: Backbone, clips: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    there = torch.rand(clips, frames, generator=torch.Generator().manual_seed(3)) < 0.8
    vectors = torch.randn(clips, frames, backbone.embed_dim)
    return torch.nn.functional.normalize(vectors, dim=-1), there


@torch.no_grad()
@pytest.mark.parametrize("acg", POOLINGS, ids=["mean", "acg", "mix"])
@pytest.mark.parametrize("temporal", SAFE, ids=lambda cfg: cfg.name)
def test_the_start_is_mean_pooling(backbone: Backbone, temporal: StanConfig, acg: AcgConfig | None) -> None:
    model = VideoCLIP(backbone, temporal, acg)
    frames = torch.randn(3, 5, 3, 32, 32)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 3:] = False
    mask[2, 1:] = False
    units = backbone.encode_image(frames.flatten(0, 1)).unflatten(0, (3, 5))
    for captions in (None, captions_of(backbone, 3, 5)):
        video = model.encode_video(frames, mask, captions)
        for clip, count in enumerate((5, 3, 1)):
            mean = units[clip, :count].mean(0)
            torch.testing.assert_close(video[clip], mean / mean.norm(), atol=1e-6, rtol=0)


@torch.no_grad()
def test_hidden_frames_do_not_matter(backbone: Backbone) -> None:
    frames = torch.randn(2, 4, 3, 32, 32)
    mask = torch.tensor([[True, True, True, False]] * 2)
    for temporal in SAFE:
        model = VideoCLIP(backbone, temporal)
        for p in model.temporal.parameters():
            p.add_(torch.randn_like(p) * 0.05)
        other = frames.clone()
        other[:, 3] = 7.0
        shorter = model.encode_video(frames[:, :3])
        torch.testing.assert_close(model.encode_video(frames, mask), model.encode_video(other, mask), atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encode_video(frames, mask), shorter, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "temporal", [cfg for cfg in SAFE if isinstance(cfg, StanConfig | SeqTransfConfig)], ids=lambda cfg: cfg.name
)
def test_what_inner_vectors_learn_moves_no_video_vector(backbone: Backbone, temporal: StanConfig) -> None:
    model = VideoCLIP(backbone, temporal)
    frames, mask = torch.randn(2, 4, 3, 32, 32), torch.tensor([[True, True, True, False]] * 2)
    other = frames.clone()
    other[:, 3] = 7.0
    with torch.no_grad():
        video_BE, levels = model.encode_video(frames, mask), model.levels_of_images(frames, mask)
    inner = model.inner_vectors(levels, mask)
    assert inner.shape == (2, model.temporal.inner_size)
    torch.testing.assert_close(inner.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(inner, model.inner_vectors(model.levels_of_images(other, mask), mask), atol=1e-5, rtol=0)
    inner[0, 0].backward()
    with torch.no_grad():
        learnt = [p for p in model.temporal.parameters() if p.grad is not None and p.grad.abs().max() > 0]
        for p in learnt:
            p.sub_(p.grad)
        moved = (model.inner_vectors(model.levels_of_images(frames, mask), mask) - inner).abs().max()
        after_BE = model.encode_video(frames, mask)
    model.zero_grad()
    assert len(learnt) > 4 and moved > 1e-3
    torch.testing.assert_close(after_BE, video_BE, atol=1e-6, rtol=0)


@torch.no_grad()
def test_raw_pooling_is_stans_mean(backbone: Backbone) -> None:
    model = VideoCLIP(backbone, StanConfig(layers=2, pool="raw"))
    frames = torch.randn(2, 4, 3, 32, 32)
    features = backbone.image_feature_from_cls(backbone.layer_tokens(frames.flatten(0, 1), 1)[0][:, 0]).unflatten(
        0, (2, 4)
    )
    torch.testing.assert_close(model.encode_video(frames), pool_raw(features, torch.ones(2, 4)), atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("temporal", SAFE, ids=lambda cfg: cfg.name)
def test_every_depth_of_the_prefix_agrees(backbone: Backbone, temporal: StanConfig) -> None:
    model = VideoCLIP(backbone, temporal)
    for p in model.temporal.parameters():
        p.add_(torch.randn_like(p) * 0.05)
    frames, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[True] * 3, [True, True, False]])
    expected = model.encode_video(frames, mask)
    for depth in range(model.temporal.layers_used, 5):
        tokens = backbone.prefix_tokens(frames.flatten(0, 1), depth).unflatten(0, (2, 3))
        actual = model.pool(model.frame_vectors(model.levels_of_prefix(tokens, mask, depth), mask), mask)
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_open_message_gate_is_x_clips_attention(backbone: Backbone) -> None:
    """Gate 1 equals the block run on the tokens with the message among them."""
    model = VideoCLIP(backbone, MessageConfig(layers=1))
    module = model.temporal
    module.messages[0].gate.fill_(1.0)
    tokens, mask = torch.randn(2, 3, 17, 64), torch.ones(2, 3, dtype=torch.bool)
    block = backbone.vision.blocks[-1]
    joined = torch.cat([tokens, module.messages[0](tokens[:, :, 0], mask)[:, :, None]], 2)
    expected = block(joined.flatten(0, 1))[:, :-1].unflatten(0, (2, 3))
    torch.testing.assert_close(module.through(tokens, mask), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("temporal", SAFE, ids=lambda cfg: cfg.name)
def test_saved_and_loaded_is_the_same(backbone: Backbone, temporal: StanConfig, tmp_path: Path) -> None:
    model = VideoCLIP(backbone, temporal, AcgConfig(mix=True))
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.01)
    model.save(tmp_path / "model", {"why": "test"})
    loaded = VideoCLIP.load(tmp_path / "model")
    frames, tokens = torch.randn(2, 3, 3, 32, 32), backbone.tokenize(["a red circle", "红色圆形"])
    assert torch.equal(loaded.encode_video(frames), model.encode_video(frames))
    assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))
    assert loaded.digest == model.digest == json.loads((tmp_path / "model" / "model.json").read_text())["digest"]


def without_digests(folder: Path) -> None:
    """As a folder of an earlier version: model.json names no digests of the files in backbone/."""
    tree = json.loads((folder / "model.json").read_text())
    del tree["files"]
    (folder / "model.json").write_text(json.dumps(tree))


def test_another_tokenizer_is_another_model(tmp_path: Path) -> None:
    """Its vectors of texts would be others. What it was last called with is no part of it."""
    model = VideoCLIP(load_backbone(BackboneConfig()), StanConfig(layers=1))
    model.save(tmp_path / "before")
    model.encode_text(model.backbone.tokenize(["a red circle"]))
    model.backbone.tokenizer.tokenize(["a red circle"], text_length=5)
    model.save(tmp_path / "after")
    before, after = (tmp_path / name / "backbone" / "tokenizer.json" for name in ("before", "after"))
    assert before.read_bytes() == after.read_bytes()
    assert VideoCLIP.load(tmp_path / "after").digest == model.digest
    tree = json.loads(after.read_text())
    tree["normalizer"] = None
    for damaged in (json.dumps(tree), ""):
        after.write_text(damaged)
        with pytest.raises(M2raapError, match=r"tokenizer\.json: is missing or differs from its digest in model\.json"):
            VideoCLIP.load(tmp_path / "after")


def test_a_broken_folder_is_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"model\.json"):
        VideoCLIP.load(tmp_path)
    model = VideoCLIP(backbone, StanConfig(layers=1))
    model.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(M2raapError, match=str(tmp_path)):
        VideoCLIP.load(tmp_path)
    weights.write_bytes(whole)
    model_json = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(model_json | {"temporal": {"name": "mean"}}))
    with pytest.raises(M2raapError, match=r"model\.safetensors"):
        VideoCLIP.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(model_json | {"format": 99}))
    with pytest.raises(M2raapError, match="format 99"):
        VideoCLIP.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(model_json))
    (tmp_path / "backbone" / "open_clip_config.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(M2raapError, match=r"open_clip_config\.json: is missing or differs"):
        VideoCLIP.load(tmp_path)
    without_digests(tmp_path)
    with pytest.raises(M2raapError, match=r"open_clip_config\.json.* config\.json"):
        VideoCLIP.load(tmp_path)
    (tmp_path / "backbone" / "config.json").write_text("{}")
    with pytest.raises(M2raapError, match=str(tmp_path / "backbone")):
        VideoCLIP.load(tmp_path)


def test_damaged_settings_of_a_tokenizer_are_no_bug(tmp_path: Path) -> None:
    VideoCLIP(load_backbone(BackboneConfig()), StanConfig(layers=1)).save(tmp_path / "m")
    path = tmp_path / "m" / "backbone" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    without_digests(tmp_path / "m")
    path.write_text(json.dumps(settings | {"pad_token": None}))
    with pytest.raises(M2raapError, match="pad_token"):
        VideoCLIP.load(tmp_path / "m")
    path.write_text(json.dumps(settings | {"model_input_names": ["input_ids", "\ud800"]}))
    model = VideoCLIP.load(tmp_path / "m")
    with pytest.raises(M2raapError, match="tokenizer"):
        model.save(tmp_path / "copy")


def test_weights_that_are_no_numbers_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    model = VideoCLIP(backbone, StanConfig(layers=1))
    model.save(tmp_path)
    state = model.state_dict()
    save_file(
        state | {"temporal.time": torch.full_like(state["temporal.time"], float("nan"))}, tmp_path / "model.safetensors"
    )
    with pytest.raises(M2raapError, match=r"temporal\.time.*NaN"):
        VideoCLIP.load(tmp_path)


def test_a_real_size_starts_at_mean_pooling_and_learns() -> None:
    """ViT-B/32 with STAN K = 4, random weights, no network: one step of training."""
    backbone = load_backbone(BackboneConfig(model="ViT-B-32", random_init=True))
    model = VideoCLIP(backbone, StanConfig(layers=4))
    added = sum(p.numel() for name, p in model.temporal.named_parameters() if not name.startswith("out."))
    assert abs(added - 40.2e6) < 0.1e6  # the figure of STAN's own code for ViT-B; the matrix `out` is ours
    frames, tokens = torch.randn(2, 2, 3, 224, 224), backbone.tokenize(["a dog runs", "a cat sleeps"])
    backbone.requires_grad_(False)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with torch.no_grad():
        before, text = model.encode_video(frames), model.encode_text(tokens)
        units = backbone.encode_image(frames.flatten(0, 1)).unflatten(0, (2, 2))
        torch.testing.assert_close(before, pool_unit(units, torch.ones(2, 2)), atol=1e-6, rtol=0)
    info_nce(cosine_logits(model.encode_video(frames), text, 20.0), torch.eye(2, dtype=torch.bool)).mean().backward()
    optimiser.step()
    with torch.no_grad():
        assert (model.encode_video(frames) - before).abs().max() > 1e-6


@torch.no_grad()
@pytest.mark.parametrize(
    "interaction",
    [MugConfig(), CaptionGuidedMugConfig(weights="cross_attention"), FineConfig(clip_units="patches")],
    ids=lambda cfg: cfg.name,
)
def test_an_interaction_is_saved_with_its_settings_and_weights(
    backbone: Backbone, interaction: MugConfig, tmp_path: Path
) -> None:
    model = VideoCLIP(backbone, MeanConfig(), interaction=interaction, seed=3)
    assert {name for name in model.gates() if name.startswith("interaction_")} >= {"interaction_gate"}
    for p in model.interaction.parameters():
        p.add_(torch.randn_like(p))
    model.save(tmp_path / "model")
    loaded = VideoCLIP.load(tmp_path / "model")
    assert loaded.interaction_cfg == interaction and loaded.digest == model.digest
    assert loaded.keeps_patches == (interaction.name == "fine")
    for name, weight in model.interaction.state_dict().items():
        assert torch.equal(loaded.interaction.state_dict()[name], weight)
    plain = VideoCLIP(backbone, MeanConfig(), seed=3)
    assert plain.digest != model.digest and plain.interaction is None
    model_json = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps(model_json | {"format": 3}))
    with pytest.raises(M2raapError, match="format 3, and this m2raap reads format 4: adapt again"):
        VideoCLIP.load(tmp_path / "model")


def test_an_interaction_changes_no_other_new_weight(backbone: Backbone) -> None:
    models = [
        VideoCLIP(backbone, StanConfig(layers=2), AcgConfig(), interaction, seed=1)
        for interaction in (None, CaptionGuidedMugConfig(weights="cross_attention"))
    ]
    for name, weight in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], weight), name


@torch.no_grad()
@pytest.mark.parametrize("temporal", SAFE, ids=lambda cfg: cfg.name)
def test_keeping_patches_changes_no_frame_vector(backbone: Backbone, temporal: StanConfig) -> None:
    """And the patches are projected as the class token is: of one patch alone MaskCLIP's vector."""
    model = VideoCLIP(backbone, temporal, seed=1)
    frames, mask = torch.randn(2, 3, 3, 32, 32), torch.tensor([[True] * 3, [True, True, False]])
    expected = model.frame_vectors_of_images(frames, mask)
    with pytest.raises(AssertionError, match="without patches"):
        model.patch_vectors(model.levels_of_images(frames, mask))
    model.keep_patches("key")
    levels = model.levels_of_images(frames, mask)
    torch.testing.assert_close(model.frame_vectors(levels, mask), expected, atol=1e-6, rtol=0)
    patches = model.patch_vectors(levels)
    assert patches.shape == (2, 3, 16, 32)
    projected = backbone.clip.visual.ln_post(levels[-1][1, 0, 5]) @ backbone.clip.visual.proj
    torch.testing.assert_close(patches[1, 0, 4], projected / projected.norm(), atol=1e-6, rtol=0)


def test_settings_that_exclude_each_other(backbone: Backbone) -> None:
    with pytest.raises(M2raapError, match=r"adapt.temporal.pool raw and adapt.acg"):
        VideoCLIP(backbone, StanConfig(layers=1, pool="raw"), AcgConfig())
    backbone.vision.has_class = False
    with pytest.raises(M2raapError, match=r"adapt.interaction compares the patches.*clip_units to frames"):
        VideoCLIP(backbone, MeanConfig(), interaction=FineConfig(clip_units="patches"))
