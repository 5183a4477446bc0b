"""STAN against a twin written with loops over clips, frames and patches, from method 3.2 steps 1-6."""

from functools import partial

import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import StanConfig
from m2raap.models.stan import DropPath, Stan, TemporalBlock
from m2raap.models.temporal import build_temporal
from m2raap.models.video_clip import VideoCLIP


def shaken(backbone: Backbone, cfg: StanConfig) -> Stan:
    """A branch away from its safe start: every zero weight gets a value."""
    generator = torch.Generator().manual_seed(5)
    stan = VideoCLIP(backbone, cfg).temporal
    with torch.no_grad():
        for p in stan.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.05 if p.ndim else 1.0))
    return stan.eval()


def attend(attn: torch.nn.MultiheadAttention, rows: torch.Tensor) -> torch.Tensor:
    """Multi-head self-attention of (S, D) written out head by head."""
    width = rows.shape[1]
    each = width // attn.num_heads
    q, k, v = (rows @ attn.in_proj_weight.T + attn.in_proj_bias).split(width, 1)
    heads = []
    for h in range(attn.num_heads):
        part = slice(h * each, (h + 1) * each)
        weights = (q[:, part] @ k[:, part].T / each**0.5).softmax(1)
        heads.append(weights @ v[:, part])
    return torch.cat(heads, 1) @ attn.out_proj.weight.T + attn.out_proj.bias


def literal(stan: Stan, backbone: Backbone, levels: list[torch.Tensor], frames_of_clip: list[int]) -> torch.Tensor:
    visual = backbone.clip.visual
    videos = []
    for b, frames in enumerate(frames_of_clip):
        patches = levels[0].shape[2] - 1
        cls = torch.zeros(())
        x: dict[tuple[int, int], torch.Tensor] = {}
        for k, level in enumerate(levels):
            mean_cls = sum(level[b, t, 0] for t in range(frames)) / frames
            if k == 0:
                cls = 0.5 * (mean_cls + visual.class_embedding + visual.positional_embedding[0])
                for p in range(patches):
                    for t in range(frames):
                        x[p, t] = level[b, t, 1 + p] + visual.positional_embedding[1 + p] + stan.time[t]
            else:
                cls = cls + mean_cls
                x = {(p, t): value + level[b, t, 1 + p] for (p, t), value in x.items()}
            temporal: TemporalBlock = stan.temporal[k]  # type: ignore[assignment]
            for p in range(patches):
                mixed = attend(temporal.attn, torch.stack([temporal.norm(x[p, t]) for t in range(frames)]))
                for t in range(frames):
                    x[p, t] = x[p, t] + temporal.out(mixed[t])
            block = stan.spatial[k].block
            updates = []
            for t in range(frames):
                r = attend(block.attn, torch.stack([block.ln_1(cls), *[block.ln_1(x[p, t]) for p in range(patches)]]))
                updates.append(r[0])
                for p in range(patches):
                    x[p, t] = x[p, t] + r[1 + p]
            cls = cls + sum(updates) / frames
            cls = cls + block.mlp(block.ln_2(cls))
            x = {key: value + block.mlp(block.ln_2(value)) for key, value in x.items()}
        opened = {"gate": lambda c: stan.gate * c, "matrix": lambda c: stan.out(c), "open": lambda c: c}[
            stan.cfg.start
        ](cls)
        g = [visual.ln_post(levels[-1][b, t, 0] + opened) @ visual.proj for t in range(frames)]
        videos.append(torch.stack(g))
    return torch.cat(videos)


@torch.no_grad()
@pytest.mark.parametrize("start", ["gate", "matrix", "open"])
def test_equals_the_literal_twin(backbone: Backbone, start: str) -> None:
    cfg = StanConfig(layers=2, start=start, time_std=0.3)  # type: ignore[arg-type]
    stan = shaken(backbone, cfg)
    levels = [level.unflatten(0, (2, 3)) for level in backbone.layer_tokens(torch.randn(6, 3, 32, 32), 2)]
    mask = torch.tensor([[True] * 3, [True, True, False]])
    features = backbone.image_feature_from_cls(levels[-1][:, :, 0])
    ours = stan(levels, features, mask)[mask]
    torch.testing.assert_close(ours, literal(stan, backbone, levels, [3, 2]), atol=2e-5, rtol=0)


@torch.no_grad()
def test_order_matters_away_from_the_start(backbone: Backbone) -> None:
    model = VideoCLIP(backbone, StanConfig(layers=2))
    frames = torch.randn(1, 6, 3, 32, 32)
    same = (model.encode_video(frames) - model.encode_video(frames.flip(1))).abs().max()
    model.temporal = shaken(backbone, StanConfig(layers=2, time_std=0.5))
    moved = (model.encode_video(frames) - model.encode_video(frames.flip(1))).abs().max()
    assert same < 1e-6 < 1e-4 < moved  # float noise is 3e-8, and 12 seeds moved by 1.2e-3 to 2.8e-3


@torch.no_grad()
def test_pooled_patches_are_means_of_squares(backbone: Backbone) -> None:
    stan = Stan(StanConfig(layers=2, patch_pool=2), backbone)
    tokens = torch.randn(1, 3, 17, 64)
    pooled = stan.compact(tokens)
    assert pooled.shape == (1, 3, 5, 64)
    expected = (tokens[0, 2, 3] + tokens[0, 2, 4] + tokens[0, 2, 7] + tokens[0, 2, 8]) / 4
    torch.testing.assert_close(pooled[0, 2, 2], expected)
    assert torch.equal(pooled[:, :, 0], tokens[:, :, 0])


def test_misfits_are_named(backbone: Backbone) -> None:
    with pytest.raises(M2raapError, match=r"adapt\.temporal\.layers is 5.* 4 "):
        build_temporal(StanConfig(layers=5), backbone)
    with pytest.raises(M2raapError, match=r"5 frames.* 6.*adapt\.temporal\.max_frames"):
        VideoCLIP(backbone, StanConfig(layers=1, max_frames=5)).encode_video(torch.randn(1, 6, 3, 32, 32))
    with pytest.raises(M2raapError, match=r"adapt\.temporal\.patch_pool 3"):
        VideoCLIP(backbone, StanConfig(layers=1, patch_pool=3)).encode_video(torch.randn(1, 2, 3, 32, 32))


def test_drop_path_keeps_the_mean_and_whole_rows() -> None:
    drop = DropPath(0.25).train()
    drop.draws = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    rows = drop(torch.ones(4000, 3))
    assert rows.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert bool((rows == rows[:, :1]).all()) and rows.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(torch.ones(5)), torch.ones(5))


def frame_literal(stan: Stan, backbone: Backbone, levels: list[torch.Tensor], real: list[int]) -> torch.Tensor:
    """The branch with a class token for each frame, clip by clip, frame by frame; the real frames alone."""
    visual = backbone.clip.visual
    videos = []
    for b, frames in enumerate(real):
        cls, x = None, None
        for k, level in enumerate(levels):
            tokens = level[b, :frames]
            if k == 0:
                cls = (tokens[:, 0] + visual.class_embedding + visual.positional_embedding[0]) / 2
                x = tokens[:, 1:] + visual.positional_embedding[1:] + stan.time[:frames, None]
            else:
                cls, x = cls + tokens[:, 0], x + tokens[:, 1:]
            temporal: TemporalBlock = stan.temporal[k]  # type: ignore[assignment]
            for p in range(x.shape[1]):
                x[:, p] = x[:, p] + temporal.out(attend(temporal.attn, temporal.norm(x[:, p])))
            block, moved = stan.spatial[k].block, []
            for t in range(frames):
                u = torch.cat([cls[t][None], x[t]])
                u = u + attend(block.attn, block.ln_1(u))
                moved.append(u + block.mlp(block.ln_2(u)))
            cls, x = torch.stack(moved)[:, 0], torch.stack(moved)[:, 1:]
        opened = stan.out(cls) if stan.cfg.start == "matrix" else cls
        videos.append(visual.ln_post(levels[-1][b, :frames, 0] + opened) @ visual.proj)
    return torch.cat(videos)


@torch.no_grad()
@pytest.mark.parametrize("start", ["matrix", "open"])
def test_a_class_token_a_frame_equals_its_twin(backbone: Backbone, start: str) -> None:
    stan = shaken(backbone, StanConfig(layers=2, start=start, time_std=0.3, class_token="frame"))  # type: ignore[arg-type]
    levels = [level.unflatten(0, (2, 3)) for level in backbone.layer_tokens(torch.randn(6, 3, 32, 32), 2)]
    mask = torch.tensor([[True] * 3, [True, True, False]])
    features = backbone.image_feature_from_cls(levels[-1][:, :, 0])
    ours = stan(levels, features, mask)
    expected = frame_literal(stan, backbone, levels, [3, 2])
    torch.testing.assert_close(ours[mask], expected, atol=2e-5, rtol=0)
    shorter = [level[1:, :2] for level in levels]
    torch.testing.assert_close(stan(shorter, features[1:, :2], mask[1:, :2])[0], ours[1, :2], atol=2e-5, rtol=0)


@torch.no_grad()
def test_class_tokens_of_clip_and_frame_agree_on_one_frame_alone(backbone: Backbone) -> None:
    stan = shaken(backbone, StanConfig(layers=2, start="open", time_std=0.3))
    by_frame = Stan(stan.cfg.model_copy(update={"class_token": "frame"}), backbone).eval()
    by_frame.load_state_dict(stan.state_dict())
    for frames, agree in ((1, True), (3, False)):
        levels = [
            level.unflatten(0, (2, frames)) for level in backbone.layer_tokens(torch.randn(2 * frames, 3, 32, 32), 2)
        ]
        mask = torch.ones(2, frames, dtype=torch.bool)
        features = backbone.image_feature_from_cls(levels[-1][:, :, 0])
        assert torch.allclose(stan(levels, features, mask), by_frame(levels, features, mask), atol=1e-5) is agree
