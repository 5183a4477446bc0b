"""The logs of a training: train.jsonl, whose lines a resumed run writes again bit by bit, and timings.jsonl."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import torch
from torch import Tensor

from m2raap.adapt.checkpoint import Progress
from m2raap.adapt.trackers import Tracker
from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use


class Logs:
    """The two files in `out`, each line written to the file as it comes, and the trackers. Only the main process has them."""

    def __init__(self, out: Path, progress: Progress, trackers: list[Tracker]) -> None:
        """Opens the files. train.jsonl is cut to its length at the checkpoint that the run resumes from."""
        path = out / "train.jsonl"
        _refuse_other_log(path, progress.log_bytes)
        self.train: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self.train.truncate(progress.log_bytes)
        self.train.seek(progress.log_bytes)
        self.timings: TextIO = (out / "timings.jsonl").open("a", encoding="utf-8")
        self.trackers = trackers

    def write(self, line: dict[str, Any]) -> None:
        """Adds a line to train.jsonl, and its numbers to the trackers."""
        self.train.write((json.dumps(line) + "\n").encode())
        self.train.flush()
        self._track(line)

    def write_timing(self, line: dict[str, Any]) -> None:
        """Adds a line to timings.jsonl, and the numbers of a step to the trackers."""
        self.timings.write(json.dumps(line) + "\n")
        self.timings.flush()
        if "step" in line:
            self._track(line)

    def _track(self, line: dict[str, Any]) -> None:
        numbers: dict[str, float] = {}
        for name, value in line.items():
            for part, number in value.items() if isinstance(value, dict) else [("", value)]:
                if name != "step" and number is not None:  # the gradient norm is None where fp16 skipped the step
                    numbers[f"{name}/{part}" if part else name] = number
        for tracker in self.trackers:
            tracker.add(line["step"], numbers)

    def sync(self) -> int:
        """Writes train.jsonl to the disk. Returns its length in bytes."""
        self.train.flush()
        os.fsync(self.train.fileno())
        return self.train.tell()

    def close(self) -> None:
        for file in (self.train, self.timings, *self.trackers):
            file.close()


def _refuse_other_log(path: Path, num_bytes: int) -> None:
    """Raises M2raapError where the log does not begin with the `num_bytes` bytes of lines that a checkpoint knows."""
    known = b""
    if path.exists():
        with path.open("rb") as file:
            known = file.read(num_bytes)
    try:
        if len(known) == num_bytes and all(isinstance(json.loads(line), dict) for line in known.splitlines()):
            return
    except ValueError:
        pass
    raise M2raapError(
        f"{path}: is not the log of the checkpoints in {path.parent / 'scratch'}: restore it, or remove the folder "
        f"{path.parent} to train again from the start"
    )


class LateNumbers:
    """Numbers on a device, read without waiting for what the device was given to do after them."""

    def __init__(self, numbers: dict[str, Tensor | float]) -> None:
        self._names = list(numbers)
        values = [value.detach() if isinstance(value, Tensor) else torch.tensor(value) for value in numbers.values()]
        device = next((value.device for value in values if value.device.type == "cuda"), None)
        self._event: torch.cuda.Event | None = None
        if device is None:
            self._values = [float(value) for value in values]
            return
        on_device = torch.stack([value.double().to(device) for value in values])
        self._host = torch.empty(on_device.shape, dtype=torch.float64, pin_memory=True)
        self._host.copy_(on_device, non_blocking=True)
        self._event = torch.cuda.Event()
        # The current stream is that of the current device, which may be another GPU.
        self._event.record(torch.cuda.current_stream(device))

    def read(self) -> dict[str, float]:
        if self._event is not None:
            self._event.synchronize()
            self._values = self._host.tolist()
        return dict(zip(self._names, self._values, strict=True))


@dataclass(frozen=True)
class DoneStep:
    """A step that the device has been given, and the numbers to log of it. `skips`: whether fp16 may leave out a step."""

    number: int
    rates: dict[str, float]
    multiplier: float
    numbers: LateNumbers
    skips: bool

    def line(self) -> dict[str, Any]:
        """Its line in train.jsonl. Raises M2raapError where loss or gradient are not finite."""
        numbers = self.numbers.read()
        loss, norm = numbers["loss"], numbers["grad_norm"]
        terms = _under("terms", numbers)
        if not math.isfinite(loss):
            named = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
            raise M2raapError(
                f"the loss at step {self.number} is {loss} ({named}): lower adapt.lr, adapt.lr_new or adapt.lr_gate, or set "
                f"adapt.precision to fp32{code_in_use()}"
            )
        # In fp16 a gradient overflows where the loss was scaled too much: the scaler leaves the step out and halves its scale.
        if not math.isfinite(norm) and not self.skips:
            raise M2raapError(
                f"the gradient at step {self.number} is not finite: lower adapt.lr, adapt.lr_new or adapt.lr_gate, or set "
                "adapt.precision to fp32"
            )
        return {
            "step": self.number,
            "loss": loss,
            "terms": terms,
            "lr_multiplier": self.multiplier,
            "lr": self.rates,
            "grad_norm": norm if math.isfinite(norm) else None,
            "gates": _under("gates", numbers),
            **({"harmonize": harmony} if (harmony := _under("harmonize", numbers)) else {}),
        }


def _under(group: str, numbers: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix(f"{group}/"): value for name, value in numbers.items() if name.startswith(f"{group}/")}
