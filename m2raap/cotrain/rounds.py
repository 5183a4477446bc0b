"""Co-training: rounds of clusters and training on them, from clips without captions to a video tower.

'Once and for All: Self-supervised Multi-modal Co-training on One-billion Videos' (ACM MM 2021). Its losses, sizes and code are
not published; what is done here follows XDC (Alwassel et al., NeurIPS 2020, arXiv 1911.12667), with the paper's sliding window
and its clusters from coarse to fine. A run that is killed goes on from its last round and ends in the same bytes.

N clips of a window, B clips of a batch.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2raap.adapt.checkpoint import DAMAGED, Progress, load_tree, save_tree
from m2raap.adapt.logs import Logs
from m2raap.adapt.optim import lr_multiplier, set_rates
from m2raap.adapt.readers import Report
from m2raap.core.ahead import ahead
from m2raap.core.clusters import CoarseToFine
from m2raap.core.config import digest, result_settings
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.core.interrupt import StopRequest, note_kept
from m2raap.cotrain.clips import Clips, encode_all
from m2raap.cotrain.config import CotrainConfig, text_name
from m2raap.cotrain.heads import Heads
from m2raap.cotrain.labels import Labels, ModalityClusters, cluster_window, label
from m2raap.cotrain.model import Towers, load_towers, make_optimiser, new_towers
from m2raap.cotrain.windows import window_rows

# From clips and the number of a round to their vectors in every modality, by the towers in `round_folder`.
EmbedWindow = Callable[[np.ndarray, int], dict[str, np.ndarray]]


def round_folder(scratch: Path, number: int) -> Path:
    """The folder of the towers before round `number` (from 0)."""
    return scratch / f"round-{number:05d}"


@dataclass
class _State:
    towers: Towers
    heads: Heads
    optimiser: torch.optim.AdamW
    number: int = 0
    log_bytes: int = 0
    clusters: dict[str, ModalityClusters] = field(default_factory=dict)


@dataclass(frozen=True)
class Cotrained:
    """What co-training leaves: the towers, and by them the clusters of every clip, and the fine one (N,) of every caption."""

    towers: Towers
    labels: Labels
    captions: dict[str, np.ndarray]
    steps: int


def cotrain(
    cfg: CotrainConfig,
    num_clips: int,
    clips_of: Callable[[Towers], Clips],
    embed: EmbedWindow,
    out: Path,
    data: str,
    report: Report,
) -> Cotrained:
    """Trains in `out`, whose `scratch` holds the rounds. `data`: digest of what is read. `clips_of` opens the clips for towers.

    Raises M2raapError for too few clips, a loss that is not finite, and a checkpoint of other settings or data.
    """
    if num_clips < max(2, cfg.coarse):
        raise M2raapError(
            f"cotrain has {num_clips} clips with key-frames, fewer than cotrain.coarse ({cfg.coarse}): lower it, or give more "
            "clips"
        )
    scratch = out / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    key = digest([result_settings(cfg), data])
    state = _resumed(cfg, scratch, key)
    started = time.perf_counter()
    clips = clips_of(state.towers)
    if state.number == 0 and not round_folder(scratch, 0).exists():
        _save(state, scratch, key)
    logs = Logs(out, Progress(log_bytes=state.log_bytes), [])
    try:
        logs.write_timing({"prepared": "frames", "seconds": time.perf_counter() - started})
        with StopRequest() as stop:
            while state.number < cfg.rounds:
                started = time.perf_counter()
                steps = _round(cfg, state, clips, num_clips, embed, logs, report, stop)
                state.number += 1
                state.log_bytes = logs.sync()
                _save(state, scratch, key)
                logs.write_timing({"step": steps, "seconds": time.perf_counter() - started})
                if stop.requested:
                    note_kept(f"the co-training in {out} is kept as it is after round {state.number} of {cfg.rounds}")
                    raise KeyboardInterrupt
        started = time.perf_counter()
        labels, clusters = _label_all(cfg, state, num_clips, embed)
        captions = {
            name: clusters[name].assign(encode_all(state.towers, clips.others, name))[1]
            for name in map(text_name, cfg.texts)
            if name in clusters
        }
        logs.write_timing({"prepared": "labels", "seconds": time.perf_counter() - started})
        steps = _steps_a_round(cfg, num_clips) * cfg.rounds
        logs.write({"round": cfg.rounds, "step": steps, "together": labels.mutual_information()})
        logs.sync()
    finally:
        logs.close()
    return Cotrained(state.towers, labels, captions, steps)


def _label_all(
    cfg: CotrainConfig, state: _State, num_clips: int, embed: EmbedWindow
) -> tuple[Labels, dict[str, ModalityClusters]]:
    """The clusters of a last window by the trained towers, and those of all clips by them, some at a time."""
    rows = window_rows(num_clips, cfg.window, cfg.stride, cfg.seed, cfg.rounds)
    vectors = embed(rows, cfg.rounds)
    before = _clusters_before(state)
    clusters = before | cluster_window(vectors, cfg.coarse, cfg.fine, cfg.seed, before)
    if len(rows) == num_clips:
        return label(vectors, clusters), clusters
    blocks = (np.arange(start, min(start + len(rows), num_clips)) for start in range(0, num_clips, len(rows)))
    return Labels.joined([label(embed(block, cfg.rounds), clusters) for block in blocks]), clusters


def _clusters_before(state: _State) -> dict[str, ModalityClusters]:
    """Those of the last round, in the space of the towers: in round 0 all but the frames are clustered as they are."""
    return {name: of for name, of in state.clusters.items() if state.number != 1 or name == "frames"}


def _steps_a_round(cfg: CotrainConfig, num_clips: int) -> int:
    window = min(cfg.window or num_clips, num_clips)
    return max(1, round(cfg.epochs * (window // min(cfg.batch_size, window))))


def _round(
    cfg: CotrainConfig,
    state: _State,
    clips: Clips,
    num_clips: int,
    embed: EmbedWindow,
    logs: Logs,
    report: Report,
    stop: StopRequest,
) -> int:
    """Clusters the window of the round and trains on its labels. Returns the number of the last step."""
    number, per_round = state.number, _steps_a_round(cfg, num_clips)
    rows = window_rows(num_clips, cfg.window, cfg.stride, cfg.seed, number)
    vectors = embed(rows, number)
    before = _clusters_before(state)
    clusters = cluster_window(vectors, cfg.coarse, cfg.fine, cfg.seed + number, before)
    fresh = [name for name in clusters if name not in before or not clusters[name].continues(before[name])]
    state.heads.forget(fresh, cfg.seed + number)
    state.clusters = before | clusters
    labels = label(vectors, clusters)
    logs.write({"round": number, "step": number * per_round, "together": labels.mutual_information()})
    total = cfg.rounds * per_round
    towers, optimiser = state.towers.train(), state.optimiser
    towers.clip.backbone.eval()
    learning = [p for group in optimiser.param_groups for p in group["params"]]
    torch.manual_seed(cfg.seed * 1_000_003 + number)  # of drop path
    place = towers.clip.backbone.device
    batches = list(_batches(cfg, len(rows), per_round, number))
    read = ahead(lambda batch: clips.frames.batch(rows[batch]), batches, threads=1, num_ahead=2)
    for place_in_round, (batch, (inputs, mask_BT)) in enumerate(zip(batches, read, strict=True), 1):
        step = number * per_round + place_in_round
        rates = set_rates(optimiser, lr_multiplier(step, total, cfg.warmup, cfg.lr_floor))
        of_batch = {"frames": clips.inner_vectors(towers.clip, inputs.to(place), mask_BT.to(place))}
        for name, tower in towers.others.items():
            of_batch[name] = tower(clips.others.batch(name, rows[batch]).to(place))
        label_B = {
            name: tuple(torch.from_numpy(part[name][batch]).to(place) for part in (labels.coarse, labels.fine))
            for name in of_batch
        }
        loss = state.heads.loss(of_batch, label_B, cfg.temperature)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(learning, cfg.clip_norm)
        optimiser.step()
        line = {
            "step": step,
            "loss": float(loss.detach()),
            "grad_norm": float(grad_norm),
            "lr": rates,
        }
        if not math.isfinite(line["loss"]):
            raise M2raapError(f"the loss at step {step} is {line['loss']}: lower cotrain.lr or cotrain.lr_new")
        logs.write(line)
        end = (
            ", the last: stopping; a second Ctrl-C stops at once, and this round is done again"
            if stop.requested
            else ""
        )
        report(f"round {number + 1} of {cfg.rounds}, loss {line['loss']:.3f}{end}", step, total)
    towers.eval()
    return (number + 1) * per_round


def _batches(cfg: CotrainConfig, window: int, count: int, number: int) -> Iterator[np.ndarray]:
    """`count` batches of places in the window, which are passed over in random orders, one after the other."""
    rng = np.random.default_rng([cfg.seed, 32, number])
    size = min(cfg.batch_size, window)
    order = np.zeros(0, np.int64)
    for _ in range(count):
        if len(order) < size:
            order = np.concatenate([order, rng.permutation(window)])
        yield np.sort(order[:size])
        order = order[size:]


def _resumed(cfg: CotrainConfig, scratch: Path, key: str) -> _State:
    """The state after the last finished round; a new one where there is none."""
    finished = [path for path in sorted(scratch.glob("round-*")) if (path / "state.pt").is_file()]
    towers = (load_towers(finished[-1], cfg.others) if finished else new_towers(cfg)).to(device())
    clusters = dict.fromkeys(towers.sizes(), (cfg.coarse, cfg.coarse * cfg.fine))
    heads = Heads(towers.sizes(), clusters).to(device())
    state = _State(towers, heads, make_optimiser(towers, heads, cfg))
    if not finished:
        heads.forget(list(clusters), cfg.seed)
        return state
    path = finished[-1] / "state.pt"
    try:
        tree = load_tree(path)
        if tree["key"] != key:
            raise M2raapError(
                f"{path} was written by a run with other settings or other data: remove its folder, or give another --out"
            )
        heads.load_state_dict(tree["heads"])
        state.optimiser.load_state_dict(tree["optimiser"])
        state.number, state.log_bytes = tree["number"], tree["log_bytes"]
        state.clusters = {
            name: ModalityClusters(parts[0].numpy(), CoarseToFine(*(part.numpy() for part in parts[1:])))
            for name, parts in tree["clusters"].items()
        }
    except (*DAMAGED, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise M2raapError(
            f"{path}: cannot be read ({reason}); remove {finished[-1]} to go on from the round before"
        ) from None
    return state


def _save(state: _State, scratch: Path, key: str) -> None:
    """Writes the towers and then state.pt, which says that the round is finished; removes all but the last two."""
    folder = round_folder(scratch, state.number)
    state.towers.save(folder)
    clusters: dict[str, list[Tensor]] = {}
    for name, of in state.clusters.items():
        parts = (of.mean_E, of.centres.coarse_CE, of.centres.fine_CE, of.centres.first)
        clusters[name] = [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]
    tree = {
        "key": key, "number": state.number, "log_bytes": state.log_bytes, "heads": state.heads.state_dict(),
        "optimiser": state.optimiser.state_dict(), "clusters": clusters,
    }  # fmt: skip
    save_tree(folder / "state.pt", tree)
    for path in sorted(scratch.glob("round-*"))[:-2]:
        shutil.rmtree(path)
