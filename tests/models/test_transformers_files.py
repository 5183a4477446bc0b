"""Files of transformers models that are read as the library reads them, or refused: weights, image processors, tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import load_backbone
from m2raap.models.preprocessor_config import read_preprocessor_config
from tests.models.test_families import TRANSFORMERS, write_tokenizer

Weights = dict[str, Tensor]


def write_model(folder: Path, model_type: str = "chinese_clip", **tokenizer: Any) -> Path:
    import transformers

    folder.mkdir()
    write_tokenizer(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | tokenizer))
    config = transformers.AutoConfig.for_model(model_type, **TRANSFORMERS[model_type])
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    kind = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(kind))
    return folder


def load(folder: Path) -> Backbone:
    return load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{folder}"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "text_projection.weight"}, "lack 1 .*text_projection.weight"),
        (lambda w: w | {"logit_scale": torch.zeros(1)}, r"1 .* of another shape, .*logit_scale .*\[1\].*\[\]"),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "logit_scale among them; they hold module.logit_scale"),
        (lambda w: w | {"visual_projection.weight": w["visual_projection.weight"] / 0}, "visual_projection.weight .*NaN"),
        (lambda w: w | {"logit_scale": torch.tensor(100.0)}, "logit_scale is 100.*logarithm"),
    ],
    ids=["lacking", "shape", "prefix", "not_finite", "factor"],
)  # fmt: skip
def test_weights_that_would_be_random_or_useless_are_refused(
    tmp_path: Path, change: Callable[[Weights], Weights], message: str
) -> None:
    folder = write_model(tmp_path / "m")
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    with pytest.raises(M2raapError, match=f"{folder}.*{message}"):
        load(folder)


def test_weights_of_older_files_may_hold_more(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    before = load(folder)
    path = folder / "model.safetensors"
    more = {"text_model.embeddings.position_ids": torch.arange(40)[None]}
    save_file(load_file(path) | more, path, metadata={"format": "pt"})
    assert load(folder).digest == before.digest


@torch.no_grad()
@pytest.mark.parametrize("pad_token", ["[PAD]", "[SEP]"])
def test_an_end_token_that_also_pads_is_read_once(tmp_path: Path, pad_token: str) -> None:
    backbone = load(write_model(tmp_path / "m", pad_token=pad_token))
    texts = ["a red circle", "red", ""]
    tokens = backbone.tokenize(texts)
    theirs = backbone.text.tokenizer(texts, padding="max_length", max_length=40, return_tensors="pt")
    expected = backbone.clip.get_text_features(**theirs).pooler_output
    pooled, _, mask = backbone.encode_text_tokens(tokens)
    torch.testing.assert_close(pooled, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6, rtol=0)
    assert torch.equal(mask, theirs["attention_mask"].bool()) and mask.sum(1).tolist() == [5, 3, 2]


def test_altclip_counts_positions_without_the_padding_of_its_own_tokenizer(tmp_path: Path) -> None:
    load(write_model(tmp_path / "fits", "altclip"))
    with pytest.raises(M2raapError, match="takes the id 0 for padding.* pads with the id 3"):
        load(write_model(tmp_path / "m", "altclip", pad_token="[SEP]"))


@pytest.mark.parametrize("model_type", ["siglip", "chinese_clip"])
def test_texts_are_padded_and_cut_at_their_end(tmp_path: Path, model_type: str) -> None:
    sides = {"padding_side": "left", "truncation_side": "left"}
    backbone = load(write_model(tmp_path / "m", model_type, **sides))
    short, long = backbone.tokenize(["a red", "red " + "a " * 60]).tolist()
    assert short[:5] == [2, 4, 5, 3, 0] and long[:3] == [2, 5, 4] and long[-2:] == [4, 3]


SIZE = {"size": {"height": 32, "width": 32}}
PLAIN = SIZE | {"resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
SHORTEST = {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
SQUARE = SimpleNamespace(image_size=32)


def test_pixels_are_those_of_the_image_processor(tmp_path: Path) -> None:
    """Scales other than 1/255, and values that are not normalised, are the library's own numbers."""
    import numpy as np
    from PIL import Image
    from transformers import SiglipImageProcessor

    from m2raap.models.images import images_from_pictures

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    variants: list[dict[str, Any]] = [{}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}, {"do_normalize": False}]
    for more in variants:
        processor: Any = SiglipImageProcessor.from_dict(PLAIN | more)
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
        preprocess = read_preprocessor_config("m", processor.to_dict(), SQUARE)
        torch.testing.assert_close(images_from_pictures([picture], preprocess), theirs.float(), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"do_resize": False}, "do_resize"), ({"do_pad": True}, "do_pad"), ({"rescale_factor": 0}, "rescale_factor"),
        ({"resample": 1}, "lanczos"), ({"resample": 0}, "nearest"), ({"resample": None}, "interpolation"),
        ({"size": {"height": 32, "width": 48}}, "size"), ({"size": {"longest_edge": 32}}, "size"),
        ({"size": {"height": 64, "width": 64}}, "size"),
        (SHORTEST | {"do_center_crop": False}, "do_center_crop"),
        (SHORTEST | {"size": {"shortest_edge": 40}}, "crop_size"),
        (SHORTEST | {"crop_size": {"height": 32, "width": 48}}, "crop_size"),
        ({"do_center_crop": True, "size": {"height": 40, "width": 40}, "crop_size": {"height": 32, "width": 32}}, "crop_size"),
    ],
)  # fmt: skip
def test_steps_that_give_other_images_are_refused(changes: dict[str, Any], key: str) -> None:
    assert read_preprocessor_config("m", PLAIN | SHORTEST, SQUARE).resize_mode == "shortest"
    with pytest.raises(M2raapError, match=f"m, preprocessor_config.json: .*{key}"):
        read_preprocessor_config("m", PLAIN | changes, SQUARE)
