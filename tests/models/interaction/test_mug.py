"""Mug against a twin written pair by pair, token by token, from method 4.1."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.models.mug import TAU, MugForm, mug_pairs, mug_scores


def units(*shape: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return torch.nn.functional.normalize(vectors, dim=-1)


def masks(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Each row keeps its first n, n >= 1: padding stands behind."""
    lengths = torch.randint(1, columns + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(columns) < lengths[:, None]


def literal(tokens: torch.Tensor, frames: torch.Tensor, form: MugForm) -> torch.Tensor:
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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.sampled_from(["simple", "full"]))
def test_equals_the_literal_twin(seed: int, length: int, num_frames: int, form: MugForm) -> None:
    tokens, frames = units(3, length, 8, seed=seed), units(2, num_frames, 8, seed=seed + 1)
    token_mask, frame_mask = masks(3, length, seed), masks(2, num_frames, seed + 1)
    actual = mug_scores(tokens, token_mask, frames, frame_mask, form)
    for a in range(3):
        for b in range(2):
            expected = literal(tokens[a][token_mask[a]], frames[b][frame_mask[b]], form)
            assert abs(float(actual[a, b]) - float(expected)) < 1e-5
    pairs = mug_pairs(tokens[:2], token_mask[:2], frames, frame_mask, form)
    torch.testing.assert_close(pairs, actual[:2].diagonal(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", ["simple", "full"])
def test_blocks_change_neither_scores_nor_gradients(form: MugForm) -> None:
    tokens, frames = units(5, 4, 8, seed=1).requires_grad_(), units(6, 3, 8, seed=2).requires_grad_()
    given_masks = masks(5, 4, 1), masks(6, 3, 2)
    actual = []
    for block_bytes in (1, 2**30):
        scores = mug_scores(tokens, given_masks[0], frames, given_masks[1], form, block_bytes)
        gradients = torch.autograd.grad((scores * torch.arange(30).reshape(5, 6)).sum(), [tokens, frames])
        actual.append([scores.detach(), *gradients])
    for one, other in zip(*actual, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["simple", "full"])
def test_padding_never_takes_part(form: MugForm) -> None:
    tokens, frames = units(2, 6, 8, seed=1), units(2, 4, 8, seed=2)
    token_mask, frame_mask = masks(2, 6, 4), masks(2, 4, 5)
    scores = mug_scores(tokens, token_mask, frames, frame_mask, form)
    tokens[~token_mask] = 9.0
    frames[~frame_mask] = -9.0
    torch.testing.assert_close(mug_scores(tokens, token_mask, frames, frame_mask, form), scores)


def test_a_true_similarity_of_zero_is_no_padding() -> None:
    tokens = torch.eye(4)[None, :2]
    frames = torch.eye(4)[None, 1:3]
    both = torch.ones(1, 2, dtype=torch.bool)
    expected = literal(tokens[0], frames[0], "simple")
    assert abs(float(mug_scores(tokens, both, frames, both)) - float(expected)) < 1e-6
