"""Which weights learn, and their learning rates over the steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.rprop import IRpropPlus
from m2raap.core.errors import M2raapError
from m2raap.models.losses import BIASED
from m2raap.models.video_clip import VideoCLIP


def choose_trained(model: VideoCLIP, cfg: AdaptConfig) -> None:
    """Sets requires_grad: of new modules, last vision layers, text tower and temperature, as the settings say.

    Raises M2raapError where the backbone has fewer vision layers than adapt.train_vision_layers.
    """
    backbone = model.backbone
    vision, layers = backbone.vision, cfg.train_vision_layers
    if layers > backbone.num_layers:
        raise M2raapError(
            f"adapt.train_vision_layers is {layers}, and the backbone has {backbone.num_layers} vision layers: lower it"
        )
    backbone.requires_grad_(False)
    model.temporal.requires_grad_(True)
    if model.acg is not None:
        model.acg.requires_grad_(True)
    if model.interaction is not None:
        model.interaction.requires_grad_(True)
    if layers == backbone.num_layers:
        vision.visual.requires_grad_(True)
        for part in vision.tail():
            part.requires_grad_(True)
    elif layers:
        for part in (*vision.blocks[-layers:], *vision.tail()):
            part.requires_grad_(True)
    if cfg.train_text:
        of_vision = [vision.visual, *vision.tail()]
        inside_vision = {id(p) for m in of_vision for p in (m.parameters() if isinstance(m, nn.Module) else [m])}
        for p in backbone.clip.parameters():
            if id(p) not in inside_vision:
                p.requires_grad_(True)
    backbone.logit_scale.requires_grad_(cfg.learn_temperature)
    if (bias := getattr(backbone.clip, "logit_bias", None)) is not None:
        bias.requires_grad_(cfg.objective in BIASED)


def parameter_groups(
    model: VideoCLIP, cfg: AdaptConfig, bias: nn.Parameter | None = None, modules: nn.Module | None = None
) -> list[dict[str, Any]]:
    """AdamW groups named backbone, new, gate, each in a decayed and an undecayed part; empty ones left out.

    Weights of fewer than two dimensions (norms, biases, scalars) have no decay, and embeddings only with decay_embeddings.
    With layer_decay the backbone, and LoRA's updates of it, have a group for every distance from the features. `bias`, of
    the objective, and a learnt temperature are in the group gate: at the rate of a tower a scalar would hardly move.
    `modules`, which only the loss reads, are in the group new.
    """
    rates = {"backbone": cfg.lr, "new": cfg.lr_new, "gate": cfg.lr_gate}
    distances = layer_distances(model) if cfg.layer_decay < 1 else {}
    embeddings = _embeddings(model)
    parts: dict[tuple[str, int, bool], list[nn.Parameter]] = {}
    if bias is not None and all(bias is not p for p in model.parameters()):
        parts["gate", 0, False] = [bias]
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        last = name.rsplit(".", 1)[-1]
        is_lora = ".lora_" in name
        is_new = name.startswith(("temporal.", "interaction.")) or is_lora
        of_interaction = name.startswith("interaction.") and p.ndim == 0
        is_scalar = last.endswith("gate") or last in ("logit_bias", "logit_scale") or of_interaction
        kind = "gate" if is_scalar else "new" if is_new else "backbone"
        distance = distances.get(id(p), 0) if kind == "backbone" or is_lora else 0
        is_decayed = cfg.decay_embeddings if id(p) in embeddings else p.ndim >= 2
        parts.setdefault((kind, distance, is_decayed), []).append(p)
    for p in modules.parameters() if modules is not None else ():
        parts.setdefault(("new", 0, p.ndim >= 2), []).append(p)
    return [
        {
            "params": params,
            "name": kind,
            "base_lr": rates[kind] * cfg.layer_decay**distance,
            "weight_decay": cfg.weight_decay * decayed,
        }
        for (kind, distance, decayed), params in sorted(
            parts.items(), key=lambda part: (list(rates).index(part[0][0]), part[0][1], not part[0][2])
        )
    ]


def _embeddings(model: VideoCLIP) -> set[int]:
    """Ids of the embeddings of tokens, positions, the class and time: tables, and parameters by the names that libraries use."""
    names = ("positional_embedding", "class_embedding", "pos_embed", "cls_token", "time", "position")
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    named = [p for name, p in model.named_parameters() if name.rsplit(".", 1)[-1] in names]
    return {id(p) for p in (*tables, *named)}


def layer_distances(model: VideoCLIP) -> dict[int, int]:
    """Id of a backbone weight -> 0 behind the last layer of its tower, 1 in that layer, ..., layers + 1 before the first."""
    backbone = model.backbone
    vision = backbone.vision
    distances: dict[int, int] = {}
    if vision.layered:
        distances |= {id(p): vision.num_layers + 1 for p in vision.visual.parameters()}
        for index, block in enumerate(vision.blocks):
            distances |= {id(p): vision.num_layers - index for p in block.parameters()}
    for part in vision.tail():
        distances |= {id(p): 0 for p in (part.parameters() if isinstance(part, nn.Module) else [part])}
    of_vision = {id(module) for module in vision.visual.modules()}
    towers = [m for m in backbone.text.tower.modules() if isinstance(m, nn.ModuleList) and id(m) not in of_vision]
    layers = list(max(towers, key=len)) if towers else []
    for name, p in backbone.text.tower.named_parameters():
        if id(p) not in distances and "embed" in name:
            distances[id(p)] = len(layers) + 1
    for index, layer in enumerate(layers):
        distances |= {id(p): len(layers) - index for p in layer.parameters()}
    return distances


def make_optimiser(
    model: VideoCLIP, cfg: AdaptConfig, bias: nn.Parameter | None = None, modules: nn.Module | None = None
) -> torch.optim.Optimizer:
    """AdamW; with full_batch iRProp+, whose first steps are as long as the learning rates."""
    groups = parameter_groups(model, cfg, bias, modules)
    if cfg.full_batch:
        return IRpropPlus([group | {"first_step": group["base_lr"]} for group in groups])
    return torch.optim.AdamW(groups, lr=0.0, betas=cfg.betas, eps=1e-8, fused=True)


def lr_multiplier(step: int, steps: int, warmup: float, floor: float) -> float:
    """Factor of the peak learning rate at step 1 .. steps: linear rise over the warm-up, then half a cosine down to `floor`.

    `warmup` is a share of the steps, from 0 to below 1, so that the rise always ends before the last step.
    """
    # Of N steps, k / N are k: the product of the two may fall short of it by rounding.
    warmup_steps = min(steps - 1, int(warmup * steps + 1e-9))
    if step <= warmup_steps:
        return step / warmup_steps
    done = (step - warmup_steps) / (steps - warmup_steps)
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


def set_rates(optimiser: torch.optim.Optimizer, multiplier: float) -> dict[str, float]:
    """Sets the rates of a step. Returns the largest of each kind of weights, by name, for the log."""
    rates: dict[str, float] = {}
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * multiplier
        rates[group["name"]] = max(rates.get(group["name"], 0.0), group["lr"])
    return rates
