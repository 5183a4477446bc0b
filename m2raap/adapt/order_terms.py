"""The terms `clauses` and `event_order` of the loss, as losses of the B clips of a batch: 0 where the caption does not split.

The losses of the clips that count are multiplied by B / their number, so that the mean over the batch is the mean over them.
`rows_B3`: of each caption the rows of its two clauses and of the caption with its events exchanged (OrderTexts), -1 where it
has none. B clips, N clips that count, E size of the common space.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.order_heads import OrderHeads
from m2raap.adapt.order_texts import FIRST, SECOND, SWAPPED
from m2raap.models.order_losses import clause_contrast, event_order_contrast


def clause_rows(
    heads: OrderHeads, video_BE: Tensor, text_BE: Tensor, clauses_B2E: Tensor | None, rows_B3: np.ndarray, scale: Tensor
) -> Tensor:
    """(B,) mean of the clause contrast of the video vector and of that of the text vector, both through the same heads.

    `clauses_B2E` may be None where no caption of the batch splits.
    """
    clause_rows_B2 = torch.from_numpy(rows_B3[:, [FIRST, SECOND]]).to(video_BE.device)

    def loss_of(clip_N: Tensor) -> Tensor:
        assert clauses_B2E is not None
        targets = (clauses_B2E[clip_N], clause_rows_B2[clip_N], scale)
        return (
            clause_contrast(heads(video_BE[clip_N]), *targets) + clause_contrast(heads(text_BE[clip_N]), *targets)
        ) / 2

    return _spread(loss_of, rows_B3[:, FIRST] >= 0, video_BE)


def event_order_rows(
    video_BE: Tensor,
    text_BE: Tensor,
    swapped_BE: Tensor | None,
    swapped_text_BE: Tensor | None,
    rows_B3: np.ndarray,
    scale: Tensor,
) -> Tensor:
    """(B,) the 2 x 2 contrast of clip and caption with the clip whose halves and the caption whose events are exchanged.

    The exchanged vectors may be None where no caption of the batch can be exchanged.
    """

    def loss_of(clip_N: Tensor) -> Tensor:
        assert swapped_BE is not None and swapped_text_BE is not None
        return event_order_contrast(
            video_BE[clip_N], swapped_BE[clip_N], text_BE[clip_N], swapped_text_BE[clip_N], scale
        )

    return _spread(loss_of, rows_B3[:, SWAPPED] >= 0, video_BE)


def _spread(loss_of: Callable[[Tensor], Tensor], counts_B: np.ndarray, video_BE: Tensor) -> Tensor:
    """(B,) `loss_of` of the clips that count at their places, times B / N; 0 elsewhere, and only there.

    It has a graph even where no clip counts.
    """
    clip_N = torch.from_numpy(np.flatnonzero(counts_B)).to(video_BE.device)
    nothing_B = video_BE.float().sum(1) * 0.0
    if not len(clip_N):
        return nothing_B
    loss_N = loss_of(clip_N).clamp(min=torch.finfo(torch.float32).tiny)
    return nothing_B.index_add(0, clip_N, loss_N * (len(counts_B) / len(clip_N)))
