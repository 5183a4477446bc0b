from pathlib import Path

import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import (
    AcgConfig,
    AdapterConfig,
    AnyTemporal,
    BackboneConfig,
    MeanConfig,
    MessageConfig,
    MugConfig,
    SeqTransfConfig,
    StanConfig,
)
from m2raap.models.families import load_backbone
from m2raap.models.interpolate import ZERO_STARTS, interpolated
from m2raap.models.temporal import TEMPORAL
from m2raap.models.video_clip import VideoCLIP

MODULES: list[AnyTemporal] = [
    MeanConfig(), SeqTransfConfig(layers=1), StanConfig(layers=1), StanConfig(layers=1, start="gate"),
    AdapterConfig(layers=1), MessageConfig(layers=1),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("temporal", MODULES, ids=lambda cfg: f"{cfg.name}-{getattr(cfg, 'start', '')}")
def test_the_ends_are_the_backbone_and_the_adapted_model(
    backbone: Backbone, tiny_dir: Path, temporal: AnyTemporal
) -> None:
    original = load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
    adapted = VideoCLIP(backbone, temporal, AcgConfig(mix=True))
    for p in adapted.parameters():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.05)
    frames, tokens = torch.randn(2, 3, 3, 32, 32), backbone.tokenize(["a dog", "一只狗"])
    mean = VideoCLIP(original, MeanConfig())
    start, middle, end = (interpolated(adapted, original, alpha) for alpha in (0.0, 0.5, 1.0))
    torch.testing.assert_close(start.encode_video(frames), mean.encode_video(frames), atol=1e-6, rtol=0)
    assert torch.equal(start.encode_text(tokens), mean.encode_text(tokens))
    assert end.digest == adapted.digest
    actual = middle.encode_video(frames)
    assert (actual - start.encode_video(frames)).abs().max() > 1e-3 < (actual - end.encode_video(frames)).abs().max()
    name = "backbone.clip.visual.proj"
    half = (mean.state_dict()[name] + adapted.state_dict()[name]) / 2
    torch.testing.assert_close(middle.state_dict()[name], half)


@torch.no_grad()
def test_at_0_the_score_of_an_interaction_is_the_cosine(backbone: Backbone, tiny_dir: Path) -> None:
    original = load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
    adapted = VideoCLIP(backbone, MeanConfig(), interaction=MugConfig())
    adapted.interaction.gate.fill_(0.8)
    gates = [interpolated(adapted, original, alpha).gates()["interaction_gate"] for alpha in (0.0, 0.5, 1.0)]
    assert gates == pytest.approx([0.0, 0.4, 0.8])


def test_every_module_says_where_it_starts() -> None:
    assert set(ZERO_STARTS) == set(TEMPORAL)


def test_what_has_no_way_between_is_refused(backbone: Backbone, tiny_dir: Path) -> None:
    original = load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
    with pytest.raises(M2raapError, match=r"alpha 1\.5"):
        interpolated(VideoCLIP(backbone, MeanConfig()), original, 1.5)
    for cfg in (StanConfig(layers=1, start="open"), StanConfig(layers=1, pool="raw")):
        with pytest.raises(M2raapError, match=r"adapt\.temporal\.start"):
            interpolated(VideoCLIP(backbone, cfg), original, 0.5)
    other = load_backbone(BackboneConfig())
    with pytest.raises(M2raapError, match="differ in "):
        interpolated(VideoCLIP(backbone, MeanConfig()), other, 0.5)
