"""cotrain as a stage: self-supervised rounds over the clips of a view, with or without texts; it writes a model folder, from
which adapt starts, and what the clusters say of each clip."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine, torch_threads
from m2raap.core.files import files_below, open_atomic
from m2raap.core.folder import plan_of
from m2raap.core.records import ModelJson, Plan, read_record
from m2raap.core.split import open_tables, read_splits
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.cotrain.config import CotrainConfig
from m2raap.models.config import BackboneConfig
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.shared import Shared
from m2raap.stages.source import ViewSource

if TYPE_CHECKING:
    from m2raap.cotrain.clips import Clips
    from m2raap.cotrain.labels import Labels
    from m2raap.cotrain.model import Towers

CLUSTERS = "signals/clips.parquet"  # in the folder of a cotrain stage
SHARE_CLIPS = 2048  # clips of a window that one worker encodes at a time; batches hold nothing of other shares


class CotrainStage(SingleStage[CotrainConfig]):
    """Train a video tower on clips without captions, by clusters of frames, motion and sound."""

    name = "cotrain"
    config = CotrainConfig
    needs = (KeyframesStage.name,)
    by_default = False

    def __init__(self, cfg: CotrainConfig, shared: Shared | None = None) -> None:
        """Without `shared`, backbone and seed are taken from `cfg`."""
        shared = shared or Shared(backbone=cfg.backbone, seed=cfg.seed)
        super().__init__(cfg.model_copy(update={"backbone": shared.backbone, "seed": shared.seed}), shared)

    def backbones(self) -> list[BackboneConfig]:
        return [self.shared.backbone]

    def plan(self, step: StepInputs) -> Plan:
        return plan_of(self.name, self.version, step.view, self.settings())

    def run(self, step: StepInputs) -> bool:
        def work(target: Path) -> StageOutput:
            counts = _cotrain(self.cfg, self.shared, step.view, target, step.caches or target / "cache", step.engine)
            shutil.rmtree(target / "scratch", ignore_errors=True)
            files = [*files_below(target, "model"), "train.jsonl", CLUSTERS]
            return StageOutput(
                files, counts, {"model": read_record(ModelJson, target / "model" / "model.json")["digest"]}
            )

        return run_single_stage(
            self.name, self.version, self.settings(), step.folder, work, view=step.view, force=step.force
        )


@dataclass(frozen=True)
class _Share:
    """Clips of a window to be encoded by the towers of a round, with all that a worker needs."""

    cfg: CotrainConfig
    shared: Shared
    view: View
    scratch: Path
    caches: Path
    round: int
    rows: tuple[int, ...]


def _cotrain(
    cfg: CotrainConfig, shared: Shared, view: View, target: Path, caches: Path, engine: Engine
) -> dict[str, Any]:
    import torch

    from m2raap.cotrain.rounds import cotrain
    from m2raap.cotrain.senses import write_senses

    torch.set_num_threads(cfg.threads or torch_threads())
    _opened.cache_clear()
    scratch = target / "scratch"
    tables = scratch / "tables"
    read_splits(view, ["train"], needs_text=False)[0].save(tables)
    source = _source(view, shared, tables)
    write_senses(view, source.clip_ids, source.tables.clips["part"].to_numpy(), cfg.senses, scratch / "senses")
    counts = {sense: int(np.load(scratch / "senses" / f"{sense}-present.npy").sum()) for sense in cfg.senses}
    of_senses = "".join(f", {count:,} of them with {sense}" for sense, count in counts.items())
    talk.log(f"cotrain: {source.num_clips:,} clips{of_senses}")
    title = talk.title(target, "cotrain")
    with talk.Phases(title) as phases:

        def clips_of(towers: Towers) -> Clips:
            return _open(cfg, source, scratch, caches, towers, phases)

        def embed(rows: np.ndarray, number: int) -> dict[str, np.ndarray]:
            shares = [
                _Share(cfg, shared, view, scratch, caches, number, tuple(rows[start : start + SHARE_CLIPS].tolist()))
                for start in range(0, len(rows), SHARE_CLIPS)
            ]
            parts: dict[int, dict[str, np.ndarray]] = {}
            for index, vectors in engine.map(_embed, shares, runs_network=True):
                parts[index] = vectors
                if len(shares) > 1:
                    phases(f"vectors of round {number}", len(parts), len(shares))
            return {name: np.concatenate([parts[index][name] for index in range(len(shares))]) for name in parts[0]}

        data = digest([source.digest, list(cfg.senses)])
        done = cotrain(cfg, source.num_clips, clips_of, embed, target, data, phases)
    _opened.cache_clear()
    _write_clusters(target / CLUSTERS, list(source.clip_ids), done.labels)
    done.towers.clip.eval()
    done.towers.clip.save(target / "model", {"cotrain": cfg.model_dump(mode="json"), "steps": done.steps})
    return {"clips": source.num_clips, "steps": done.steps, **counts}


def _source(view: View, shared: Shared, tables: Path) -> ViewSource:
    from m2raap.core.videos import VideoDigests

    return ViewSource(view, "train", shared.decode, VideoDigests(tables / "videos.json"), open_tables(tables))


def _open(cfg: CotrainConfig, source: ViewSource, scratch: Path, caches: Path, towers: Towers, report: Any) -> Clips:
    from m2raap.cotrain.clips import Clips, open_frames
    from m2raap.cotrain.senses import open_senses

    return Clips(open_frames(cfg, source, towers.clip, caches, report), open_senses(scratch / "senses", cfg.senses))


def _embed(share: _Share) -> dict[str, np.ndarray]:
    """The vectors of a share's clips in every modality; in round 0 motion and sound as they are."""
    import torch

    from m2raap.cotrain.clips import encode

    torch.set_num_threads(torch_threads())
    where = (share.view, share.scratch, share.caches, share.round)
    towers, clips = _opened(share.cfg, share.shared, *where)  # pyright: ignore[reportArgumentType]  # they hash
    return encode(towers, clips, np.array(share.rows), raw_senses=share.round == 0)


@lru_cache(maxsize=1)
def _opened(
    cfg: CotrainConfig, shared: Shared, view: View, scratch: Path, caches: Path, number: int
) -> tuple[Towers, Clips]:
    from m2raap.core.engine import device
    from m2raap.cotrain.model import load_towers
    from m2raap.cotrain.rounds import round_folder

    towers = load_towers(round_folder(scratch, number), cfg.senses).to(device())
    source = _source(view, shared, scratch / "tables")
    return towers, _open(cfg, source, scratch, caches, towers, lambda what, done, total: None)


def _write_clusters(path: Path, clip_ids: list[str], labels: Labels) -> None:
    """Writes clip_id, the clusters of each modality, and cluster_pmi: the mean over what is heard and how it moves of how well
    the frames' cluster goes with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    agreement = labels.agreement_of_frames()
    columns: dict[str, Any] = {"clip_id": pa.array(clip_ids, pa.string())}
    for name in labels.coarse:
        for kind, part in (("coarse", labels.coarse), ("fine", labels.fine)):
            columns[f"{kind}_{name}"] = pa.array(part[name], pa.int64(), mask=part[name] < 0)
    if agreement:
        scores = np.stack(list(agreement.values()))
        known = ~np.isnan(scores)
        mean = np.where(known, scores, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        columns["cluster_pmi"] = pa.array(mean, mask=~known.any(0))
    path.parent.mkdir(exist_ok=True)
    with open_atomic(path) as sink:
        pq.write_table(pa.table(columns), sink)
