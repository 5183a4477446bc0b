"""Writes weights as a safetensors file, with one clear error for a full disk; refuses weights that are no numbers."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor, nn

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_error


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Writes the tensors to `path`. Raises M2raapError naming the file where it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(weights, path)
    except OSError as error:
        raise write_error(path, error) from None
    except SafetensorError as error:  # its text ends with the number that the system gave
        number = re.search(r"os error ([0-9]{1,4})", str(error))
        if number is None:
            raise
        raise write_error(path, OSError(int(number[1]), os.strerror(int(number[1])))) from None


def check_finite(subject: str, model: nn.Module, advice: str) -> None:
    """Raises M2raapError naming the first parameter that holds NaN or infinity. `subject` begins the message."""
    for name, value in model.named_parameters():
        if not bool(value.isfinite().all()):
            raise M2raapError(f"{subject}: {name} holds NaN or infinity, so its vectors are useless: {advice}")
