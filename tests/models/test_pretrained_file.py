"""Weights in a file, in the shapes that circulate: read as they were meant, or refused with the file and the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone
from m2raap.models.open_clip_load import _preprocess_of_tags

Weights = dict[str, Tensor]


def load(name: str, path: Path, content: object) -> Backbone:
    torch.save(content, path)
    return load_backbone(BackboneConfig(model=name, pretrained=str(path)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_torchs_wrappers_are_left_out(
    named_tiny: str, backbone: Backbone, tmp_path: Path, prefix: str
) -> None:
    weights = {f"{prefix}{key}": value for key, value in backbone.clip.state_dict().items()}
    loaded = load(named_tiny, tmp_path / "w.pt", {"epoch": 3, "state_dict": weights})
    assert torch.equal(loaded.clip.text_projection, backbone.clip.text_projection)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"model": w, "epoch": 3}, "holds model, epoch"),
        (lambda w: {"module": w}, "holds module"),
        (lambda w: {"state_dict": {"model": w}}, "holds model"),
        (lambda w: w | {"text_projection": w["text_projection"] / 0}, "text_projection holds NaN or infinity"),
        (lambda w: w | {"logit_scale": torch.tensor(100.0)}, "logit_scale is 100.*logarithm"),
        (lambda w: w | {"visual.proj": w["visual.proj"].to(torch.int8)}, "visual.proj holds int8"),
        (lambda w: w | {"positional_embedding": torch.zeros(77, 32)}, "positional_embedding has 77 .* 16"),
        (lambda w: w | {"positional_embedding": torch.zeros(8, 32)}, "positional_embedding has 8 .* 16"),
        (lambda w: w | {"logit_bias": torch.tensor(-10.0)}, "logit_bias"),
        (lambda w: w | {"note": torch.nn.Linear(1, 1)}, "other Python objects"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_of_the_model_is_refused(
    named_tiny: str, backbone: Backbone, tmp_path: Path, change: Callable[[Weights], Any], message: str
) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(M2raapError, match=f"{path}.*{message}"):
        load(named_tiny, path, change(dict(backbone.clip.state_dict())))


def test_positions_of_another_image_size_are_noted(
    named_tiny: str, backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = dict(backbone.clip.state_dict())
    load(named_tiny, tmp_path / "same.pt", weights)
    assert "patches" not in capsys.readouterr().err
    load(named_tiny, tmp_path / "other.pt", weights | {"visual.positional_embedding": torch.zeros(26, 64)})
    assert "positions of 25 patches, and the model has 16" in capsys.readouterr().err


def test_images_are_prepared_as_for_all_published_weights_of_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    halves = (0.5, 0.5, 0.5)
    for name, interpolation in (("ViT-B-16-SigLIP2", "bicubic"), ("PE-Core-T-16-384", "bilinear")):
        shared = {"mean": halves, "std": halves, "interpolation": interpolation, "resize_mode": "squash"}
        assert _preprocess_of_tags(name, "w.pt") == shared
    assert _preprocess_of_tags("ViT-B-32", "w.pt")["resize_mode"] == "shortest" and not capsys.readouterr().err
    assert _preprocess_of_tags("ViT-L-14", "w.pt") == {} and "laion2b_s32b_b82k" in capsys.readouterr().err


def test_a_tag_sets_how_images_are_prepared(
    named_tiny: str, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    tags = {"a": {"mean": (0.5, 0.5, 0.5), "std": (0.4, 0.4, 0.4), "resize_mode": "squash"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, named_tiny, tags)
    loaded = load(named_tiny, tmp_path / "w.pt", backbone.clip.state_dict())
    assert loaded.preprocess.std == (0.4, 0.4, 0.4) and loaded.preprocess.resize_mode == "squash"
    assert loaded.description["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]


def test_of_several_files_in_a_folder_the_named_one_is_read(tiny_dir: Path, backbone: Backbone, tmp_path: Path) -> None:
    shutil.copy(tiny_dir / "open_clip_config.json", tmp_path)
    weights = dict(backbone.clip.state_dict())
    save_file({key: value * 2 for key, value in weights.items()}, tmp_path / "a.safetensors")
    save_file(weights, tmp_path / "b.safetensors")
    with pytest.raises(M2raapError, match=r"a\.safetensors, b\.safetensors.*open_clip_model\.safetensors"):
        load_backbone(BackboneConfig(model=f"local-dir:{tmp_path}"))
    (tmp_path / "b.safetensors").rename(tmp_path / "open_clip_model.safetensors")
    loaded = load_backbone(BackboneConfig(model=f"local-dir:{tmp_path}"))
    assert torch.equal(loaded.clip.text_projection, backbone.clip.text_projection)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("preprocess_cfg", "mode", "L"),
        ("preprocess_cfg", "std", [127.5] * 3),
        ("preprocess_cfg", "mean", [123.675, 116.28, 103.53]),
        ("tokenizer_kwargs", "reduction_mask", "random"),
        ("text_cfg", "context_length", 2),
        ("text_cfg", "pool_type", "none"),
        ("text_cfg", "layers", 0),
        ("vision_cfg", "layers", 0),
        ("vision_cfg", "patch_size", 64),
        ("model_cfg", "embed_dim", 0),
    ],
)
def test_settings_that_make_features_useless_are_refused(
    tiny_dir: Path, tmp_path: Path, part: str, key: str, value: Any
) -> None:
    tree = json.loads((tiny_dir / "open_clip_config.json").read_text())
    model_cfg = tree["model_cfg"]
    model_cfg["text_cfg"]["tokenizer_kwargs"], tree["preprocess_cfg"] = {}, {}
    parts = tree | model_cfg | {"tokenizer_kwargs": model_cfg["text_cfg"]["tokenizer_kwargs"]}
    parts[part][key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps(tree))
    with pytest.raises(M2raapError, match=f"{tmp_path}.*{key}"):
        load_backbone(BackboneConfig(model=f"local-dir:{tmp_path}", random_init=True))
