"""Every family, tiny and random, written to disk in its own form: against the library's own forward pass, and zero-shot safe."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import (
    AcgConfig,
    AdapterConfig,
    BackboneConfig,
    MeanConfig,
    MessageConfig,
    SeqTransfConfig,
    StanConfig,
)
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
OPEN_CLIP = {
    "vit": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "vit_average": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "pool_type": "avg"},
    "timm_class": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160},
    "timm_registers": {"timm_model_name": "test_vit2", "timm_pool": "avg", "timm_proj": "none", "image_size": 160},
    "timm_map": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
    "timm_eva": {
        "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224,
    },
    "pe_core": {"timm_model_name": "pe_core_shrunk", "timm_pool": "map", "timm_proj": None, "image_size": 64},
    "metaclip_2_worldwide": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
}  # fmt: skip
# What differs from TEXT: PE-Core's tower is a module of its own with 32 tokens; MetaCLIP 2 has the words of XLM-V.
OWN_TEXT: dict[str, dict[str, Any]] = {
    "pe_core": {"context_length": 32},
    "metaclip_2_worldwide": {"hf_tokenizer_name": ".", "vocab_size": 40, "pool_type": "eos", "eos_id": 2},
}
EMBED = {"timm_registers": 64, "timm_map": 96, "timm_eva": 32, "resnet": 32}
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
BERT = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "chinese_clip": {"text_config": BERT, "vision_config": VISION, "projection_dim": 24},
    "altclip": {
        "text_config": BERT | {"project_dim": 32, "max_position_embeddings": 40}, "vision_config": VISION,
        "projection_dim": 24,
    },
    "metaclip_2": {
        "text_config": BERT | {"projection_dim": 24, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        "vision_config": VISION, "projection_dim": 24,
    },
    "siglip": {"text_config": BERT | {"projection_size": 32}, "vision_config": VISION},
    "siglip2": {
        "text_config": BERT | {"projection_size": 32},
        "vision_config": {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16},
    },
}  # fmt: skip
NAMES = [*OPEN_CLIP, *TRANSFORMERS]
WORDS = ["a red circle moves", "一只猫"]


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "circle", "一", "猫"])
    }
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def write_multilingual_tokenizer(folder: Path) -> None:
    """Of the class and the special ids that MetaCLIP 2's has: <s> 0, <pad> 1, </s> 2, <unk> 3."""
    from transformers import XLMRobertaTokenizer

    words = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁circle", "▁moves", "一", "只", "猫"]
    XLMRobertaTokenizer(vocab=[(word, -float(i)) for i, word in enumerate(words)]).save_pretrained(folder)


def register_pe_core() -> None:
    """timm's PE-Core with fewer and narrower layers, for open_clip's configuration, which can only name a model."""
    import timm

    def pe_core_shrunk(pretrained: bool = False, **kwargs: Any) -> Any:
        sizes = {"img_size": 64, "embed_dim": 64, "depth": 3, "num_heads": 2, "attn_pool_num_heads": 2}
        return timm.models.eva.vit_pe_core_base_patch16_224(pretrained, **sizes, **kwargs)

    if not timm.is_model("pe_core_shrunk"):
        timm.models.register_model(pe_core_shrunk)


def write_family(name: str, folder: Path) -> BackboneConfig:
    """Writes a tiny model of a family into an empty folder, in its library's form; its weights are random."""
    if name in OPEN_CLIP:
        described = {
            "embed_dim": EMBED.get(name, 32),
            "vision_cfg": OPEN_CLIP[name],
            "text_cfg": TEXT | OWN_TEXT.get(name, {}),
        }
        if name == "pe_core":
            register_pe_core()
            described["custom_text"] = True
        if name == "metaclip_2_worldwide":
            write_multilingual_tokenizer(folder)
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
        return BackboneConfig(model=f"local-dir:{folder}", random_init=True)
    import transformers

    (write_multilingual_tokenizer if name == "metaclip_2" else write_tokenizer)(folder)
    config = transformers.AutoConfig.for_model(name, **TRANSFORMERS[name])
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    shown = {"size": {"height": 32, "width": 32}} if name != "siglip2" else {"max_num_patches": 16, "patch_size": 8}
    kinds = {
        "siglip": "SiglipImageProcessor",
        "siglip2": "Siglip2ImageProcessor",
        "chinese_clip": "ChineseCLIPImageProcessor",
    }
    shown |= {"image_processor_type": kinds.get(name, "CLIPImageProcessor")}
    if name == "altclip":
        shown |= {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(shown))
    return BackboneConfig(family="transformers", model=f"local-dir:{folder}")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    backbones: dict[str, Backbone] = {}

    def load(name: str) -> Backbone:
        if name not in backbones:
            backbones[name] = load_backbone(write_family(name, tmp_path_factory.mktemp(name)))
        return backbones[name]

    return load


def pictures(backbone: Backbone, *batch: int) -> torch.Tensor:
    side = backbone.preprocess.image_size
    return torch.randn(*batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def theirs(
    backbone: Backbone, name: str, images: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features by the library's own way."""
    model = backbone.clip
    if name in OPEN_CLIP:
        return model.encode_image(images), model.encode_text(tokens)
    mask = {} if name.startswith("siglip") else {"attention_mask": (tokens != backbone.text.pad_id).long()}
    text = model.get_text_features(input_ids=tokens, **mask).pooler_output
    if name != "siglip2":
        return model.get_image_features(pixel_values=images).pooler_output, text
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    flat = torch.stack([torch.as_tensor(convert_image_to_patches(i.numpy(), 8)) for i in images])
    shapes, all_there = torch.full((len(images), 2), 4), torch.ones(len(images), 16, dtype=torch.long)
    actual = model.get_image_features(pixel_values=flat, pixel_attention_mask=all_there, spatial_shapes=shapes)
    return actual.pooler_output, text


def test_special_tokens_in_a_text_are_text(family: Callable[[str], Backbone]) -> None:
    tokens = family("chinese_clip").tokenize(["a red [SEP] circle [PAD] [CLS]"])[0]
    assert [int((tokens == special).sum()) for special in (2, 3)] == [1, 1] and int(tokens[:13].min()) > 0


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_librarys_own(family: Callable[[str], Backbone], name: str) -> None:
    backbone = family(name)
    images, tokens = pictures(backbone, 2), backbone.tokenize(WORDS)
    image, text = (torch.nn.functional.normalize(actual, dim=-1) for actual in theirs(backbone, name, images, tokens))
    torch.testing.assert_close(backbone.encode_image(images), image, atol=1e-6, rtol=0)
    torch.testing.assert_close(backbone.encode_text(tokens), text, atol=1e-6, rtol=0)
    pooled, each, mask = backbone.encode_text_tokens(tokens)
    torch.testing.assert_close(pooled, text, atol=1e-6, rtol=0)
    assert each.shape == (2, tokens.shape[1], backbone.embed_dim) and bool(mask.any(1).all())


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "timm_map", *TRANSFORMERS])
def test_a_text_cut_to_a_length_keeps_its_end_and_is_padded(family: Callable[[str], Backbone], name: str) -> None:
    backbone = family(name)
    pad, texts = backbone.text.pad_id, ["a red", "a red circle a red circle a red circle"]
    whole, cut = backbone.tokenize(texts), backbone.tokenize(texts, 6)
    assert cut.shape == whole.shape == (2, backbone.context_length)
    assert torch.equal(cut[0], whole[0]), "a text that fits stays as it is"
    ends = whole[1][(whole[1] != pad).sum() - 1]
    assert torch.equal(cut[1, :5], whole[1, :5]) and cut[1, 5] == ends and (cut[1, 6:] == pad).all()
    for text_length, num_cut in ((6, 1), (None, 0)):
        ids, counted = backbone.tokenizer.tokenize_counted(texts, text_length)
        assert counted == num_cut and torch.equal(ids, backbone.tokenize(texts, text_length))
    assert bool((backbone.encode_text(whole)[1] - backbone.encode_text(cut)[1]).abs().max() > 1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_module_starts_at_mean_pooling(family: Callable[[str], Backbone], name: str) -> None:
    backbone = family(name)
    frames, mask = pictures(backbone, 2, 3), torch.tensor([[True] * 3, [True, True, False]])
    units = backbone.encode_image(frames.flatten(0, 1)).unflatten(0, (2, 3))
    expected = torch.stack([units[0].mean(0), units[1, :2].mean(0)])
    expected = torch.nn.functional.normalize(expected, dim=-1)
    modules = [MeanConfig(), SeqTransfConfig(layers=1)]
    if backbone.vision.layered:
        modules += [StanConfig(layers=2), StanConfig(layers=2, start="gate", inputs="normed"), AdapterConfig(layers=2)]
    if name == "vit":
        modules.append(MessageConfig(layers=2))
    for temporal in modules:
        for acg in (None, AcgConfig(mix=True)):
            actual = VideoCLIP(backbone, temporal, acg).encode_video(frames, mask)
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["timm_map", "timm_eva", "pe_core", "chinese_clip", "metaclip_2", "siglip2"])
def test_saved_and_loaded_is_the_same(family: Callable[[str], Backbone], name: str, tmp_path: Path) -> None:
    backbone = family(name)
    model = VideoCLIP(backbone, StanConfig(layers=2), AcgConfig())
    for p in model.temporal.parameters():
        p.add_(torch.randn_like(p) * 0.02)
    model.save(tmp_path)
    loaded = VideoCLIP.load(tmp_path)
    frames, tokens = pictures(backbone, 1, 2), backbone.tokenize(WORDS)
    assert torch.equal(loaded.encode_video(frames), model.encode_video(frames))
    assert torch.equal(loaded.encode_text(loaded.backbone.tokenize(WORDS)), model.encode_text(tokens))
    assert loaded.digest == model.digest


@pytest.mark.parametrize("name", ["resnet", "vit_average"])
@pytest.mark.parametrize("temporal", [StanConfig(layers=1), AdapterConfig(layers=1)], ids=lambda cfg: cfg.name)
def test_towers_without_layers_refuse_what_reads_them(family: Callable[[str], Backbone], name: str, temporal) -> None:
    with pytest.raises(M2raapError, match=rf"adapt\.temporal\.name {temporal.name} .*mean or seqtransf"):
        VideoCLIP(family(name), temporal)


def test_the_branch_learns_on_every_layered_family(family: Callable[[str], Backbone]) -> None:
    for name in NAMES:
        backbone = family(name)
        if backbone.vision.layered:
            model = VideoCLIP(backbone, StanConfig(layers=2, start="open"))
            model.encode_video(pictures(backbone, 1, 3)).sum().backward()
            silent = [n for n, p in model.temporal.named_parameters() if p.grad is None]
            assert not silent, f"{name}: {silent}"


@torch.no_grad()
def test_a_class_token_that_is_not_projected_comes_first(family: Callable[[str], Backbone]) -> None:
    """PE-Core projects what its attention pooling gives; the layers before the last give their class token."""
    backbone = family("pe_core")
    trunk = backbone.clip.visual.trunk
    assert trunk.num_prefix_tokens == 1 and trunk.attn_pool is not None
    images = pictures(backbone, 2)
    tokens = trunk.forward_intermediates(images, return_prefix_tokens=True, norm=False, output_fmt="NLC")[1]
    middle, last = backbone.layer_tokens(images, 2)
    patches, prefix = tokens[1]
    torch.testing.assert_close(middle, torch.cat([prefix, patches], 1), atol=1e-6, rtol=0)
    pooled = trunk.forward_head(trunk.forward_features(images), pre_logits=True)
    torch.testing.assert_close(last[:, 0], pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(last[:, 1:], tokens[2][0], atol=1e-6, rtol=0)


def test_a_text_tower_without_an_end_token_is_refused(tmp_path: Path) -> None:
    import transformers

    write_multilingual_tokenizer(tmp_path)
    tree = TRANSFORMERS["metaclip_2"] | {
        "text_config": TRANSFORMERS["metaclip_2"]["text_config"] | {"eos_token_id": None}
    }
    transformers.AutoConfig.for_model("metaclip_2", **tree).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
    with pytest.raises(M2raapError, match="text_config.eos_token_id is None"):
        load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{tmp_path}", random_init=True))


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": 10}))
    with pytest.raises(M2raapError, match="'bert'.*altclip, chinese_clip"):
        load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{tmp_path}"))
