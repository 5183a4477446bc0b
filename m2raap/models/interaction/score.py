"""The scores of an interaction in bounded memory: of all texts with all clips, and of given pairs.

A texts, B clips, N pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from m2raap.models.config import INTERACTION_BLOCK_BYTES
from m2raap.models.interaction.pairs import Pairs
from m2raap.models.interaction.units import ClipUnits, TextUnits, in_fp32, select
from m2raap.models.mask import has_frames

# Tensors of the size of the similarities that exist at the same time, and bytes of a number.
_COPIES, _FP32_BYTES = 8, 4


def score_matrix(
    interaction: nn.Module, texts: TextUnits, clips: ClipUnits, block_bytes: int = INTERACTION_BLOCK_BYTES
) -> Tensor:
    """Scores (A, B), fp32, of every text with every clip, also under autocast.

    Texts are taken in blocks, and clips, too, where one text with all of them exceeds `block_bytes`; with gradients a block
    is computed again on the way back, so that the similarities of the whole batch never exist at once.
    """
    assert has_frames(clips.mask_BT), "a clip without frames"
    num_texts, num_clips = len(texts.pooled_AE), len(clips.pooled_BE)
    pairs_at_once = max(1, block_bytes // (_COPIES * _FP32_BYTES * numbers_per_pair(interaction, texts, clips)))
    rows, columns = max(1, pairs_at_once // num_clips), min(num_clips, pairs_at_once)

    def block(row: int, column: int) -> Tensor:
        some_texts = in_fp32(select(texts, slice(row, row + rows)))
        some_clips = in_fp32(select(clips, slice(column, column + columns)))
        return _scored(interaction, Pairs(some_texts, some_clips, crossed=True))

    again = torch.is_grad_enabled() and (rows < num_texts or columns < num_clips)
    blocks = [
        torch.cat(
            [
                checkpoint(block, row, column, use_reentrant=False) if again else block(row, column)  # type: ignore[misc]
                for column in range(0, num_clips, columns)
            ],
            dim=1,
        )
        for row in range(0, num_texts, rows)
    ]
    return torch.cat(blocks)


def score_pairs(interaction: nn.Module, texts: TextUnits, clips: ClipUnits) -> Tensor:
    """Scores (N,), fp32, of the i-th text with the i-th clip, for reranking candidates."""
    return _scored(interaction, Pairs(in_fp32(texts), in_fp32(clips), crossed=False))


def numbers_per_pair(interaction: nn.Module, texts: TextUnits, clips: ClipUnits) -> int:
    """Number of similarities of a pair: the parts of a text times those of a clip that the interaction reads."""
    needs: Any = interaction.needs
    parts = {"tokens": texts.tokens_ALE, "phrases": texts.phrases_AXE}
    num_parts = max((part.shape[1] for name, part in parts.items() if name in needs and part is not None), default=1)
    patches = clips.patches_BTPE
    return num_parts * clips.mask_BT.shape[1] * (1 if patches is None else patches.shape[2])


def _scored(interaction: nn.Module, pairs: Pairs) -> Tensor:
    # fp32 also where the towers run in less, because softmaxes are at scales of up to 100.
    with torch.autocast(pairs.clips.mask_BT.device.type, enabled=False):
        return interaction(pairs)
