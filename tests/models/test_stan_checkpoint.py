"""A random checkpoint in the released layout, and the arithmetic that it belongs to (their_stan.py)."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig
from typer.testing import CliRunner

from m2raap.cli.main import app
from m2raap.core.errors import M2raapError
from m2raap.models.config import BackboneConfig
from m2raap.models.stan_checkpoint import import_stan_checkpoint
from m2raap.models.video_clip import VideoCLIP
from tests.models.their_stan import Released

WIDTH, EMBED, LENGTH = 64, 32, 16
VISION = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def released() -> Released:
    config = CLIPConfig(
        text_config=TEXT | {"vocab_size": 49408, "max_position_embeddings": LENGTH, "eos_token_id": 49407},
        vision_config=VISION | {"image_size": 32, "patch_size": 8},
        projection_dim=EMBED,
    )
    return Released(config, depth=2).eval()


@pytest.fixture(scope="module")
def shape(tmp_path_factory) -> BackboneConfig:
    folder = tmp_path_factory.mktemp("shape")
    described: dict[str, Any] = {
        "embed_dim": EMBED, "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": WIDTH, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    return BackboneConfig(model=f"local-dir:{folder}", random_init=True)


def written(path: Path, tree: Any) -> Path:
    torch.save(tree, path)
    return path


@torch.no_grad()
def test_the_imported_model_finds_what_theirs_finds(released: Released, shape: BackboneConfig, tmp_path: Path) -> None:
    model, start = import_stan_checkpoint(written(tmp_path / "c.pth", released.checkpoint()), shape)
    assert start == shape and (model.temporal_cfg.layers, model.temporal_cfg.pool) == (2, "raw")  # type: ignore[union-attr]
    frames = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    theirs = released.backbone(frames)
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(model.frame_vectors_of_images(frames, mask), theirs, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(model.encode_video(frames), F.normalize(theirs.mean(1), dim=-1), atol=1e-5, rtol=0)
    tokens = model.backbone.tokenize(["a dog", "a red car turns"])
    hidden = released.text_backbone.text_model(input_ids=tokens).pooler_output  # type: ignore[operator]
    text = F.normalize(released.text_backbone.text_projection(hidden), dim=-1)
    torch.testing.assert_close(model.encode_text(tokens), text, atol=1e-5, rtol=0)
    model.save(tmp_path / "model")
    assert VideoCLIP.load(tmp_path / "model").digest == model.digest


def test_keys_that_are_missing_or_unknown_are_named(released: Released, shape: BackboneConfig, tmp_path: Path) -> None:
    state = released.checkpoint()["state_dict"]
    lacking = {name: value for name, value in state.items() if "STAN_T_layers.1.self_attn.k_proj.weight" not in name}
    with pytest.raises(M2raapError, match=r"missing temporal.temporal.1.attn.in_proj_weight; unknown nothing"):
        import_stan_checkpoint(written(tmp_path / "a.pth", lacking), shape)
    more = state | {"adapter.text_weight_fc.weight": torch.zeros(1, 32)}
    with pytest.raises(M2raapError, match=r"missing nothing; unknown adapter.text_weight_fc.weight"):
        import_stan_checkpoint(written(tmp_path / "b.pth", more), shape)
    with pytest.raises(M2raapError, match="width 64 and patch size 8 .*ViT-B-32-quickgelu.*--backbone"):
        import_stan_checkpoint(written(tmp_path / "c.pth", state))
    with pytest.raises(M2raapError, match="backbone.STAN_S_layers"):
        import_stan_checkpoint(written(tmp_path / "d.pth", {"weight": torch.zeros(1)}), shape)


def test_objects_of_a_checkpoint_are_not_unpickled(released: Released, tmp_path: Path) -> None:
    path = written(tmp_path / "c.pth", {"state_dict": {}, "message_hub": deque([1])})
    with pytest.raises(M2raapError, match=r"c\.pth: .*deque"):
        import_stan_checkpoint(path)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(M2raapError, match=r"text.pth: "):
        import_stan_checkpoint(tmp_path / "text.pth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.STAN_time_embed.weight", torch.zeros(()), "not .frames, width"),
        (
            "backbone.layers.0.self_attn.q_proj.weight",
            torch.zeros(3),
            "missing backbone.clip.visual.transformer.resblocks.0",
        ),
        ("backbone.pre_layrnorm.weight", torch.full((WIDTH,), float("nan")), "ln_pre.weight holds NaN"),
    ],
)
def test_odd_tensors_are_named(
    released: Released, shape: BackboneConfig, tmp_path: Path, name: str, value: torch.Tensor, message: str
) -> None:
    state = released.checkpoint()["state_dict"]
    assert name in state
    with pytest.raises(M2raapError, match=message):
        import_stan_checkpoint(written(tmp_path / "odd.pth", state | {name: value}), shape)


def test_the_command_writes_a_model_folder(released: Released, shape: BackboneConfig, tmp_path: Path) -> None:
    path = written(tmp_path / "c.pth", released.checkpoint())
    words = ["model", "import", str(path), "--backbone", shape.model, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "stan with 2 branch layers" in done.stdout, done.output
    assert VideoCLIP.load(tmp_path / "out").digest == import_stan_checkpoint(path, shape)[0].digest
