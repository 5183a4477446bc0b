import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import BackboneConfig
from m2raap.models.families import backbone_from_description, load_backbone


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_layer_tokens_are_those_of_open_clip(backbone: Backbone, images: torch.Tensor) -> None:
    theirs = backbone.clip.forward_intermediates(
        image=images, image_indices=[1, 2, 3], image_output_fmt="NLC", image_output_extra_tokens=True, normalize=False
    )
    ours = backbone.layer_tokens(images, 3)
    for level in range(3):
        expected = torch.cat([theirs["image_intermediates_prefix"][level], theirs["image_intermediates"][level]], 1)
        torch.testing.assert_close(ours[level], expected, atol=1e-6, rtol=0)
    feature = backbone.image_feature_from_cls(ours[-1][:, 0])
    torch.testing.assert_close(feature, theirs["image_features"], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        backbone.encode_image(images), backbone.clip.encode_image(images, normalize=True), atol=1e-6, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_prefix_and_suffix_are_the_whole(backbone: Backbone, images: torch.Tensor, depth: int) -> None:
    last = min(depth, 2)
    levels = backbone.suffix_layers(backbone.prefix_tokens(images, depth), depth, last)
    for ours, whole in zip(levels, backbone.layer_tokens(images, last), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)


def test_sizes_of_the_tiny_model(backbone: Backbone) -> None:
    assert (backbone.width, backbone.num_layers, backbone.embed_dim, backbone.vision.num_patches) == (64, 4, 32, 16)
    assert backbone.context_length == 16 and backbone.preprocess.image_size == 32


def test_texts_are_cut_with_their_end_and_counted(backbone: Backbone) -> None:
    fits, too_long = "a red circle", "a red circle " * 9
    tokens = backbone.tokenize([fits, too_long])
    assert tokens.shape == (2, 16) and tokens[1, -1] == tokens.max()
    texts = [fits, too_long, "word " * 14, "word " * 15]
    ids, num_cut = backbone.tokenizer.tokenize_counted(texts)
    assert num_cut == 2 and torch.equal(ids, backbone.tokenize(texts))
    assert backbone.tokenizer.tokenize_counted([])[1] == 0 and backbone.tokenize([]).shape == (0, 16)
    # An end token that stands in a text is text: the vector is not taken from there.
    marked = backbone.tokenize(["a red circle <end_of_text> and a <START_OF_TEXT> square"])[0]
    ids = backbone.text.tokenizer.all_special_ids
    assert [int((marked == special).sum()) for special in ids] == [1, 1] and int(marked.argmax()) > 8
    norms = backbone.encode_text(tokens).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2), atol=1e-6, rtol=0)


def test_random_weights_come_from_the_seed_and_leave_the_global_stream_alone(tiny_dir: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    backbones = [
        load_backbone(BackboneConfig(model=f"local-dir:{tiny_dir}", random_init=True, random_seed=s)) for s in (0, 0, 1)
    ]
    assert torch.equal(torch.rand(3), expected)
    assert backbones[0].digest == backbones[1].digest != backbones[2].digest


def test_an_interaction_on_a_text_tower_without_tokens_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    small = json.loads((tiny_dir / "open_clip_config.json").read_text())["model_cfg"]
    small["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    small["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    small |= {"custom_text": True, "multimodal_cfg": small["text_cfg"] | {"layers": 1}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": small}))
    coca = load_backbone(BackboneConfig(model=f"local-dir:{tmp_path}", random_init=True))
    tokens = coca.tokenize(["a dog", "two dogs run"])
    assert coca.encode_text(tokens).shape == (2, 32)
    with pytest.raises(M2raapError, match=r"adapt\.interaction.*embed\.rerank"):
        coca.encode_text_tokens(tokens)


@pytest.mark.parametrize("form", ["local-dir", "safetensors", "pt"])
def test_weights_from_folder_or_file(
    tiny_dir: Path, named_tiny: str, backbone: Backbone, tmp_path: Path, form: str
) -> None:
    weights = backbone.clip.state_dict()
    if form == "local-dir":
        shutil.copy(tiny_dir / "open_clip_config.json", tmp_path)
        save_file(weights, tmp_path / "open_clip_model.safetensors")
        cfg = BackboneConfig(model=f"local-dir:{tmp_path}")
    else:
        path = tmp_path / f"weights.{form}"
        save_file(weights, path) if form == "safetensors" else torch.save(weights, path)
        cfg = BackboneConfig(model=named_tiny, pretrained=str(path))
    loaded = load_backbone(cfg)
    tokens = backbone.tokenize(["a red circle"])
    assert torch.equal(loaded.encode_text(tokens), backbone.encode_text(tokens))


def test_a_pickle_with_code_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "weights.pt"
    torch.save({"state_dict": Bomb()}, path)
    with pytest.raises(M2raapError, match="ViT-S-32-alt"):
        load_backbone(BackboneConfig(model="ViT-S-32-alt", pretrained=str(path)))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (BackboneConfig(model="ViT-B-33"), "ViT-B-33.*ViT-B-32"),
        (BackboneConfig(model="ViT-B-32"), "backbone.random_init"),
        (BackboneConfig(model="ViT-B-32", pretrained="openia"), "backbone.pretrained.*openia.*openai"),
        (BackboneConfig(model="local-dir:/no/such/folder"), "/no/such/folder.*open_clip_config.json"),
        (BackboneConfig(model="builtin:huge"), "builtin:tiny"),
        (BackboneConfig(family="other"), "backbone.family.*open_clip"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(cfg: BackboneConfig, words: str) -> None:
    with pytest.raises(M2raapError, match=words):
        load_backbone(cfg)


@pytest.mark.parametrize(
    "cfg", [BackboneConfig(model="hf-hub:some/model"), BackboneConfig(model="ViT-B-32", pretrained="openai")]
)
def test_without_a_hub_one_sentence_at_once(
    cfg: BackboneConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(M2raapError, match=f"{cfg.model}.*backbone.model.*local-dir:/folder"):
        load_backbone(cfg)
    assert not caplog.records and constants.HF_HUB_OFFLINE is False


def test_a_description_rebuilds_the_shape(backbone: Backbone, tmp_path: Path) -> None:
    backbone.write_description(tmp_path)
    rebuilt = backbone_from_description(tmp_path)
    rebuilt.load_state_dict(backbone.state_dict())
    assert rebuilt.digest == backbone.digest


@torch.no_grad()
def test_texts_without_their_padding_have_the_same_vectors(backbone: Backbone) -> None:
    tokens = backbone.tokenize(["a cat", "a dog in the snow"])
    length = int(tokens.argmax(1).max()) + 1
    assert backbone.can_shorten and length < backbone.context_length
    assert torch.allclose(backbone.encode_text(tokens[:, :length]), backbone.encode_text(tokens), atol=1e-6)


def openai_like(tiny_name: str) -> dict[str, torch.Tensor]:
    """A state dict as OpenAI's archives hold it: half precision, and three numbers beside the weights."""
    weights = load_backbone(BackboneConfig(model=tiny_name, random_init=True)).clip.state_dict()
    numbers = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    return {key: value.half() for key, value in weights.items()} | {
        key: torch.tensor(value) for key, value in numbers.items()
    }


def test_openais_own_dict_is_read_with_its_own_activation(
    named_tiny: str, images: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(openai_like(named_tiny), tmp_path / "openai.pt")
    either = [
        load_backbone(BackboneConfig(model=name, pretrained=str(tmp_path / "openai.pt")))
        for name in (named_tiny, f"{named_tiny}-quickgelu")
    ]
    assert torch.equal(either[0].encode_image(images), either[1].encode_image(images))
    assert either[0].description["model_cfg"]["quick_gelu"] is True and "quickgelu" not in capsys.readouterr().err


def test_a_plain_dict_under_a_name_with_two_activations_is_noted(
    named_tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {key: value for key, value in openai_like(named_tiny).items() if value.ndim or key == "logit_scale"}
    torch.save(weights, tmp_path / "plain.pt")
    for name, noted in ((named_tiny, True), (f"{named_tiny}-quickgelu", False)):
        load_backbone(BackboneConfig(model=name, pretrained=str(tmp_path / "plain.pt")))
        assert (f"{named_tiny}-quickgelu" in capsys.readouterr().err) is noted


def test_a_torchscript_archive_is_refused_with_the_way_to_convert_it(named_tiny: str, tmp_path: Path) -> None:
    class OneLayer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    torch.jit.save(torch.jit.trace(OneLayer(), torch.ones(2)), tmp_path / "archive.pt")
    with pytest.raises(M2raapError, match="TorchScript") as error:
        load_backbone(BackboneConfig(model=named_tiny, pretrained=str(tmp_path / "archive.pt")))
    code = str(error.value).split('python -c "')[1].split('"')[0].replace("archive-weights.pt", str(tmp_path / "w.pt"))
    exec(code, {})
    assert list(torch.load(tmp_path / "w.pt", weights_only=True)) == ["weight"]
    with pytest.raises(M2raapError, match=r"w\.pt.*state dict") as error:
        load_backbone(BackboneConfig(model=named_tiny, pretrained=str(tmp_path / "w.pt")))
