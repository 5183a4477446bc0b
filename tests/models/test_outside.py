"""What a user's module, loss, matching or backbone returns is looked at, and a wrong one is refused with the file's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from m2raap.core import extension
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.config import ExtensionTemporalConfig, MugConfig
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits, TextUnits
from m2raap.models.losses import objective_of
from m2raap.models.video_clip import VideoCLIP
from m2raap.retrieval.embeddings import Embeddings

CODE = """
import torch

class Module(torch.nn.Module):
    layers_used = 1
    def __init__(self, options, backbone):
        super().__init__()
        self.options = options
    def compact(self, tokens):
        return tokens[:, :, :1]
    def forward(self, levels, features, mask):
        return eval(self.options["returns"])
    def gates(self):
        return {"a": "x"}

def average(logits, twins):
    return logits.diagonal().mean()

def number(logits, twins):
    return 1.0

def all_scores(similar, tokens, frames):
    return similar
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_returns.py").write_text(CODE)
    with extension.code_allowed(True):
        yield tmp_path / "mine_returns.py"


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ("features[:, :1]", r"\(2, 1, 32\).*\(2, 3, 32\)"),
        ("features.mean(1)", r"\(2, 32\)"),
        ("features[..., :5]", r"\(2, 3, 5\)"),
        ("(features, features)", "tuple"),
        ("features.detach().numpy()", "ndarray"),
        ("features > 0", "torch.bool"),
    ],
)
@torch.no_grad()
def test_a_temporal_module_returns_a_vector_a_frame(backbone: Backbone, file: Path, returns: str, words: str) -> None:
    cfg = ExtensionTemporalConfig(name="python:mine_returns:Module", options={"returns": returns})
    model, frames = VideoCLIP(backbone, cfg), torch.zeros(2, 3, 3, 32, 32)
    with pytest.raises(M2raapError, match=rf"adapt.temporal.name: {cfg.name} .*{words}.*{file}"):
        model.encode_video(frames)
    with pytest.raises(M2raapError, match=rf"gates\(\) of {cfg.name}.*{file}"):
        model.gates()


def test_a_loss_is_one_number_a_pair_and_so_is_a_matching(file: Path) -> None:
    for name, words in (("average", r"\(\).*\(4,\)"), ("number", "float")):
        loss = objective_of(f"python:mine_returns:{name}")
        with pytest.raises(M2raapError, match=rf"adapt.objective: python:mine_returns:{name} .*{words}.*{file}"):
            loss(torch.zeros(4, 4), torch.eye(4, dtype=torch.bool))
    here, there = torch.ones(2, 5, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(M2raapError, match=rf"adapt.interaction.form.*\(2, 3, 5, 4\).*\(2, 3\).*{file}"):
        mine = build_interaction(MugConfig(form="python:mine_returns:all_scores"), 8)
        texts = TextUnits(torch.zeros(2, 8), torch.zeros(2, 5, 8), here)
        score_matrix(mine, texts, ClipUnits(torch.zeros(3, 8), torch.zeros(3, 4, 8), there))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (np.full((2, 4), np.nan), "text vector of t0 holds NaN .*2 such"),
        (np.stack([np.ones(4), np.zeros(4)]), "text vector of t1 .*all zero"),
        (np.ones((2, 3)), "text vectors have 3 numbers, and the video vectors 4"),
    ],
)
def test_vectors_that_no_search_can_use_are_not_written(file: Path, text: np.ndarray, words: str) -> None:
    objective_of("python:mine_returns:number")
    embeddings = Embeddings(np.eye(4)[:2], text, ["v0", "v1"], ["t0", "t1"], ["v0", "v1"], ["en"] * 2)
    with pytest.raises(M2raapError, match=f"{words}.*{file}"):
        embeddings.save(file.parent)
    assert not list(file.parent.glob("*.npy"))
