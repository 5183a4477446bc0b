"""A tower and a tokenizer that do not belong together are refused; SigLIP reads texts in lower case."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.config import BackboneConfig
from m2raap.models.families import backbone_from_description, load_backbone

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1, "vocab_size": 400}


def write_tokenizer(folder: Path, special: list[str], end_last: bool) -> dict[str, int]:
    """A byte-level tokenizer with 'word </s>', whose special tokens stand before the words or behind them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *special] if end_last else [*special, *letters]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    raw = Tokenizer(models.BPE(vocabulary, merges=[], unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, vocabulary[token]) for token in ("<s>", "</s>")]
    )
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    return vocabulary


def open_clip_folder(folder: Path, end_last: bool, **text_cfg: Any) -> Path:
    folder.mkdir()
    write_tokenizer(folder, ["<pad>", "<s>", "</s>"], end_last)
    model_cfg = {
        "embed_dim": 32,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"hf_tokenizer_name": str(folder.resolve())} | text_cfg,
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    return folder


def load(folder: Path) -> Any:
    return load_backbone(BackboneConfig(model=f"local-dir:{folder}", random_init=True))


def test_a_tower_that_pools_at_the_highest_id_needs_an_end_token_with_that_id(tmp_path: Path) -> None:
    with pytest.raises(M2raapError, match=r"a dog runs in the park.*</s>.*id 2.*text_cfg\.eos_id"):
        load(open_clip_folder(tmp_path / "low", end_last=False))
    assert load(open_clip_folder(tmp_path / "high", end_last=True)).tokenize(["a"]).argmax() == 2


@pytest.mark.parametrize(("custom_text", "eos_id", "fits"), [(False, 2, True), (True, 2, True), (True, 7, False)])
def test_a_fixed_end_token_has_to_be_that_of_the_tokenizer(
    tmp_path: Path, custom_text: bool, eos_id: int, fits: bool
) -> None:
    folder = open_clip_folder(tmp_path / "clip", end_last=False, pool_type="eos", eos_id=eos_id)
    if custom_text:
        tree = json.loads((folder / "open_clip_config.json").read_text())
        tree["model_cfg"]["custom_text"] = True
        (folder / "open_clip_config.json").write_text(json.dumps(tree))
    if fits:
        backbone = load(folder)
        # The folder's own path is no part of the model: a copy elsewhere is the same one.
        assert backbone.description["model_cfg"]["text_cfg"]["hf_tokenizer_name"] == "."
    else:
        with pytest.raises(M2raapError, match="id 7"):
            load(folder)


def test_a_tokenizer_pads_at_the_end_whatever_its_files_say(tmp_path: Path) -> None:
    folder = open_clip_folder(tmp_path / "clip", end_last=True, pool_type="last")
    plain = load(folder)
    path = folder / "tokenizer_config.json"
    sides = {"padding_side": "left", "truncation_side": "left"}
    path.write_text(json.dumps(json.loads(path.read_text()) | sides))
    texts = ["a dog", "dog " * 20]
    assert torch.equal(load(folder).tokenize(texts), plain.tokenize(texts))
    # With one text a token, the mask of what Mug matches is that of the words between and with the two marks.
    assert plain.encode_text_tokens(plain.tokenize(["a dog"]))[2].sum() == 7


def test_a_text_that_is_cut_has_to_keep_its_mark(tmp_path: Path) -> None:
    """Where a tokenizer adds no end token, the last place of a short text is padding, and of a long one a word."""
    folder = siglip_folder(tmp_path / "hub", "siglip")
    tree = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tree | {"post_processor": None}))
    with pytest.raises(M2raapError, match="the last place. In 'a bird sings a bird"):
        load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{folder}", random_init=True))


@pytest.mark.parametrize(("pad_id", "fits"), [(0, True), (5, False)])
def test_a_tower_and_its_tokenizer_pad_with_one_id(tmp_path: Path, pad_id: int, fits: bool) -> None:
    text = TEXT | {"vocab_size": 49408, "embed_cls": True, "output_tokens": True, "pad_id": pad_id}
    vision = VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    coca = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True, "multimodal_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": coca}))
    if fits:
        load(tmp_path)
    else:
        with pytest.raises(M2raapError, match="takes the id 5 for padding.* pads with the id 0"):
            load(tmp_path)


def siglip_folder(folder: Path, model_type: str) -> Path:
    """The form in which SigLIP2's fixed-resolution models are published: a tokenizer that keeps capitals."""
    import transformers

    folder.mkdir()
    vocabulary = write_tokenizer(folder, ["<pad>", "<s>", "</s>", "<unk>"], end_last=False)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"max_position_embeddings": 64, "projection_size": 32, "vocab_size": len(vocabulary)}
    grid = {"num_patches": 4} if model_type == "siglip2" else {"image_size": 32}
    vision = sizes | {"patch_size": 16} | grid
    config = transformers.AutoConfig.for_model(model_type, text_config=text, vision_config=vision)
    config.save_pretrained(folder)
    image = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    return folder


@pytest.mark.parametrize("model_type", ["siglip", "siglip2"])
@torch.no_grad()
def test_siglip_reads_capitals_as_small_letters(tmp_path: Path, model_type: str) -> None:
    folder = siglip_folder(tmp_path / "hub", model_type)
    backbone = load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{folder}", random_init=True))
    backbone.write_description(tmp_path / "saved")
    for model in (backbone, backbone_from_description(tmp_path / "saved")):
        tokens = model.tokenize(
            ["A Dog Runs In Paris", "a dog runs in paris", "A DOG RUNS IN PARÍS", "a dog runs in parís"]
        )
        assert torch.equal(tokens[0], tokens[1]) and torch.equal(tokens[2], tokens[3])
        assert not torch.equal(tokens[0], tokens[2])
        assert model.description["lower_case"] is True
    features = backbone.encode_text(backbone.tokenize(["A Dog", "a dog"]))
    assert torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16-SigLIP2", "roberta-ViT-B-32", "coca_ViT-B-32"])
def test_open_clips_own_rules_of_the_pooled_place_are_known(name: str) -> None:
    """The pooling types of open_clip's published text towers are ones that the check knows."""
    from m2raap.models.open_clip_config import read_model_config

    text_cfg = read_model_config(name)["text_cfg"]
    kind = text_cfg.get("hf_pooler_type") or text_cfg.get("pool_type", "argmax")
    assert kind in ("argmax", "eos", "first", "last", "mean_pooler", "cls_pooler")
