"""iRProp+: full-batch steps of which only the signs of the gradient count.

Igel and Huesken, 'Improving the Rprop learning algorithm' (2000); what 'Large-Scale Training Framework for Video Annotation' (KDD
2019) trains shared layers with. torch.optim.Rprop is the variant without the undo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class IRpropPlus(torch.optim.Optimizer):
    """For each weight, with s = g_t g_(t-1): s > 0: d = min(up d, largest), w -= sign(g) d; s < 0: d = max(down d, smallest), and
    the previous step of the weight is undone if the loss has risen, and g counts as 0 in the next step; s = 0: w -= sign(g) d.

    The gradients have to be those of the whole batch: of a part of it their signs change by chance.
    """

    def __init__(
        self,
        params: Iterable[Any],
        first_step: float = 1e-3,
        up: float = 1.2,
        down: float = 0.5,
        smallest: float = 1e-6,
        largest: float = 1.0,
    ) -> None:
        super().__init__(
            params, {"first_step": first_step, "up": up, "down": down, "smallest": smallest, "largest": largest}
        )
        self._before = float("inf")  # the loss at the step before

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"loss": self._before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        tree = dict(state_dict)
        self._before = float(tree.pop("loss"))
        super().load_state_dict(tree)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | float | None = None) -> float:  # type: ignore[override]  # takes a loss, too
        """A step by the gradients of a loss, which is given as a number or computed by `closure`."""
        if closure is None:
            raise ValueError("iRProp+ undoes steps after which the loss has risen: give the loss")
        if callable(closure):
            with torch.enable_grad():
                loss = float(closure())
        else:
            loss = float(closure)
        rose = loss > self._before
        self._before = loss
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and group["first_step"] > 0:  # a group with the rate 0 stays as it is
                    _step(p, p.grad, self.state[p], group, rose)
        return loss


def _step(p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any], rose: bool) -> None:
    if not state:
        state["gradient"], state["moved"] = torch.zeros_like(p), torch.zeros_like(p)
        state["size"] = torch.full_like(p, group["first_step"])
    sign = torch.sign(gradient * state["gradient"])
    size = state["size"]
    size.copy_(torch.where(sign > 0, size * group["up"], torch.where(sign < 0, size * group["down"], size)))
    size.clamp_(group["smallest"], group["largest"])
    gradient = torch.where(sign < 0, torch.zeros_like(gradient), gradient)
    move = -torch.sign(gradient) * size
    if rose:
        move = torch.where(sign < 0, -state["moved"], move)
    p.add_(move)
    state["moved"].copy_(move)
    state["gradient"].copy_(gradient)
