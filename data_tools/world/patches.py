"""Pictures as a ViT cuts them: side x side patches, numbered row by row."""

from __future__ import annotations

import numpy as np


def patches_to_keep(objects: np.ndarray, side: int, keep: int, rng: np.random.Generator) -> np.ndarray:
    """bool (B, H, W), true on objects -> (B, keep) patch numbers: first all that show an object, then random others."""
    batch, height, width = objects.shape
    on = objects.reshape(batch, side, height // side, side, width // side).any(axis=(2, 4)).reshape(batch, -1)
    order = rng.random(on.shape) - 2 * on
    return np.argsort(order, axis=1)[:, :keep]


def outlines(objects: np.ndarray, side: int) -> np.ndarray:
    """bool (B, H, W) -> (B, patches, 16): how much of each sixteenth of a patch is object."""
    batch, cell = len(objects), objects.shape[1] // side // 4
    parts = objects.reshape(batch, side, 4, cell, side, 4, cell).mean(axis=(3, 6))
    return parts.transpose(0, 1, 3, 2, 4).reshape(batch, side * side, 16).astype(np.float32)


def places(side: int, width: int) -> np.ndarray:
    """Sines and cosines of row and column, (side * side, width): first position embeddings that are alike for neighbours."""
    frequencies = 1.5 / 10 ** (np.arange(width // 4) / (width // 4))
    row, column = (
        grid.ravel()[:, None] * frequencies for grid in np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    )
    return 0.3 * np.concatenate([np.sin(row), np.cos(row), np.sin(column), np.cos(column)], axis=1)


def cosines(filters: int, patch_px: int) -> np.ndarray:
    """First patch filters, float32 (filters, 3, patch_px, patch_px): 2-D cosines, low frequencies first, of grey, red
    against green and blue against yellow. The flat ones are weak, because flat colour is strong in pictures."""
    x = (np.arange(patch_px) + 0.5) * np.pi / patch_px
    waves = np.cos(np.arange(patch_px)[:, None] * x)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    colours = np.array([[1, 1, 1], [1, -1, 0], [-0.5, -0.5, 1]])
    colours /= np.linalg.norm(colours, axis=1, keepdims=True)
    order = sorted(np.ndindex(patch_px, patch_px), key=lambda uv: (uv[0] + uv[1], uv))
    kernels = []
    for n in range(filters):
        u, v = order[n // 3 % len(order)]
        kernels.append((0.3 if u + v == 0 else 1.0) * colours[n % 3][:, None, None] * np.outer(waves[u], waves[v]))
    return np.stack(kernels).astype(np.float32)
