"""The checkpoints of a run: trained weights, state of the optimiser, step, weights to keep, length of the log.

They are written to the disk tensor by tensor, and read by mapping the file into memory, so that neither needs memory of the size
of the model. The last two stay. A run may go on from one with another number of processes.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.core.files import open_atomic

KEPT = 2  # checkpoints that stay
# What `load_tree` raises for a file that is damaged.
DAMAGED = (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError, KeyError)


@dataclass
class Progress:
    """Where a run stands.

    `kept`, one copy of the trained weights: those of the best validation so far, or the mean of `num_averaged` ones; empty
    where the last are kept. `val`: the numbers of the validations `start`, `best` and `last` so far. `highest_N`: the scores
    of the N val clips, of which the mean is the highest so far; more is better.
    """

    step: int = 0
    log_bytes: int = 0
    best_step: int = -1
    kept: dict[str, Tensor] = field(default_factory=dict)
    num_averaged: int = 0
    val: dict[str, dict[str, float]] = field(default_factory=dict)
    highest_N: Tensor | None = None
    bias: float | None = None  # the learnt bias of the objective
    loss_modules: dict[str, Tensor] = field(default_factory=dict)  # no model folder holds them
    loss_scale: dict[str, Any] = field(default_factory=dict)  # the state of the gradient scaler in fp16
    conflict: dict[str, Tensor] = field(default_factory=dict)  # m2raap.adapt.conflict.ConflictMeans.state
    micro_batch: int | None = None  # clips per chunk; less than adapt.micro_batch after memory has run out


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every weight that learns, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """The inverse of `trained_weights`."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def save_checkpoint(
    folder: Path, key: str, model: nn.Module, optimiser: torch.optim.Optimizer, progress: Progress
) -> None:
    """Writes weights, optimiser and progress into `folder`, and removes all checkpoints but the last two.

    `key` is the digest of settings, data and backbone.
    """
    trained = {name: _alone(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
    tree = {"key": key, "trained": trained, "optimiser": optimiser.state_dict(), **vars(progress)}
    save_tree(folder / f"checkpoint-{progress.step:08d}.pt", tree)
    for path in checkpoints(folder)[:-KEPT]:
        path.unlink(missing_ok=True)


def save_tree(path: Path, tree: dict[str, Any]) -> None:
    """Writes tensors and plain values as a whole or not at all. Raises M2raapError for a full disk, as `open_atomic`."""
    with open_atomic(path) as file:
        sink: Any = _Sink(file)
        try:
            torch.save(tree, sink)
        except RuntimeError:
            if sink.error is not None:  # torch hides it behind an error of its own
                raise sink.error from None
            raise


class _Sink:
    """A file that keeps the error of a failed write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def load_tree(path: Path) -> dict[str, Any]:
    """What `save_tree` wrote, mapped into memory; the checksums of the file are compared first, as torch does not.

    Raises OSError, ValueError, RuntimeError or KeyError for a damaged file.
    """
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise ValueError(f"the checksum of {name} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor; a copy where it is part of a larger storage, all of which would be written."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest last."""
    return sorted(path for path in folder.glob("checkpoint-*.pt") if path.stem.removeprefix("checkpoint-").isdecimal())


def load_checkpoint(folder: Path, key: str, model: nn.Module, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Puts weights and the state of the optimiser of the latest checkpoint back, and returns the progress.

    None where there is no checkpoint. Raises M2raapError where the file is damaged or belongs to other settings or data.
    """
    paths = checkpoints(folder)
    if not paths:
        return None
    path = paths[-1]
    try:
        tree = load_tree(path)
        if not isinstance(tree, dict) or not isinstance(tree.get("key"), str):
            raise ValueError("it holds no checkpoint of m2raap")
    except DAMAGED as error:
        raise _damaged(path, error) from None
    if tree.pop("key") != key:
        raise M2raapError(
            f"{path} was written by a run with other settings or other data: remove its folder, or give another --out"
        )
    try:
        put_weights(model, tree.pop("trained"))
        optimiser.load_state_dict(tree.pop("optimiser"))
        return Progress(**tree)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> M2raapError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return M2raapError(
        f"{path}: cannot be read ({reason}); remove it to go on from the checkpoint before it, or from step 0 where there is none"
    )
