"""The interactions by name. To add another: a config with a `name` in models/config.py, and a line of INTERACTIONS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from m2raap.core.config import build
from m2raap.core.errors import UsageError
from m2raap.core.extension import create, load
from m2raap.models.config import AnyInteraction, ExtensionInteractionConfig
from m2raap.models.interaction.caption_guided import CaptionGuidedMug
from m2raap.models.interaction.fine import Fine
from m2raap.models.interaction.mug import Mug
from m2raap.models.interaction.pairs import Pairs
from m2raap.models.interaction.units import NEEDS, Need
from m2raap.models.outside import expect_floats, expect_numbers

# Each takes its config, the size of the common space, and the key of its settings, for messages.
INTERACTIONS: dict[str, Callable[[Any, int, str], nn.Module]] = {
    "mug": Mug,
    "caption_guided_mug": CaptionGuidedMug,
    "fine": Fine,
}


def build_interaction(cfg: AnyInteraction, embed_dim: int, key: str = "adapt.interaction") -> nn.Module:
    """The module that `cfg` describes; `key` is the key of the settings. Raises UsageError for faults of code from outside."""
    if not isinstance(cfg, ExtensionInteractionConfig):
        return INTERACTIONS[cfg.name](cfg, embed_dim, key)
    cls = load(cfg.name, f"{key}.name")
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):  # a saved model may name it: nothing else is called
        raise UsageError(f"{key}.name: {cfg.name} is no class of torch.nn.Module")
    config = getattr(cls, "Config", None)
    options = build(config, cfg.options, f"{key}.options") if config else cfg.options
    module = create(cfg.name, f"{key}.name", ("needs", "forward", "gates"), options, embed_dim)
    needs: Any = module.needs
    if not isinstance(needs, (set, frozenset, list, tuple)):
        raise UsageError(f"{key}.name: {cfg.name}: needs is a set of {', '.join(NEEDS)}, and {needs!r} is none")
    if unknown := sorted(map(str, set(needs) - set(NEEDS))):
        raise UsageError(f"{key}.name: {cfg.name} needs '{unknown[0]}', and there are {', '.join(NEEDS)}")
    return Outside(module, cfg.name, f"{key}.name")


class Outside(nn.Module):
    """An interaction from outside of the package, whose scores are checked."""

    def __init__(self, module: Any, name: str, key: str) -> None:
        super().__init__()
        self.module, self.name, self.key = module, name, key
        self.needs: frozenset[Need] = frozenset(module.needs)

    def forward(self, pairs: Pairs) -> Tensor:
        return expect_floats(self.module(pairs), pairs.shape, self.name, self.key)

    def gates(self) -> dict[str, float | Tensor]:
        return dict(expect_numbers(self.module.gates(), self.name, self.key))
