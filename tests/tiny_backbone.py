"""The smallest backbone that has all parts, for the tests of models and of training."""

import copy
import json
from pathlib import Path

import pytest
import torch

from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone

torch.set_num_threads(1)  # tiny products: threads only wait for each other

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return folder


@pytest.fixture(scope="session")
def untouched(tiny_dir: Path) -> Backbone:
    return load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))


@pytest.fixture
def backbone(untouched: Backbone) -> Backbone:
    """A copy for one test: making one takes four times as long."""
    shared = (untouched.text.tokenizer, untouched.text.words)  # what no test changes, and takes long to copy
    return copy.deepcopy(untouched, {id(part): part for part in shared})


@pytest.fixture
def named_tiny(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model under two names of open_clip's, of which the second has the other GELU."""
    import open_clip

    model_cfg = json.loads((tiny_dir / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    for name, more in (("tiny-for-test", {}), ("tiny-for-test-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps(model_cfg | more))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    return "tiny-for-test"
