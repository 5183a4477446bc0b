"""Mug against a twin written pair by pair, token by token, from method 4.1."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.models.config import MugConfig
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.score import score_matrix
from m2raap.models.interaction.units import ClipUnits, TextUnits
from tests.models.interaction.examples import masks, units

TAU = 100.0


def literal(tokens: torch.Tensor, frames: torch.Tensor, form: str) -> torch.Tensor:
    """One text of real tokens only (L, E) and one clip of real frames only (T, E)."""
    tokens, frames = tokens.double(), frames.double()
    p, q = [], []
    for token in tokens:
        a = torch.softmax(TAU * torch.stack([token @ frame for frame in frames]), 0)
        guided = sum(weight * frame for weight, frame in zip(a, frames, strict=True))
        p.append(guided @ token)
    for frame in frames:
        b = torch.softmax(TAU * torch.stack([token @ frame for token in tokens]), 0)
        guided = sum(weight * token for weight, token in zip(b, tokens, strict=True))
        q.append(guided @ frame)
    p, q = torch.stack(p), torch.stack(q)
    if form == "simple":
        return (torch.softmax(TAU * p, 0) @ p + torch.softmax(TAU * q, 0) @ q) / 2
    text = torch.softmax(TAU * p, 0) @ tokens
    video = torch.softmax(TAU * q, 0) @ frames
    return text @ video


def mug(
    tokens: torch.Tensor, mask: torch.Tensor, frames: torch.Tensor, frame_mask: torch.Tensor, form: str
) -> torch.Tensor:
    module = build_interaction(MugConfig(form=form, start="open"), 8)
    return score_matrix(module, TextUnits(tokens[:, 0], tokens, mask), ClipUnits(frames[:, 0], frames, frame_mask))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.sampled_from(["simple", "full"]))
def test_equals_the_literal_twin(seed: int, length: int, num_frames: int, form: str) -> None:
    tokens, frames = units(3, length, 8, seed=seed), units(2, num_frames, 8, seed=seed + 1)
    token_mask, frame_mask = masks(3, length, seed), masks(2, num_frames, seed + 1)
    actual = mug(tokens, token_mask, frames, frame_mask, form)
    for a in range(3):
        for b in range(2):
            expected = literal(tokens[a][token_mask[a]], frames[b][frame_mask[b]], form)
            assert abs(float(actual[a, b]) - float(expected)) < 1e-5


def test_a_true_similarity_of_zero_is_no_padding() -> None:
    tokens = torch.eye(4)[None, :2]
    frames = torch.eye(4)[None, 1:3]
    both = torch.ones(1, 2, dtype=torch.bool)
    expected = literal(tokens[0], frames[0], "simple")
    assert abs(float(mug(tokens, both, frames, both, "simple")) - float(expected)) < 1e-6
