"""The smallest backbone that has all parts, for the tests of models and of training."""

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


@pytest.fixture
def backbone(tiny_dir: Path) -> Backbone:
    return load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True))
