"""Units of random texts and clips, with padding, and interactions away from their start."""

from __future__ import annotations

import torch

from m2raap.models.config import AnyInteraction, CaptionGuidedMugConfig, FineConfig, MugConfig
from m2raap.models.interaction.registry import build_interaction
from m2raap.models.interaction.units import ClipUnits, TextUnits

SIZE = 8
ALL: list[AnyInteraction] = [
    MugConfig(),
    MugConfig(form="full", start="open", inverse_temperature=20.0),
    CaptionGuidedMugConfig(),
    CaptionGuidedMugConfig(form="full", add_captions=True, start="open"),
    CaptionGuidedMugConfig(guide=("frames",)),
    CaptionGuidedMugConfig(guide=("captions",), tau_w=0.3, inverse_temperature=10.0),
    CaptionGuidedMugConfig(weights="cross_attention", rank=4, add_captions=True),
    FineConfig(),
    FineConfig(form="fg2", clip_units="patches", text_units="tokens", start="open"),
    FineConfig(form="milnce", tau_a=0.5),
    FineConfig(form="filip", clip_units="patches"),
    FineConfig(form="filip", text_units="tokens", start="open"),
]


def label(cfg: AnyInteraction) -> str:
    return "-".join(str(value) for value in cfg.model_dump(exclude_defaults=True).values()) or cfg.name


def units(*shape: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return torch.nn.functional.normalize(vectors, dim=-1)


def masks(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Each row keeps its first n, n >= 1: padding stands behind."""
    lengths = torch.randint(1, columns + 1, (rows,), generator=torch.Generator().manual_seed(seed))
    return torch.arange(columns) < lengths[:, None]


def texts_of(count: int, seed: int, tokens: int = 5, phrases: int = 3) -> TextUnits:
    return TextUnits(
        units(count, SIZE, seed=seed),
        units(count, tokens, SIZE, seed=seed + 1),
        masks(count, tokens, seed + 2),
        units(count, phrases, SIZE, seed=seed + 3),
        masks(count, phrases, seed + 4),
    )


def clips_of(count: int, seed: int, frames: int = 4, captions: bool = True) -> ClipUnits:
    """The first clip, of several, has no caption."""
    captioned = torch.rand(count, frames, generator=torch.Generator().manual_seed(seed + 5)) < 0.7
    captioned[0] = count == 1
    return ClipUnits(
        units(count, SIZE, seed=seed),
        units(count, frames, SIZE, seed=seed + 1),
        masks(count, frames, seed + 2),
        units(count, frames, SIZE, seed=seed + 3) if captions else None,
        captioned if captions else None,
        units(count, frames, 3, SIZE, seed=seed + 4),
    )


def moved(cfg: AnyInteraction, seed: int = 0) -> torch.nn.Module:
    """The interaction with every weight away from its start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = build_interaction(cfg, SIZE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.3)
    return module
