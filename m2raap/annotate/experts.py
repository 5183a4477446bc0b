"""A mixture of experts for each label: whether a clip has it.

p(y | z) = sum over the experts e of g_e(z) sigmoid(w_e z + b_e), where g is a softmax over the experts and a dummy that always
says no. Gates have no bias, experts have one. From the patent of 'Large-Scale Training Framework for Video Annotation' (KDD
2019), US 11,295,171, and MoeModel of google/youtube-8m (video_level_models.py).

B clips, H size of a vector, L labels, X experts of a label.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def experts_per_label(positives_L: np.ndarray, max_experts: int, per: int) -> np.ndarray:
    """(L,) number of experts: one for every `per` positives, at least 1 and at most `max_experts`. The paper's own formula is
    not public; this one is ours."""
    return np.clip(-(-positives_L // per), 1, max_experts).astype(np.int64)


class MoEHeads(nn.Module):
    """The heads of some labels, each with its own number of experts.

    Labels of equally many experts lie in one tensor, and each label's product is a matrix of its own in it: what a label learns
    does not depend on which other labels are trained beside it, to the bit where sizes and batches are multiples of 8.
    """

    def __init__(self, dim: int, experts_L: Sequence[int] | np.ndarray) -> None:
        """All weights are 0; see `begin`."""
        super().__init__()
        experts = np.asarray(experts_L, np.int64)
        self.num_labels = len(experts)
        self.sizes = [int(size) for size in np.unique(experts)]
        self.places = [np.flatnonzero(experts == size) for size in self.sizes]
        counts = list(zip(self.sizes, map(len, self.places), strict=True))
        self.weights = nn.ParameterList([torch.zeros(num, 2 * size + 1, dim) for size, num in counts])
        self.biases = nn.ParameterList([torch.zeros(num, size) for size, num in counts])
        self._order = np.argsort(np.concatenate(self.places), kind="stable")

    @torch.no_grad()
    def begin(self, names_L: Sequence[str], priors_L: Sequence[float] | np.ndarray, seed: int) -> MoEHeads:
        """The weights of new heads: each label's by its name and the seed alone. `priors_L`: share of the clips that have a
        label, near which its probability begins."""
        for size, places, weight_LXH, bias_LX in zip(self.sizes, self.places, self.weights, self.biases, strict=True):
            for row, label in enumerate(places.tolist()):
                weight_LXH[row] = first_weights(names_L[label], weight_LXH.shape[2], size, seed)
                bias_LX[row] = first_bias(float(priors_L[label]), size)
        return self

    def log_odds(self, z_BH: Tensor) -> tuple[Tensor, Tensor]:
        """log p and log (1 - p), each (L, B)."""
        yes, no = [], []
        for size, weight_LXH, bias_LX in zip(self.sizes, self.weights, self.biases, strict=True):
            # The gates of the experts, the gate of the dummy, the experts. A product for each label: in one of all labels the
            # order of a sum depends on how many there are.
            scores_LXB = torch.bmm(weight_LXH, z_BH.T.expand(len(weight_LXH), -1, -1))
            gates_LXB = F.log_softmax(scores_LXB[:, : size + 1], 1)
            experts_LXB = scores_LXB[:, size + 1 :] + bias_LX[:, :, None]
            yes.append(torch.logsumexp(gates_LXB[:, :size] + F.logsigmoid(experts_LXB), 1))
            of_experts = gates_LXB[:, :size] + F.logsigmoid(-experts_LXB)
            no.append(torch.logsumexp(torch.cat([of_experts, gates_LXB[:, size:]], 1), 1))
        order = torch.from_numpy(self._order).to(z_BH.device)
        return torch.cat(yes)[order], torch.cat(no)[order]

    def forward(self, z_BH: Tensor) -> Tensor:
        """Probabilities (B, L)."""
        return self.log_odds(z_BH)[0].exp().T

    def losses(self, z_BH: Tensor, y_BL: Tensor) -> Tensor:
        """(L,) binary cross-entropy of each label, summed over the clips."""
        yes_LB, no_LB = self.log_odds(z_BH)
        return -torch.where(y_BL.T, yes_LB, no_LB).sum(1)

    @torch.no_grad()
    def take(self, other: MoEHeads, which_L: np.ndarray) -> None:
        """Copies the weights of some labels (bool) from heads of the same labels."""
        for places, *tensors in zip(self.places, self.weights, other.weights, self.biases, other.biases, strict=True):
            rows = torch.from_numpy(which_L[places]).to(tensors[0].device)
            tensors[0][rows], tensors[2][rows] = tensors[1][rows], tensors[3][rows]

    def squared(self) -> Tensor:
        """The sum of all squared weights."""
        return torch.stack([(weight**2).sum() for weight in self.weights]).sum()


def num_weights(dim: int, experts_L: np.ndarray) -> np.ndarray:
    """(L,) number of weights of each label's head, without biases."""
    return (2 * experts_L + 1) * dim


def first_weights(name: str, dim: int, experts: int, seed: int) -> Tensor:
    """(2 X + 1, H) weights with which a label begins, by its name and the seed alone."""
    number = int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(2 * experts + 1, dim, generator=torch.Generator().manual_seed(number)) / dim**0.5


def first_bias(prior: float, experts: int) -> float:
    """The bias of each expert at which p begins near the prior: the gates of the experts sum to X / (X + 1)."""
    p = min(max(prior * (experts + 1) / experts, 1e-6), 0.9)
    return float(np.log(p / (1 - p)))
