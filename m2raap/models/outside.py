"""What code from outside of the package returns: a tensor of another shape would be broadcast, and give figures all the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.core.extension import code_in_use


def expect_floats(value: Any, shape: Sequence[int], name: str, key: str) -> Tensor:
    """`value`, a tensor of floats of this shape. `name`: of the extension, `key`: the setting that names it.

    Raises M2raapError naming both, the file and what was returned.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) == tuple(shape):
        return value
    returned = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    expected = f"floats of shape {tuple(shape)}" if shape else "one float in a tensor"
    raise M2raapError(f"{key}: {name} returns {returned}, and has to return {expected}{code_in_use()}")


def expect_numbers(gates: Any, name: str, key: str) -> dict[str, float]:
    """`gates`, what gates() of an extension returned: a number for each name. Raises M2raapError as `expect_floats`."""
    if isinstance(gates, dict) and all(isinstance(value, int | float) for value in gates.values()):
        return gates
    raise M2raapError(f"{key}: gates() of {name} has to return a number for each name, for the log{code_in_use()}")
