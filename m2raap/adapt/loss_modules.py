"""The modules that only terms of the loss read. They learn with the model, and leave after training."""

from __future__ import annotations

import torch
from torch import nn

from m2raap.adapt.loss_config import LossConfig
from m2raap.adapt.order_heads import OrderHeads
from m2raap.adapt.sense_towers import SoundTower


class LossModules(nn.Module):
    """Each is None where its term has no weight."""

    def __init__(self, loss: LossConfig, embed_dim: int, seed: int) -> None:
        super().__init__()
        self.order_heads = OrderHeads(embed_dim) if loss.clauses.weight else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.sound_tower = SoundTower(embed_dim) if loss.clip_sound.weight else None
