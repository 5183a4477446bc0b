import math

import pytest
import torch
import torch.nn.functional as F

from m2raap.models.losses import (
    cosine_logits,
    direction_contrast,
    info_nce,
    info_nce_multi,
    owned_mask,
    sigmoid,
    start_bias,
)


def by_hand(video: torch.Tensor, text: torch.Tensor, scale: float, twins: torch.Tensor, multi: bool) -> float:
    size, total = len(video), 0.0
    for a, b, mask in ((video, text, twins), (text, video, twins.T)):
        for i in range(size):
            logit = [scale * sum(float(x) * float(y) for x, y in zip(a[i], b[j], strict=True)) for j in range(size)]
            kept = [j for j in range(size) if multi or j == i or not mask[i, j]]
            log_sum = math.log(sum(math.exp(logit[j]) for j in kept))
            targets = [j for j in range(size) if mask[i, j]] if multi else [i]
            total -= sum(logit[j] - log_sum for j in targets) / len(targets)
    return total / (2 * size)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objective", [info_nce, info_nce_multi])
def test_equals_the_sum_by_hand(seed: int, objective: object) -> None:
    generator = torch.Generator().manual_seed(seed)
    video, text = (F.normalize(torch.randn(6, 4, generator=generator), dim=-1) for _ in range(2))
    twins = torch.eye(6, dtype=torch.bool) | (torch.rand(6, 6, generator=generator) < 0.3)  # not symmetric
    expected = by_hand(video, text, 7.0, twins, objective is info_nce_multi)
    assert float(objective(cosine_logits(video, text, 7.0), twins).mean()) == pytest.approx(expected, abs=1e-5)  # type: ignore[operator]


def test_without_twins_the_objectives_agree_with_open_clips_loss() -> None:
    from open_clip import ClipLoss

    video, text = (F.normalize(torch.randn(8, 16), dim=-1) for _ in range(2))
    scale = torch.tensor(20.0)
    for objective in (info_nce, info_nce_multi):
        torch.testing.assert_close(
            objective(cosine_logits(video, text, scale), torch.eye(8, dtype=torch.bool)).mean(),
            ClipLoss()(video, text, scale),
        )


def test_sigmoid_is_open_clips_and_leaves_twins_out() -> None:
    from open_clip.loss import SigLipLoss

    video, text = (F.normalize(torch.randn(5, 16), dim=-1) for _ in range(2))
    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    logits = cosine_logits(video, text, scale) + bias
    alone = torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(sigmoid(logits, alone).mean(), SigLipLoss()(video, text, scale, bias))
    twins = owned_mask("abacd", {"a": [0, 2], "b": [1], "c": [3], "d": [4]})
    without = (
        float(sigmoid(logits, alone).mean())
        - sum(math.log1p(math.exp(float(logits[i, j]))) for i, j in ((0, 2), (2, 0))) / 5
    )
    assert float(sigmoid(logits, twins).mean()) == pytest.approx(without, abs=1e-5)


def test_the_bias_starts_where_one_wrong_pair_a_row_is_expected() -> None:
    logits = torch.full((33, 33), 24.0) + 5 * torch.eye(33)
    wrong = torch.sigmoid(logits + start_bias(logits))[~torch.eye(33, dtype=torch.bool)]
    assert float(wrong.sum()) / 33 == pytest.approx(1.0, abs=0.05)


def test_whoever_owns_a_text_is_no_negative_of_it() -> None:
    mask = owned_mask(["a", "b", "a", "c"], {"a": [0, 2], "b": [1], "c": [1, 3], "drawn by none": [0]})
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = True  # clip 1 has "c" too, but clip 3 does not have "b"
    assert torch.equal(mask, expected)


def test_a_twin_pushes_nothing_away() -> None:
    video, text = torch.eye(3), torch.eye(3)
    text = text.clone().requires_grad_()
    twins = owned_mask("xxy", {"x": [0, 1], "y": [2]})
    info_nce(cosine_logits(video, text, 5.0), twins).mean().backward()
    assert text.grad is not None
    assert text.grad[1, 0] == 0.0 and text.grad[2, 0] > 0.0


def test_direction_contrast_against_a_loop_and_its_bounds() -> None:
    generator = torch.Generator().manual_seed(5)
    video, backwards, text = (
        torch.nn.functional.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(3)
    )
    expected = 0.0
    for v, r, t in zip(video, backwards, text, strict=True):
        pair = torch.stack([v @ t, r @ t]) * 20.0
        expected -= float(pair.log_softmax(0)[0]) / 6
    assert abs(float(direction_contrast(video, backwards, text, 20.0).mean()) - expected) < 1e-5
    same = direction_contrast(video, video, text, 20.0)
    assert torch.allclose(same, torch.full((6,), math.log(2)), atol=1e-6)
