"""Low-rank updates of the backbone's linear layers (LoRA, arXiv 2106.09685) by peft; merged before the model is saved.

Left out: the attention of open_clip's own transformers. It is one nn.MultiheadAttention, to whose weight peft adds the update
before every call and subtracts it afterwards, so that rounding changes the frozen weights and a resumed run would differ.
"""

from __future__ import annotations

import torch
from torch import nn

from m2raap.adapt.config import LoraConfig
from m2raap.core.errors import M2raapError
from m2raap.models.video_clip import VideoCLIP


def add_lora(model: VideoCLIP, cfg: LoraConfig, seed: int) -> None:
    """Adds updates that learn to the linear layers of the backbone that would learn, and freezes the rest of the backbone.

    The temperature learns as before. Raises M2raapError where peft is missing or no layer fits.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError:
        raise M2raapError("adapt.lora needs peft, which is not installed: pip install 'm2raap[lora]'") from None
    backbone = model.backbone
    learns_temperature = backbone.logit_scale.requires_grad
    inside = {id(m.out_proj) for m in backbone.modules() if isinstance(m, nn.MultiheadAttention)}
    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside and module.weight.requires_grad
    ]
    names = [n for n in linear if cfg.targets is None or n.rsplit(".", 1)[-1] in cfg.targets]
    if not names:
        known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})) or "none"
        raise M2raapError(
            f"adapt.lora.targets: no linear layer that learns has one of these names; those that learn: {known}. Correct them, "
            "or let more layers learn by adapt.train_text and adapt.train_vision_layers"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = PeftConfig(r=cfg.rank, lora_alpha=cfg.alpha, target_modules=names)  # type: ignore[arg-type]  # a list is taken too
        inject_adapter_in_model(settings, backbone)  # which freezes everything else in it
    backbone.logit_scale.requires_grad_(learns_temperature)


def refuse_unreached(model: VideoCLIP) -> None:
    """Call it after a backward pass. Raises M2raapError where an update has no gradient.

    This happens where the library reads the weight of a layer without calling the layer.
    """
    for name, p in model.backbone.named_parameters():
        if ".lora_B." in name and p.grad is None:
            raise M2raapError(
                f"adapt.lora: the update of {name.split('.lora_B.')[0]} has no effect in this backbone: leave it out of "
                "adapt.lora.targets"
            )


def merge_lora(model: VideoCLIP) -> None:
    """Adds the updates to the weights and removes peft's layers, so that the model has its usual modules."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.backbone.named_modules()):
        if isinstance(module, LoraLayer) and isinstance(module, nn.Module):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), last, module.get_base_layer())
