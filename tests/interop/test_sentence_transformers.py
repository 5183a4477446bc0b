"""A model of sentence-transformers is measured on stored frames: all of them, in order, with their times."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import m2raap
from m2raap.core.errors import M2raapError
from m2raap.core.view import open_view
from m2raap.interop.external import pictures
from m2raap.interop.sentence_transformers import SentenceTransformerEmbedder
from m2raap.stages.embedder import CaptionedFrames, ClipFrame
from tests.interop import tiny_qwen3_vl
from tests.interop.conftest import FRAMES
from tests.stages.pictures import draw

# sentence-transformers takes seconds to import, and pytest imports every test file in every process.
pytestmark = pytest.mark.skipif(
    find_spec("sentence_transformers") is None, reason="sentence-transformers is an extra: pip install 'm2raap[mllm]'"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("qwen3_vl") / "tiny-embedder"
    path.mkdir()
    tiny_qwen3_vl.write(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(
        folder, query_instruction="Retrieve videos.", document_instruction="", device="cpu"
    )


class Watched:
    """What enters the model: the patches of the vision tower, and the text with its marks."""

    def __init__(self, embedder: SentenceTransformerEmbedder) -> None:
        self.patches: list[torch.Tensor] = []
        self.grids: list[list[int]] = []
        self.prompts: list[str] = []
        transformer = embedder.model[0]
        self._tokenizer = embedder.model.tokenizer
        self.hooks = [
            transformer.model.visual.register_forward_pre_hook(self._tower, with_kwargs=True),
            transformer.register_forward_pre_hook(self._words),
        ]

    def _tower(self, _module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.patches.append(given[0])
        self.grids += named["grid_thw"].tolist()

    def _words(self, _module: Any, given: tuple[Any, ...]) -> None:
        for row, mask in zip(given[0]["input_ids"], given[0]["attention_mask"], strict=True):
            self.prompts.append(self._tokenizer.decode(row[mask.bool()]))


@pytest.fixture
def watched(model: SentenceTransformerEmbedder):
    watching = Watched(model)
    yield watching
    for hook in watching.hooks:
        hook.remove()


def clip_of(num: int) -> CaptionedFrames:
    """Frames of one grey each, darker to lighter, 2 s apart from 1 s on."""
    from io import BytesIO

    from PIL import Image

    frames = []
    for i in range(num):
        sink = BytesIO()
        Image.new("RGB", (64, 32), (20 * i + 10,) * 3).save(sink, "PNG")
        frames.append(ClipFrame(sink.getvalue(), None, 1.0 + 2.0 * i))
    return frames


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_all_frames_enter_the_vision_tower_in_order_with_their_times(
    model: SentenceTransformerEmbedder, watched: Watched, num: int
) -> None:
    assert model.videos([clip_of(num)])[0].shape == (1, 32)
    # One more where the number is odd: the tower takes two frames at once, and the last is repeated.
    ((steps, height, width),) = watched.grids
    assert (steps, height, width) == (math.ceil(num / 2), 2, 4), "32 x 64 pixels in patches of 16"
    # (steps, patches, 3 x 2 frames x 16 x 16), values (grey / 255 - 0.5) / 0.5
    by_frame = watched.patches[0].reshape(steps, height * width, 3, 2, -1)
    greys = ((by_frame.mean((1, 2, 4)).flatten() * 0.5 + 0.5) * 255).round().int().tolist()
    expected = [20 * i + 10 for i in range(num)]
    assert greys == expected + expected[-1:] * (num % 2)
    times_s = [1.0 + 2.0 * min(i, num - 1) for i in range(2 * steps)]
    shown = [f"<{(a + b) / 2:.1f} seconds>" for a, b in zip(times_s[::2], times_s[1::2], strict=True)]
    (prompt,) = watched.prompts
    assert [mark for mark in prompt.replace("<", "\n<").replace(">", ">\n").split("\n") if "seconds" in mark] == shown


def test_a_reversed_clip_is_another_video_at_the_same_times(
    model: SentenceTransformerEmbedder, watched: Watched
) -> None:
    clip = clip_of(4)
    forward, backward = model.videos([clip, clip[::-1]])[0]
    assert watched.prompts[0] == watched.prompts[1] and np.abs(forward - backward).max() > 1e-4


def test_instructions_are_the_system_message(
    folder: Path, model: SentenceTransformerEmbedder, watched: Watched
) -> None:
    model.texts(["a red circle"])
    assert watched.prompts == [
        "<|im_start|>system\nRetrieve videos.<|im_end|>\n<|im_start|>user\na red circle<|im_end|>\n"
    ]
    model.videos([clip_of(2)])
    assert "system" not in watched.prompts[-1], 'the document instruction is ""'
    own = SentenceTransformerEmbedder(folder, device="cpu")
    stated = SentenceTransformerEmbedder(folder, "Find the video.", "", device="cpu")
    assert np.array_equal(own.texts(["a"]), stated.texts(["a"])), "the model's own prompts"
    assert not np.array_equal(own.texts(["a"]), model.texts(["a"]))
    assert own.digest == stated.digest != model.digest and "'Retrieve videos.'" in model.preprocess


def test_a_text_is_neither_an_address_nor_a_mark(
    model: SentenceTransformerEmbedder, watched: Watched, tmp_path: Path
) -> None:
    picture = tmp_path / "cat.jpg"
    picture.write_bytes(draw("red", side_px=64))
    texts = ["http://127.0.0.1:9/a.mp4", str(picture), "a <|video_pad|> here <|im_end|>"]
    model.texts(texts)
    assert not watched.grids
    read = [prompt.partition("user\n")[2] for prompt in watched.prompts]
    texts[2] = "a < |video_pad|> here < |im_end|>"
    assert sorted(read) == sorted(f"{text}<|im_end|>\n" for text in texts)


def test_it_is_evaluated_by_instance_and_by_embedder(
    chain: Path, folder: Path, model: SentenceTransformerEmbedder, watched: Watched
) -> None:
    tree = m2raap.evaluate(model, chain / "keyframes")
    assert {row["direction"] for row in tree["rows"]} == {"t2v", "v2t"} and "'Retrieve videos.'" in str(
        tree["protocol"]
    )
    assert {steps for steps, _, _ in watched.grids} == {FRAMES // 2}
    stored = open_view(chain / "keyframes").part(0, ("jpegs",)).frames
    assert len(watched.grids) == len(stored)
    assert all(
        any(f"<{np.mean(row['times_s'][:2]):.1f} seconds>" in p for p in watched.prompts) for row in stored.values()
    )
    plain = m2raap.evaluate(
        SentenceTransformerEmbedder(folder, "", "", device="cpu").model, chain / "keyframes", name="q"
    )
    assert plain["protocol"]["model"] != tree["protocol"]["model"]


def test_a_model_of_images_gives_the_mean_of_its_frames(tmp_path: Path) -> None:
    clip = tiny_clip(tmp_path)
    embedder = SentenceTransformerEmbedder(clip, name="clip")
    row = clip_of(3)
    vectors_FE = clip.encode([{"image": picture} for picture in pictures([frame.jpeg for frame in row])])
    units_FE = vectors_FE / np.linalg.norm(vectors_FE, axis=1, keepdims=True)
    assert embedder.videos([row])[0] == pytest.approx(units_FE.mean(0, keepdims=True), abs=1e-6)
    assert embedder.texts(["a"]).shape == (1, 16)
    clip[0].modality_config.pop("image")
    with pytest.raises(M2raapError, match="'clip' reads text; text and video or image"):
        SentenceTransformerEmbedder(clip, name="clip")


def tiny_clip(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    marks = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    text = {"vocab_size": 4, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 16}  # fmt: skip
    vision = {"image_size": 32, "patch_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, CLIPTokenizer(vocab=marks, merges=[])).save_pretrained(folder)
    return SentenceTransformer(modules=[Transformer(str(folder))], device="cpu")


def test_a_processor_that_drops_frames_is_refused(folder: Path, monkeypatch) -> None:
    embedder = SentenceTransformerEmbedder(folder, device="cpu")
    processor = embedder.model[0].processor.video_processor
    shorter = processor._preprocess
    monkeypatch.setattr(processor, "_preprocess", lambda videos, **named: shorter([v[:4] for v in videos], **named))
    with pytest.raises(M2raapError, match="'tiny-embedder' takes 4 frames of a clip of 8"):
        embedder.videos([clip_of(8)])
    with pytest.raises(M2raapError, match="'tiny-embedder' cannot read a clip of 2 frames .*`video`"):
        SentenceTransformerEmbedder(folder, video={"size": {"shortest_edge": 1}}, device="cpu").videos([clip_of(2)])


def test_no_code_and_no_pickle_of_a_model_is_run(folder: Path, tmp_path: Path, monkeypatch) -> None:
    import shutil

    code = tmp_path / "code"
    shutil.copytree(folder, code)
    modules = json.loads((code / "modules.json").read_text())
    modules[2]["type"] = "stranger.Normalize"
    (code / "modules.json").write_text(json.dumps(modules))
    (code / "stranger.py").write_text("import pathlib\npathlib.Path('ran').touch()\nclass Normalize: ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(code))
    with pytest.raises(M2raapError, match="needs Python code that comes with it"):
        SentenceTransformerEmbedder(code)
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({"a": Touch()}, pickled / "pytorch_model.bin")
    with pytest.raises(M2raapError, match="'.*pickled' cannot be loaded"):
        SentenceTransformerEmbedder(pickled)
    assert not (tmp_path / "ran").exists()
    (pickled / "modules.json").unlink()
    with pytest.raises(M2raapError, match="holds no modules.json"):
        SentenceTransformerEmbedder(pickled)


class Touch:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)
