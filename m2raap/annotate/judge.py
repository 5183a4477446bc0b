"""How good a fitted tagger is, on clips that it has not seen: for all tags, for each label, and for its probabilities."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2raap.annotate.calibration import Bins, counted
from m2raap.annotate.label_set import LabelSet
from m2raap.annotate.metrics import TOP, Judgement, draws_of, gap, hit_at_1, interval, label_ap, perr
from m2raap.annotate.shards import read_shard
from m2raap.annotate.tasks import Task, begin, vectors_of
from m2raap.core.engine import device
from m2raap.core.exports import neutral
from m2raap.core.files import write_atomic

MOST_CLIPS = 10_000  # of a member, by which each label is scored
DRAWS = 100


@dataclass(frozen=True)
class ClipsTask(Task):
    """`which`: val or unseen (see Shard.rows)."""

    which: str = "val"


@dataclass(frozen=True)
class ClipScores:
    """Of the clips of a shard: their best tags, and all pairs of a clip and a label by their log-odds."""

    best: Judgement
    bins: Bins


def clip_scores(task: ClipsTask) -> ClipScores:
    """The scores of the clips of a shard by the heads of the round, which are read group by group."""
    job = task.job
    begin()
    shared, shard = job.load_shared(task.shared_path), task.shard()
    rows = shard.rows(task.member, job.cfg.folds, task.which)
    z_NH = torch.from_numpy(vectors_of(shared, shard, rows)).to(device())
    p_NT, true_NT = np.zeros((len(rows), 0), np.float32), np.zeros((len(rows), 0), bool)
    bins = counted(np.zeros((0, 0)), np.zeros((0, 0), bool))
    for group, labels in enumerate(job.groups):
        yes_NL, no_NL = _log_p(task, group, z_NH)
        truth_NL = shard.truth(rows, labels)
        bins = bins + counted((yes_NL - no_NL).numpy(), truth_NL)
        p_NT, true_NT = np.concatenate([p_NT, yes_NL.exp().numpy()], 1), np.concatenate([true_NT, truth_NL], 1)
        best = np.argsort(-p_NT, axis=1, kind="stable")[:, :TOP]
        p_NT, true_NT = np.take_along_axis(p_NT, best, 1), np.take_along_axis(true_NT, best, 1)
    return ClipScores(Judgement(p_NT, true_NT, shard.num_labels_N[rows]), bins)


@torch.no_grad()
def _log_p(task: Task, group: int, z_NH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and log (1 - p), each (N, L), of a group's labels."""
    job = task.job
    yes_LN, no_LN = job.load_heads(job.heads(task.member, task.round, group), job.groups[group]).log_odds(z_NH)
    return yes_LN.T.cpu(), no_LN.T.cpu()


@dataclass(frozen=True)
class LabelScore:
    """The average precision of a label on unseen clips, its middle 95% over clips drawn again, and how many of them have it."""

    ap: float
    low: float
    high: float
    clips: int


@dataclass(frozen=True)
class LabelTask:
    """A group of labels, to be scored by the chosen rounds of all members."""

    members: tuple[Task, ...]
    group: int


def label_scores(task: LabelTask) -> list[LabelScore]:
    """The score of each label of a group, on at most MOST_CLIPS unseen clips of each member."""
    begin()
    odds, truth = [], []
    job = task.members[0].job
    labels = job.groups[task.group]
    for member in task.members:
        shared, left = job.load_shared(member.shared_path), MOST_CLIPS
        for index in range(job.num_shards):
            shard = read_shard(job.shard(index))
            rows = shard.rows(member.member, job.cfg.folds, "unseen")[:left]
            left -= len(rows)
            z_NH = torch.from_numpy(vectors_of(shared, shard, rows)).to(device())
            yes_NL, no_NL = _log_p(member, task.group, z_NH)
            odds.append((yes_NL - no_NL).numpy())
            truth.append(shard.truth(rows, labels))
    odds_NL, truth_NL = np.concatenate(odds), np.concatenate(truth)
    draws = draws_of(len(odds_NL), job.cfg.seed, DRAWS)
    values = [label_ap(odds_NL[:, place], truth_NL[:, place], draws) for place in range(len(labels))]
    return [LabelScore(*value, int(truth_NL[:, place].sum())) for place, value in enumerate(values)]


def summary(unseen: Judgement, scores: Sequence[LabelScore], seed: int) -> dict[str, Any]:
    """The metrics of tagger.json, each with its middle 95% over clips drawn again."""
    draws = draws_of(len(unseen.p_NT), seed, DRAWS)
    with_value = [score.ap for score in scores if not math.isnan(score.ap)]
    values = {
        "unseen_clips": len(unseen.p_NT),
        "gap": gap(unseen),
        "gap_95": [_number(value) for value in interval([gap(unseen, row) for row in draws])],
        "map": float(np.mean(with_value)) if with_value else 0.0,
        "map_labels": len(with_value),
        "hit_at_1": hit_at_1(unseen),
        "perr": perr(unseen),
    }
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> Any:
    """NaN as None, which JSON can hold."""
    return None if isinstance(value, float) and math.isnan(value) else value


def write_label_table(path: Path, labels: LabelSet, scores: Sequence[LabelScore]) -> None:
    """labels.csv: label, clips, ap and its interval, unseen clips."""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(["label", "clips", "ap", "ap_low", "ap_high", "unseen_clips"])
    for name, clips, score in zip(labels.names_L, labels.clips_L, scores, strict=True):
        numbers = ["" if math.isnan(value) else f"{value:.4f}" for value in (score.ap, score.low, score.high)]
        writer.writerow([neutral(name), clips, *numbers, score.clips])
    write_atomic(path, sink.getvalue().encode())
