"""One call gives what the command line gives, for models of ours and of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import m2raap
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.view import View
from m2raap.interop.external import ExternalModel
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.config import EvaluateConfig
from m2raap.stages.embedder import load_model
from tests.interop.conftest import FRAMES


def metrics(tree: dict[str, Any]) -> dict[tuple[str, ...], dict[str, float]]:
    return {(row["lang"], row["direction"], row["slice"]): row["metrics"] | row["intervals"] for row in tree["rows"]}


def test_a_model_of_ours_gives_the_numbers_of_the_command_line(
    chain: Path, results: dict[str, Any], bench: View, small_world: Path, tmp_path: Path
) -> None:
    model = load_model(BackboneConfig())
    assert m2raap.evaluate(model, chain / "keyframes") == results
    model.save(tmp_path / "model")
    assert (
        m2raap.evaluate(tmp_path / "model", bench.corpus_path, keyframes={"k": FRAMES}, out=tmp_path / "out") == results
    ), "frames made here"
    assert (tmp_path / "out" / "evaluate" / "ranks.parquet").read_bytes() == (
        chain / "evaluate" / "ranks.parquet"
    ).read_bytes()
    fewer = m2raap.evaluate(model, chain / "keyframes", langs=("zh",), num_frames=2)
    assert {row["lang"] for row in fewer["rows"]} == {"zh"} and "2 of them" in fewer["protocol"]["frames"]
    settings = EvaluateConfig(dual_softmax=50.0)
    dual = m2raap.evaluate(model, chain / "keyframes", evaluate=settings, protocol="custom")["rescored"]["dual_softmax"]
    assert "inverse temperature 50" in dual["rescored"]["label"] and dual["protocol"] == results["protocol"]
    with pytest.raises(UsageError, match="protocol world-motoin: .*world-motion"):
        m2raap.evaluate(model, chain / "keyframes", protocol="world-motoin")
    with pytest.raises(UsageError, match="evaluate: .*'dual'.*'dual_softmax'"):
        m2raap.evaluate(model, chain / "keyframes", evaluate={"dual": 50.0})
    with pytest.raises(M2raapError, match="keyframes: "):
        m2raap.evaluate(model, chain / "keyframes", keyframes={"k": 4})
    with pytest.raises(M2raapError, match="train: .*--holdout"):
        m2raap.evaluate(model, small_world / "train")


def test_a_model_keeps_its_mode() -> None:
    module = ByTensors()
    assert module.training
    with torch.inference_mode():
        ExternalModel(module, as_tensor).texts(["a"])
    assert module.training


class ByPictures:
    """Not torch, no preprocess: pictures and strings in, lists of numbers out."""

    def encode_video(self, clips: list[list[Any]]) -> np.ndarray:
        self.lengths = [len(clip) for clip in clips]
        return np.stack([np.mean([np.asarray(p.resize((2, 2)), float).ravel() for p in clip], 0) for clip in clips])

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return np.asarray([[len(text) + i for i in range(12)] for text in texts], float)


class ByTensors(torch.nn.Module):
    """Records the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 4)
        self.shapes: list[tuple[int, ...]] = []

    def encode_video(self, frames_BTCHW: torch.Tensor) -> torch.Tensor:
        assert not self.training and torch.is_inference_mode_enabled()
        self.shapes.append(tuple(frames_BTCHW.shape))
        return self.head(frames_BTCHW.mean((1, 3, 4)))

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        assert not self.training
        return self.head(torch.tensor([[float(len(text)), 1.0, 0.0] for text in texts]))


def as_tensor(picture: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(picture.resize((4, 4)))).permute(2, 0, 1).float()


def test_anything_with_two_encoders_is_evaluated(chain: Path, results: dict[str, Any]) -> None:
    plain = ByPictures()
    tree = m2raap.evaluate(plain, chain / "keyframes", name="mean colour")
    assert set(plain.lengths) == {FRAMES}
    assert tree["protocol"]["model"] == "mean colour" and metrics(tree).keys() == metrics(results).keys()
    module = ByTensors()
    m2raap.evaluate(module, chain / "keyframes", preprocess=as_tensor, num_frames=2)
    assert {shape[1:] for shape in module.shapes} == {(2, 3, 4, 4)}


def test_what_cannot_be_evaluated_is_named() -> None:
    with pytest.raises(M2raapError, match="dict .*encode_text .*encode_video or encode_image"):
        ExternalModel({})
    with pytest.raises(M2raapError, match="`preprocess`"):
        ExternalModel(ImageOnly())
    wrong = ByPictures()
    wrong.encode_text = lambda texts: np.zeros((1, 3))  # type: ignore[method-assign]
    with pytest.raises(M2raapError, match=r"encode_text .*\(1, 3\).*\(2, E\)"):
        ExternalModel(wrong).texts(["a", "b"])
    for value in (
        {"text_embeds": 1},
        (torch.ones(2, 3), None),
        [["a"] * 3] * 2,
        np.ones((2, 3)) * 1j,
        torch.ones(2, 3) * 1j,
    ):
        wrong.encode_text = lambda texts, value=value: value  # type: ignore[method-assign]
        with pytest.raises(M2raapError, match=rf"encode_text gave a {type(value).__name__} .*\(2, E\)"):
            ExternalModel(wrong).texts(["a", "b"])


def test_images_have_the_precision_of_the_weights() -> None:
    adapter = ExternalModel(ByTensors().bfloat16(), as_tensor)
    assert adapter._on_device(torch.ones(1, 3)).dtype is torch.bfloat16
    assert adapter._on_device(torch.ones(1, 3, dtype=torch.long)).dtype is torch.long  # token ids


class ImageOnly:
    def encode_image(self, images: Any) -> Any: ...

    def encode_text(self, texts: Any) -> Any: ...
