"""The towers that are trained together, and their files between two rounds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.optim import choose_trained, parameter_groups
from m2raap.adapt.sense_towers import SIZE, new_tower
from m2raap.core.errors import M2raapError
from m2raap.core.files import replaced_folder
from m2raap.cotrain.config import CotrainConfig
from m2raap.cotrain.heads import Heads
from m2raap.models.families import load_backbone
from m2raap.models.video_clip import VideoCLIP
from m2raap.models.weights_file import save_weights

OTHERS = "others.safetensors"
BACKBONE = "backbone.txt"  # digest of the untrained backbone, by which caches of its frozen layers are known


class Towers(nn.Module):
    """The video tower with its temporal module, and a small tower for each other modality."""

    def __init__(self, clip: VideoCLIP, others: tuple[str, ...]) -> None:
        super().__init__()
        self.clip = clip
        self.others = nn.ModuleDict({name: new_tower(name, clip.backbone.embed_dim) for name in others})

    def sizes(self) -> dict[str, int]:
        """Of each modality the size of its vectors."""
        return {"frames": self.clip.temporal.inner_size} | dict.fromkeys(self.others, SIZE)

    def save(self, folder: Path) -> None:
        """Writes the folder as a whole or not at all."""
        weights = {name: value.detach().cpu().contiguous().clone() for name, value in self.others.state_dict().items()}
        with replaced_folder(folder) as temp:
            self.clip.save(temp / "model")
            (temp / BACKBONE).write_text(self.clip.backbone.digest)
            save_weights(weights, temp / OTHERS)


def new_towers(cfg: CotrainConfig) -> Towers:
    """Towers before any round. Raises M2raapError as `load_backbone`, and for more vision layers than the backbone has."""
    clip = VideoCLIP(load_backbone(cfg.backbone), cfg.temporal, seed=cfg.seed)
    if cfg.train_vision_layers > (most := clip.backbone.num_layers):
        raise M2raapError(
            f"cotrain.train_vision_layers is {cfg.train_vision_layers}, and the backbone has {most} vision layers: lower it"
        )
    _ = clip.backbone.digest  # computed and kept before any weight changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Towers(clip, cfg.others)


def load_towers(folder: Path, others: tuple[str, ...]) -> Towers:
    """The towers that `Towers.save` wrote. Raises M2raapError for damaged files."""
    try:
        towers = Towers(VideoCLIP.load(folder / "model"), others)
        towers.clip.backbone.digest = (folder / BACKBONE).read_text()
        towers.others.load_state_dict(load_file(folder / OTHERS))
    except (OSError, RuntimeError, ValueError, SafetensorError, M2raapError) as error:
        reason = " ".join(str(error).split())[:200]
        raise M2raapError(
            f"{folder}: its towers cannot be read ({reason}); remove it to go on from the round before, or to begin again"
        ) from None
    return towers


def as_adapt(cfg: CotrainConfig) -> AdaptConfig:
    """The settings of readers, caches and rates in the form in which adaptation takes them."""
    shared = (
        "backbone", "temporal", "num_frames", "batch_size", "lr", "lr_new", "weight_decay", "train_vision_layers",
        "cache_limit_gb", "seed",
    )  # fmt: skip
    return AdaptConfig(train_text=False, **{name: getattr(cfg, name) for name in shared})


def make_optimiser(towers: Towers, heads: Heads, cfg: CotrainConfig) -> torch.optim.AdamW:
    """AdamW over the video tower's weights that learn, as in adaptation, and over the other towers and the heads."""
    adapt = as_adapt(cfg)
    choose_trained(towers.clip, adapt)
    groups = parameter_groups(towers.clip, adapt)
    for module in (towers.others, heads):
        for decayed in (True, False):
            weights = [p for p in module.parameters() if (p.ndim >= 2) == decayed]
            rate = {"name": "new", "base_lr": cfg.lr_new, "weight_decay": cfg.weight_decay * decayed}
            groups += [{"params": weights, **rate}] if weights else []
    return torch.optim.AdamW(groups, lr=0.0, betas=adapt.betas, eps=1e-8)
