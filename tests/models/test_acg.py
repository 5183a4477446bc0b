"""ACG against loops over clips and frames, its start, its masks, and the loss over frames and captions."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from m2raap.models.acg import Acg, agreement, frame_caption_loss
from m2raap.models.config import AcgConfig


def units(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def opened(mix: bool = True) -> Acg:
    acg = Acg(AcgConfig(tau=0.2, mix=mix))
    with torch.no_grad():
        for value, p in zip((0.7, -0.4, 0.5, 0.3), acg.parameters(), strict=False):
            p.fill_(value)
    return acg


def literal(acg: Acg, v: torch.Tensor, c: torch.Tensor, there: list[bool]) -> torch.Tensor:
    """One clip of real frames (T, E) with captions where `there`."""
    frames, spoken = range(len(v)), [i for i in range(len(v)) if there[i]]
    inter = {i: float(v[i] @ c[i]) for i in spoken}
    words = {i: sum(float(c[i] @ c[j]) for j in spoken if j != i) / max(1, len(spoken) - 1) for i in spoken}
    scores = []
    for i in frames:
        intra = sum(float(v[i] @ v[j]) for j in frames if j != i) / max(1, len(v) - 1)
        a = inter.get(i, sum(inter.values()) / max(1, len(spoken)))
        b = words.get(i, sum(words.values()) / max(1, len(spoken)))
        scores.append(float(acg.inter_gate) * a + float(acg.intra_gate) * intra + float(acg.words_gate) * b)
    w = torch.softmax(torch.tensor(scores) / acg.cfg.tau, 0)
    mixed = [v[i] + (float(acg.mix_gate) * c[i] if there[i] else 0.0) for i in frames]
    return F.normalize(sum(w[i] * mixed[i] for i in frames), dim=-1)


@torch.no_grad()
def test_equals_the_literal_twin() -> None:
    acg = opened()
    v, c = units(4, 5, 8, seed=1), units(4, 5, 8, seed=2)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4, [True] * 5])
    there = torch.tensor([[True] * 5, [True, False, True, True, True], [False] * 5, [False] * 4 + [True]])
    actual = acg(v * 3.0, mask, (c, there))
    for b in range(4):
        n = int(mask[b].sum())
        expected = literal(acg, v[b, :n], c[b, :n], there[b, :n].tolist())
        torch.testing.assert_close(actual[b], expected, atol=1e-5, rtol=0)


def test_captions_get_no_gradient_and_frames_do() -> None:
    acg, v, c = opened(), units(2, 4, 8, seed=1).requires_grad_(), units(2, 4, 8, seed=2).requires_grad_()
    mask = torch.ones(2, 4, dtype=torch.bool)
    acg(v, mask, (c, mask))[:, 0].sum().backward()
    assert c.grad is None and v.grad is not None and float(acg.inter_gate.grad) != 0.0


@torch.no_grad()
def test_an_off_topic_frame_loses_weight() -> None:
    acg = Acg(AcgConfig(tau=0.1))
    acg.inter_gate.fill_(1.0)
    v = units(1, 4, 16, seed=1)
    captions = v.clone()
    captions[0, 2] = units(16, seed=9)
    weight = acg.weights(v, torch.ones(1, 4, dtype=torch.bool), (captions, torch.ones(1, 4, dtype=torch.bool)))
    assert weight[0].argmin() == 2 and abs(float(weight.sum()) - 1) < 1e-6


@torch.no_grad()
def test_hidden_frames_and_missing_captions_say_nothing() -> None:
    acg = opened()
    v, c = units(2, 4, 8, seed=1), units(2, 4, 8, seed=2)
    mask, there = torch.tensor([[True, True, True, False]] * 2), torch.tensor([[True, False, True, True]] * 2)
    before = acg(v, mask, (c, there))
    v[:, 3], c[:, 3], c[:, 1] = 5.0, 5.0, 5.0
    torch.testing.assert_close(acg(v, mask, (c, there)), before)


def test_gates_learn_from_the_start() -> None:
    acg = Acg(AcgConfig(mix=True))
    mask = torch.ones(2, 4, dtype=torch.bool)
    video = acg(units(2, 4, 8, seed=1), mask, (units(2, 4, 8, seed=2), mask))
    (video * units(2, 8, seed=3)).sum().backward()
    assert all(p.grad is not None and abs(float(p.grad)) > 1e-6 for p in acg.parameters())


def test_agreement_of_a_single_frame_is_zero() -> None:
    assert agreement(units(1, 1, 4, seed=0), torch.ones(1, 1, dtype=torch.bool)).item() == 0


def test_frame_caption_loss_equals_its_twin() -> None:
    v, c = units(3, 2, 8, seed=1), units(3, 2, 8, seed=2)
    texts = [["a", "b"], ["a", ""], ["d", ""]]
    numbers = np.array([[0, 1], [0, -1], [2, -1]])
    rows = [(0, 0), (0, 1), (1, 0), (2, 0)]
    by_clip = [0.0, 0.0, 0.0]
    for flip in (False, True):
        for i in rows:
            kept = [j for j in rows if j == i or (j[0] != i[0] and texts[j[0]][j[1]] != texts[i[0]][i[1]])]
            pairs = [(j, i) if flip else (i, j) for j in kept]
            logits = [10.0 * float(v[f] @ c[t]) for f, t in pairs]
            own = 10.0 * float(v[i] @ c[i])
            by_clip[i[0]] += (math.log(sum(math.exp(x) for x in logits)) - own) * 3 / len(rows) / 2
    torch.testing.assert_close(frame_caption_loss(v, c, numbers, 10.0), torch.tensor(by_clip))
    assert frame_caption_loss(v, c, np.full((3, 2), -1), 10.0).tolist() == [0.0] * 3
