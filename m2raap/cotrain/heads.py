"""The heads that tell the clusters of other modalities from a vector; they leave after training.

B clips.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Heads(nn.Module):
    """For each modality that teaches and each that learns a matrix to the clusters of the teacher, dropped after training."""

    def __init__(self, sizes: dict[str, int], clusters: dict[str, tuple[int, int]]) -> None:
        """`sizes`: of the vectors of each modality. `clusters`: of each its number of coarse and of fine clusters."""
        super().__init__()
        self.coarse = nn.ModuleDict()
        self.fine = nn.ModuleDict()
        for learner, size in sizes.items():
            for teacher, (coarse, fine) in clusters.items():
                if learner != teacher or len(sizes) == 1:
                    self.coarse[f"{learner}<{teacher}"] = nn.Linear(size, coarse, bias=False)
                    self.fine[f"{learner}<{teacher}"] = nn.Linear(size, fine, bias=False)

    def forget(self, teachers: Collection[str], seed: int) -> None:
        """Heads of these teachers start anew, because the numbers of their clusters have a new meaning."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for heads in (self.coarse, self.fine):
                for name, head in heads.items():
                    if name.split("<")[1] in teachers:
                        weight: Any = head.weight
                        weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)

    def loss(self, vectors: dict[str, Tensor], labels: Mapping[str, Sequence[Tensor]], temperature: float) -> Tensor:
        """The sum over the learners of their mean cross-entropy with the labels of their teachers, coarse and fine, half each.

        `labels`: of each modality the coarse and the fine cluster (B,) of the clips, -1 for a clip without the modality, in
        which case nothing is learnt from it there. Vectors of such clips may be anything.
        """
        losses: dict[str, list[Tensor]] = {}
        for name in self.coarse:
            learner, teacher = name.split("<")
            both_B = (labels[teacher][0] >= 0) & (labels[learner][0] >= 0)
            if not bool(both_B.any()):
                continue
            for heads, label_B in zip((self.coarse, self.fine), labels[teacher], strict=True):
                weight = F.normalize(heads[name].weight, dim=1)  # type: ignore[arg-type]  # of a Linear, which ModuleDict does not say
                logits = vectors[learner][both_B].float() @ weight.T / temperature
                losses.setdefault(learner, []).append(F.cross_entropy(logits, label_B[both_B]))
        means = [torch.stack(of_learner).mean() for of_learner in losses.values()]
        return torch.stack(means).sum() if means else next(iter(vectors.values())).sum() * 0.0
