"""Which weights a run keeps: those of the best checkpoint, of the last one, or the mean of the last ones.

The best is the latest checkpoint that is within one paired standard error of the highest score so far. A score of N clips is
an estimate, and among checkpoints that it cannot tell apart the one that was trained longer is taken, so that one clip
does not decide. It is the one-standard-error rule of Breiman et al. (Classification and Regression Trees, 1984, section
3.4.3), with longer training in place of the smaller tree, and with the error of the difference: both checkpoints are scored
on the same clips. The highest score stays the measure, whatever is kept, so that a slow decline ends one error below it.

The mean is that of the trained weights at the last validations (stochastic weight averaging, Izmailov et al., UAI 2018, here
under the run's own schedule of rates). CLIPs have no batch statistics that would have to be computed again. Of low-rank updates
the factors are averaged.

Best and mean cost the memory of one copy of the trained weights, on the CPU and in the checkpoint; the last costs none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from m2raap.adapt.checkpoint import Progress, trained_weights
from m2raap.adapt.config import AdaptConfig
from m2raap.adapt.validate import ValScores


def within_one_error(highest_N: Tensor, later_N: Tensor) -> bool:
    """Whether a later checkpoint is worse than the highest by at most the standard error of the paired difference.

    Scores (N,) of the same clips; more is better. Of one clip the error is unknown and counts as 0.
    """
    lead_N = highest_N - later_N
    error = float(lead_N.std()) / math.sqrt(len(lead_N)) if len(lead_N) > 1 else 0.0
    return float(lead_N.mean()) <= error


def note_scores(progress: Progress, scores: ValScores, keep_by: str) -> bool:
    """Puts the scores of the validation after `progress.step` into the progress. Returns whether it is the best so far."""
    score_N = -scores.per_clip["loss"] if keep_by == "loss" else scores.per_clip[keep_by]
    highest_N = progress.highest_N
    progress.val["last"] = scores.numbers
    progress.val.setdefault("start", scores.numbers)
    if highest_N is not None and not within_one_error(highest_N, score_N):
        return False
    if highest_N is None or float(score_N.mean()) > float(highest_N.mean()):
        progress.highest_N = score_N
    progress.best_step, progress.val["best"] = progress.step, scores.numbers
    return True


def is_averaged(cfg: AdaptConfig, step: int, steps: int) -> bool:
    """Whether the weights after a step at which a validation is due count in the mean of a run of `steps` steps."""
    return cfg.keep == "average" and step > steps * (1 - cfg.average_share)


def add_to_mean(progress: Progress, model: nn.Module) -> None:
    """Adds the model's trained weights to the running mean in `progress.kept`, in their own precision and on the CPU."""
    progress.num_averaged += 1
    if progress.num_averaged == 1:
        progress.kept = trained_weights(model)
        return
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                progress.kept[name].lerp_(parameter.detach().cpu(), 1 / progress.num_averaged)
