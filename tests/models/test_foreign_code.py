"""Untrusted model folders: none of their Python is run, the user is not asked, and bad values are one M2raapError."""

import io
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from m2raap.core.errors import M2raapError
from m2raap.curate.image_text import ImageText, ImageTextConfig
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.local import LocalBackend, LocalModelConfig, load_pretrained
from m2raap.curate.llm.schema import Request
from m2raap.models.backbone import Backbone
from m2raap.models.builtin import TINY
from m2raap.models.config import BackboneConfig
from m2raap.models.families import backbone_from_description, load_backbone
from m2raap.models.foreign_code import no_foreign_code
from m2raap.models.open_clip_config import read_model_config
from tests.curate.tiny_models import chat_model, image_to_text

OWN_CODE = """
import pathlib
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast as Words
from transformers import SiglipImageProcessor as Pictures
pathlib.Path({marker!r}).touch()
class Shape(PreTrainedConfig):
    model_type = "own"
class Model(PreTrainedModel):
    config_class = Shape
"""
AUTO_MAP = {
    "AutoConfig": "own.Shape",
    "AutoModel": "own.Model",
    "AutoModelForCausalLM": "own.Model",
    "AutoImageProcessor": "own.Pictures",
    "AutoTokenizer": ["own.Words", None],
}
ABSENT = ("config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")  # looked for, not there
SENTENCE = "cannot be loaded: it needs Python code that comes with it"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the Python of an evil folder makes."""
    return tmp_path / "ran"


@pytest.fixture(autouse=True)
def no_code_ran_and_no_prompt_was_shown(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    from transformers import dynamic_module_utils

    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    assert not asked, "a prompt was shown"
    assert not marker.exists(), "Python of the folder was run"


def edit(path: Path, **more: Any) -> None:
    """Adds keys to a JSON file."""
    tree = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(tree | more))


def tiny(folder: Path, marker: Path, **text_cfg: Any) -> Path:
    """The builtin model with Python beside it that its tokenizer names, and `text_cfg` added. No weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in TINY.glob("*.json"):
        shutil.copy(path, folder)
    (folder / "own.py").write_text(OWN_CODE.format(marker=str(marker)))
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": AUTO_MAP["AutoTokenizer"]})
    tree = json.loads((folder / "open_clip_config.json").read_text())
    tree["model_cfg"]["text_cfg"] |= text_cfg
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """org/name -> the folder in the hub client's cache, which is all that a machine without a network reads.

    `there`: which of ABSENT the test writes.
    """
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def place(name: str, *there: str) -> Path:
        commit = "0" * 40
        repo = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        (repo / ".no_exist" / commit).mkdir(parents=True)
        for absent in set(ABSENT) - set(there):
            (repo / ".no_exist" / commit / absent).touch()
        (repo / "snapshots" / commit).mkdir(parents=True)
        return repo / "snapshots" / commit

    return place


def from_folder(folder: Path) -> Backbone:
    return load_backbone(BackboneConfig(model=f"local-dir:{folder}", random_init=True))


FORMS = pytest.mark.parametrize("load", [from_folder, backbone_from_description], ids=["local-dir", "saved"])


@FORMS
def test_a_tokenizer_that_is_to_be_trusted_is_refused(
    load: Callable[[Path], Backbone], marker: Path, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "evil", marker, tokenizer_kwargs={"trust_remote_code": True})
    with pytest.raises(M2raapError, match=r"open_clip_config.json: .*tokenizer_kwargs.trust_remote_code .*clean"):
        load(folder)


def test_a_hub_model_whose_tokenizer_is_to_be_trusted_is_refused(hub: Callable[..., Path], marker: Path) -> None:
    words = {"hf_tokenizer_name": "some/model", "tokenizer_kwargs": {"trust_remote_code": True}}
    tiny(hub("some/model"), marker, **words)
    with pytest.raises(M2raapError, match="hf-hub:some/model.*tokenizer_kwargs.trust_remote_code"):
        load_backbone(BackboneConfig(model="hf-hub:some/model", random_init=True))


@FORMS
def test_code_beside_a_sound_model_is_left_alone(
    load: Callable[[Path], Backbone], marker: Path, tmp_path: Path
) -> None:
    backbone = load(tiny(tmp_path / "evil", marker))
    assert torch.equal(backbone.tokenize(["a red circle"]), from_folder(TINY).tokenize(["a red circle"]))


def test_code_beside_a_sound_hub_model_is_left_alone(hub: Callable[..., Path], marker: Path) -> None:
    tiny(hub("some/model"), marker, hf_tokenizer_name="some/model")
    assert load_backbone(BackboneConfig(model="hf-hub:some/model", random_init=True)).tokenize(["a"]).shape == (1, 40)


@FORMS
def test_a_tokenizer_that_exists_only_as_code_is_refused(
    load: Callable[[Path], Backbone], marker: Path, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "evil", marker)
    edit(folder / "tokenizer_config.json", tokenizer_class="OwnWords")
    with pytest.raises(M2raapError, match=f"{folder}.* {SENTENCE}"):
        load(folder)


@pytest.mark.parametrize("address", ["{folder}", "evil", "../evil", "https://some.where/model", "file://{folder}"])
def test_a_text_tower_of_another_folder_is_refused(
    address: str, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = tmp_path / "evil"
    folder = tiny(tmp_path / "clip", marker, hf_model_name=address.format(folder=evil))
    tiny(evil, marker)
    edit(evil / "config.json", model_type="own", auto_map=AUTO_MAP)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(M2raapError, match="open_clip_config.json: model_cfg.text_cfg.hf_model_name .*hub"):
        from_folder(folder)


@pytest.mark.parametrize("address", ["local-dir:/some", "hf-hub:some/model", "hf_hub:some/model", "/some", "../some"])
def test_an_image_tower_of_another_folder_is_refused(address: str, marker: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "clip", marker)
    tree = json.loads((folder / "open_clip_config.json").read_text())
    tree["model_cfg"]["vision_cfg"] = {"timm_model_name": address, "image_size": 160}
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    with pytest.raises(M2raapError, match="model_cfg.vision_cfg.timm_model_name .*timm"):
        from_folder(folder)


def test_a_text_tower_of_the_hub_that_is_code_is_refused(
    hub: Callable[..., Path], marker: Path, tmp_path: Path
) -> None:
    """open_clip asks transformers for it without a word on code: at a terminal transformers would ask the user."""
    evil = tiny(hub("some/text", "config.json"), marker)
    edit(evil / "config.json", model_type="own", auto_map=AUTO_MAP)
    folder = tiny(tmp_path / "clip", marker, hf_model_name="some/text")
    with pytest.raises(M2raapError, match=f"{folder}.* {SENTENCE}"):
        from_folder(folder)


@pytest.fixture
def siglip(tmp_path: Path, marker: Path) -> Path:
    """A tiny model in transformers' form with Python beside it that every file names."""
    import transformers

    folder = tiny(tmp_path / "siglip", marker)
    (folder / "open_clip_config.json").unlink()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 5201, "projection_size": 32, "max_position_embeddings": 40}
    config = transformers.AutoConfig.for_model(
        "siglip", text_config=text, vision_config=sizes | {"image_size": 32, "patch_size": 8}
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    edit(folder / "config.json", auto_map=AUTO_MAP)
    shown = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    edit(folder / "preprocessor_config.json", auto_map=AUTO_MAP, **shown)
    return folder


def from_transformers(folder: Path) -> Backbone:
    return load_backbone(BackboneConfig(family="transformers", model=f"local-dir:{folder}"))


def saved_transformers(folder: Path) -> Backbone:
    shown = {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    edit(folder / "m2raap_preprocess.json", **shown)
    return backbone_from_description(folder)


TRANSFORMERS_FORMS = pytest.mark.parametrize("load", [from_transformers, saved_transformers])


@TRANSFORMERS_FORMS
def test_code_beside_a_family_is_left_alone(load: Callable[[Path], Backbone], siglip: Path) -> None:
    assert load(siglip).tokenize(["a"]).shape == (1, 40)


@TRANSFORMERS_FORMS
@pytest.mark.parametrize("place", ["", "some/other--"])
def test_a_family_that_exists_only_as_code_is_refused(
    load: Callable[[Path], Backbone], siglip: Path, place: str
) -> None:
    edit(siglip / "config.json", model_type="own", auto_map={"AutoConfig": f"{place}own.Shape"})
    with pytest.raises(M2raapError, match=f"{siglip}.* {SENTENCE}"):
        load(siglip)


@TRANSFORMERS_FORMS
def test_a_kernel_of_the_hub_is_refused(
    load: Callable[[Path], Backbone], siglip: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the package that fetches them is installed: a kernel is Python, too."""
    from transformers import modeling_utils
    from transformers.integrations import hub_kernels

    monkeypatch.setattr(hub_kernels, "get_kernel_hub", lambda *_, **__: marker.touch(), raising=False)
    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda *_: True, raising=False)
    edit(siglip / "config.json", attn_implementation="attacker/kernel")
    with pytest.raises(M2raapError, match=f"{siglip}.* {SENTENCE}"):
        load(siglip)


def test_a_language_model_that_exists_only_as_code_is_refused(siglip: Path) -> None:
    import transformers

    edit(siglip / "config.json", model_type="own")
    for kind in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
        with pytest.raises(M2raapError, match=f"{siglip}.* {SENTENCE}"):
            load_pretrained(kind, str(siglip), None)


def chats(folder: Path) -> object:
    request = Request({"messages": [{"role": "user", "content": "a dog"}]}, "chat", ("en",), "c")
    return LocalBackend(LocalModelConfig(model=str(folder), max_tokens=8)).complete(request)


def describes(folder: Path) -> object:
    sink = io.BytesIO()
    Image.new("RGB", (48, 48)).save(sink, "JPEG")
    cache = Cache(folder / "answers.sqlite")
    return ImageText(ImageTextConfig(model=str(folder)), lambda: cache).describe([("c", sink.getvalue())])


@pytest.mark.parametrize(("make", "use"), [(chat_model, chats), (partial(image_to_text, "florence2"), describes)])
def test_a_generate_that_exists_only_as_code_is_refused(
    make: Callable[[Path], Path], use: Callable[[Path], object], tmp_path: Path
) -> None:
    """These settings choose a way of generating that transformers keeps as code on the hub."""
    folder = make(tmp_path / "model")
    edit(folder / "generation_config.json", penalty_alpha=0.6, top_k=4)
    with pytest.raises(M2raapError, match=f"{folder}.* {SENTENCE}"):
        use(folder)


def test_inside_the_guard_even_trust_runs_nothing(siglip: Path) -> None:
    """Whatever m2raap or a library forgets: the ways to a module are closed, and open again afterwards."""
    import transformers
    from transformers import dynamic_module_utils
    from transformers.generation.utils import GenerationMixin

    before = dict(vars(dynamic_module_utils))
    code = (siglip / "own.py").read_text()
    (siglip / "custom_generate").mkdir()
    (siglip / "custom_generate" / "generate.py").write_text(code)
    edit(siglip / "config.json", model_type="own")
    (siglip / "modules").mkdir()
    shutil.copy(siglip / "own.py", siglip / "modules")
    ways: list[Callable[[], object]] = [
        lambda: transformers.AutoConfig.from_pretrained(siglip, trust_remote_code=True),
        lambda: transformers.AutoModel.from_pretrained(siglip, trust_remote_code=True),
        lambda: transformers.AutoTokenizer.from_pretrained(siglip, trust_remote_code=True),
        lambda: transformers.AutoImageProcessor.from_pretrained(siglip, trust_remote_code=True),
        lambda: GenerationMixin().load_custom_generate(siglip, trust_remote_code=True),
        lambda: dynamic_module_utils.get_class_in_module("Words", siglip / "modules" / "own.py"),
    ]
    for way in ways:
        with pytest.raises(M2raapError, match=f"model 'x' {SENTENCE}"), no_foreign_code("model 'x'"):
            way()
    assert dict(vars(dynamic_module_utils)) == before


def test_a_guard_inside_a_guard_leaves_the_outer_one_closed(siglip: Path) -> None:
    import transformers

    with no_foreign_code("the outer"):
        with no_foreign_code("the inner"):
            pass
        with pytest.raises(M2raapError, match="the outer"):
            transformers.AutoTokenizer.from_pretrained(siglip, trust_remote_code=True)


def test_every_configuration_of_open_clip_is_sound() -> None:
    import open_clip

    names = open_clip.list_models()
    assert len(names) > 100
    for name in names:
        assert read_model_config(name) == open_clip.get_model_config(name)


SPOILT = [
    ("[]", "model_cfg"),
    ("null", "model_cfg"),
    ("{", "JSON"),
    ("[" * 100_000, "JSON"),
    ('{"embed_dim": 32}', "model_cfg"),
    ('{"model_cfg": []}', "model_cfg"),
    ('{"model_cfg": {}, "preprocess_cfg": [1]}', "preprocess_cfg"),
    ('{"model_cfg": {"embed_dim": 32, "text_cfg": {}}}', "vision_cfg"),
]


@FORMS
@pytest.mark.parametrize(("text", "words"), SPOILT)
def test_what_is_no_configuration_is_one_sentence(
    load: Callable[[Path], Backbone], text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(M2raapError, match=f"open_clip_config.json: .*{words}"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/hostname"}, "tokenizer_kwargs.bpe_path "),
        ("text_cfg", "tokenizer_kwargs", {"clean": "no"}, "tokenizer_kwargs.clean .*'canonicalize'"),
        ("text_cfg", "tokenizer_kwargs", {"reduction_mask": "syntax"}, "tokenizer_kwargs.reduction_mask .*syntax"),
        (
            "text_cfg",
            "tokenizer_kwargs",
            {"additional_special_tokens": [1]},
            "tokenizer_kwargs.additional_special_tokens .*list",
        ),
        ("text_cfg", "tokenizer_kwargs", ["clean"], "tokenizer_kwargs .*object"),
        ("text_cfg", "norm_kwargs", {"eps": [1]}, "norm_kwargs .*object"),
        ("text_cfg", "hf_tokenizer_name", "/etc", "hf_tokenizer_name '/etc' "),
        ("text_cfg", "width", "wide", "width .*wide"),
        ("text_cfg", "width", True, "width .*True"),
        ("vision_cfg", "layers", [1, 2], "layers .*list of 4"),
        ("vision_cfg", "callback", "os.system", "vision_cfg.callback "),
        ("vision_cfg", "timm_model_name", ["a"], "timm_model_name "),
        (None, "vision_cfg", None, ".*vision_cfg"),
        (None, "vision_cfg", [], "vision_cfg .*object"),
        ("text_cfg", "tokenizer_kwargs", None, "tokenizer_kwargs .*object"),
        (None, "cast_dtype", "fp16", "cast_dtype "),
    ],
)
def test_a_value_that_open_clip_does_not_take_is_named(
    part: str | None, key: str, value: Any, words: str, marker: Path, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "clip", marker)
    tree = json.loads((folder / "open_clip_config.json").read_text())
    (tree["model_cfg"][part] if part else tree["model_cfg"])[key] = value
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    with pytest.raises(M2raapError, match=rf"open_clip_config.json: model_cfg.*{words}"):
        from_folder(folder)


@FORMS
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("std", [0.5, 0.0, 0.5]),
        ("std", [0.5, -0.5, 0.5]),
        ("std", [1e-300] * 3),
        ("std", 0.5),
        ("mean", ["0.5"] * 3),
        ("mean", [10**400] * 3),
        ("mean", [0.5]),
        ("mean", {"red": 0.5}),
        ("interpolation", "nearest"),
        ("resize_mode", ["squash"]),
    ],
)
def test_an_impossible_value_of_the_image_preprocessing_is_named(
    load: Callable[[Path], Backbone], key: str, value: Any, marker: Path, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "clip", marker)
    tree = json.loads((folder / "open_clip_config.json").read_text())
    edit(folder / "open_clip_config.json", preprocess_cfg=tree["preprocess_cfg"] | {key: value})
    with pytest.raises(M2raapError, match=f"clip.*: {key} "):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_configuration_with_a_number_that_json_does_not_have_is_refused(
    value: float, marker: Path, tmp_path: Path
) -> None:
    folder = tiny(tmp_path / "clip", marker)
    edit(folder / "open_clip_config.json", preprocess_cfg={"mean": [value] * 3})
    with pytest.raises(M2raapError, match=r"open_clip_config.json: .*(NaN|Infinity)"):
        from_folder(folder)


@pytest.mark.parametrize("size", [0, -8, 48.5, "48", [48, 0]])
def test_an_impossible_image_size_is_one_sentence(size: Any, marker: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "clip", marker)
    tree = json.loads((folder / "open_clip_config.json").read_text())
    tree["model_cfg"]["vision_cfg"]["image_size"] = size
    (folder / "open_clip_config.json").write_text(json.dumps(tree))
    with pytest.raises(M2raapError, match="clip"):
        from_folder(folder)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}),
        ("preprocessor_config.json", {"image_mean": "half"}),
        ("preprocessor_config.json", {"size": "large"}),
        ("preprocessor_config.json", {"size": {"height": 0, "width": 0}}),
        ("config.json", {"text_config": []}),
        ("config.json", {"model_type": ["siglip"]}),
    ],
)
def test_bad_values_of_a_family_are_one_sentence(name: str, more: dict[str, Any], siglip: Path) -> None:
    edit(siglip / name, **more)
    with pytest.raises(M2raapError, match=str(siglip)):
        from_transformers(siglip)


@pytest.mark.parametrize("text", ["[]", "null", '{"image_size": 32}', '{"image_size": 32, "mean": [0], "std": [0]}'])
def test_bad_values_of_a_saved_family_are_one_sentence(text: str, siglip: Path) -> None:
    (siglip / "m2raap_preprocess.json").write_text(text)
    with pytest.raises(M2raapError, match=str(siglip)):
        backbone_from_description(siglip)


def test_plain_settings_of_a_tokenizer_pass(marker: Path, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "clip", marker, tokenizer_kwargs={"clean": "lower", "strip_sep_token": False})
    assert torch.equal(from_folder(folder).tokenize(["A RED circle"]), from_folder(TINY).tokenize(["a red circle"]))
