"""Where the numbers of a training go beside its log: TensorBoard's event files, or a project of Weights & Biases."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any, Protocol

from m2raap.adapt.config import AdaptConfig
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic


class Tracker(Protocol):
    """Takes the numbers of steps, as they are logged."""

    def add(self, step: int, numbers: dict[str, float]) -> None: ...
    def close(self) -> None: ...


def open_trackers(cfg: AdaptConfig, out: Path, step: int) -> list[Tracker]:
    """Those that the settings ask for. `step`: the last step that was done.

    Raises M2raapError where a package is not installed.
    """
    trackers: list[Tracker] = []
    if cfg.tensorboard:
        trackers.append(_TensorBoard(out, step))
    if cfg.wandb is not None:
        trackers.append(_Wandb(cfg, out))
    return trackers


class _TensorBoard:
    def __init__(self, out: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise M2raapError(
                "adapt.tensorboard is true, but tensorboard is not installed: pip install 'm2raap[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, cfg: AdaptConfig, out: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise M2raapError(
                "adapt.wandb names a project, but wandb is not installed: pip install 'm2raap[wandb]'"
            ) from None
        settings: dict[str, Any] = {"project": cfg.wandb, "dir": str(out), "config": cfg.model_dump(mode="json")}
        # A run that goes on after an interruption is the same run there; one of the same settings in another folder is not.
        name = out / "scratch" / "wandb-run"
        if not name.exists():
            write_atomic(name, secrets.token_hex(8).encode())
        run_id = re.sub("[^0-9a-f]", "", name.read_text(errors="replace"))[:16]
        try:
            self._run = wandb.init(id=run_id, name=out.parent.name, resume="allow", **settings)
        except wandb.Error as error:
            raise M2raapError(
                f"adapt.wandb: Weights & Biases refuses the run ({error}); log in with 'wandb login', or set WANDB_MODE=offline"
            ) from None

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._run.log({**numbers, "step": step})

    def close(self) -> None:
        self._run.finish()
