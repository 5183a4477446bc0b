"""cotrain as a stage: self-supervised rounds over the clips of a view, with or without texts; it writes a model folder, from
which adapt starts, and what the clusters say of each clip."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine, device, map_networks, torch_threads
from m2raap.core.files import files_below, open_atomic, replaced_folder
from m2raap.core.folder import plan_of
from m2raap.core.records import ModelJson, Plan, read_record
from m2raap.core.scores import PAIR_SIGNALS
from m2raap.core.split import open_tables, read_splits
from m2raap.core.stage import SingleStage, StepInputs
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.cotrain.config import CotrainConfig, text_name
from m2raap.models.config import BackboneConfig
from m2raap.stages.keyframes import KeyframesStage
from m2raap.stages.shared import Shared
from m2raap.stages.source import ViewSource

if TYPE_CHECKING:
    from m2raap.adapt.sources import TextColumns
    from m2raap.cotrain.clips import Clips
    from m2raap.cotrain.labels import Labels
    from m2raap.cotrain.model import Towers
    from m2raap.cotrain.rounds import Cotrained

CLUSTERS = "signals/clips.parquet"  # in the folder of a cotrain stage
OTHERS = "others"  # in its scratch
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

    @property
    def writes_signals(self) -> bool:
        return bool(self.cfg.texts)

    def plan(self, step: StepInputs) -> Plan:
        return plan_of(self.name, self.version, step.view, self.settings())

    def run(self, step: StepInputs) -> bool:
        def work(target: Path) -> StageOutput:
            files = ["train.jsonl", CLUSTERS, *([PAIR_SIGNALS] if self.writes_signals else [])]
            # The model is written last: a run that has all may have ended before it wrote its manifest.
            if not all((target / name).exists() for name in ("model/model.json", *files)):
                caches = step.caches or target / "scratch" / "cache"
                _cotrain(self.cfg, self.shared, step.view, target, caches, step.engine)
            shutil.rmtree(target / "scratch", ignore_errors=True)
            model_json = read_record(ModelJson, target / "model" / "model.json")
            files = [*files_below(target, "model"), *files]
            return StageOutput(files, model_json["made_from"]["counts"], {"model": model_json["digest"]})

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


def _cotrain(cfg: CotrainConfig, shared: Shared, view: View, target: Path, caches: Path, engine: Engine) -> None:
    import torch

    from m2raap.adapt.modalities import NO_ROW, open_modalities
    from m2raap.cotrain.rounds import cotrain

    torch.set_num_threads(cfg.threads or torch_threads())
    _opened.cache_clear()
    scratch = target / "scratch"
    tables = scratch / "tables"
    read_splits(view, ["train"], needs_text=False)[0].save(tables)
    source = _source(view, shared, tables)
    data = digest([source.digest, cfg.others])
    _write_others(cfg, view, source, scratch / OTHERS, data)
    others = open_modalities(scratch / OTHERS, cfg.others)
    counts = {name: int((row_C != NO_ROW).sum()) for name, row_C in others.row_C.items()}
    of_others = "".join(f", {count:,} of them with {name}" for name, count in counts.items())
    talk.log(f"cotrain: {source.num_clips:,} clips{of_others}")
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
            for index, vectors in map_networks(engine, _embed, shares):
                parts[index] = vectors
                if len(shares) > 1:
                    phases(f"vectors of round {number}", len(parts), len(shares))
            return {name: np.concatenate([parts[index][name] for index in range(len(shares))]) for name in parts[0]}

        done = cotrain(cfg, source.num_clips, clips_of, embed, target, data, phases)
    _opened.cache_clear()
    _write_clusters(target / CLUSTERS, list(source.clip_ids), done.labels)
    if cfg.texts:
        _write_scores(target / PAIR_SIGNALS, cfg.texts, source.text_columns(), done)
    done.towers.clip.eval()
    counts = {"clips": source.num_clips, "steps": done.steps, **counts}
    with replaced_folder(target / "model") as temp:
        done.towers.clip.save(temp, {"cotrain": cfg.model_dump(mode="json"), "counts": counts})


def _source(view: View, shared: Shared, tables: Path) -> ViewSource:
    from m2raap.core.videos import VideoDigests

    return ViewSource(view, "train", shared.decode, VideoDigests(tables / "videos.json"), open_tables(tables))


def _write_others(cfg: CotrainConfig, view: View, source: ViewSource, others: Path, data: str) -> None:
    """Writes what clips hold beside their frames into a folder. `data`: digest of what is read."""
    import torch

    from m2raap.cotrain.captions import write_texts
    from m2raap.stages.embedder import encode_texts, load_model
    from m2raap.stages.senses import write_once, write_senses

    parts = source.tables.clips["part"].to_numpy()

    def write(folder: Path) -> None:
        write_senses(view, source.clip_ids, parts, cfg.senses, folder, "take it out of cotrain.senses")
        if cfg.texts:
            encode = torch.inference_mode()(partial(encode_texts, load_model(cfg.backbone).to(device())))
            write_texts(source.text_columns(), source.num_clips, cfg.texts, encode, folder)

    write_once(others, data, write)


def _open(cfg: CotrainConfig, source: ViewSource, scratch: Path, caches: Path, towers: Towers, report: Any) -> Clips:
    from m2raap.adapt.modalities import open_modalities
    from m2raap.cotrain.clips import Clips, open_frames

    return Clips(open_frames(cfg, source, towers.clip, caches, report), open_modalities(scratch / OTHERS, cfg.others))


def _embed(share: _Share) -> dict[str, np.ndarray]:
    """The vectors of a share's clips in every modality; in round 0 motion, sound and captions as they are."""
    import torch

    from m2raap.cotrain.clips import encode

    torch.set_num_threads(share.cfg.threads or torch_threads())
    where = (share.view, share.scratch, share.caches, share.round)
    towers, clips = _opened(share.cfg, share.shared, *where)  # pyright: ignore[reportArgumentType]  # they hash
    return encode(towers, clips, np.array(share.rows), raw=share.round == 0)


@lru_cache(maxsize=1)
def _opened(
    cfg: CotrainConfig, shared: Shared, view: View, scratch: Path, caches: Path, number: int
) -> tuple[Towers, Clips]:
    from m2raap.cotrain.model import load_towers
    from m2raap.cotrain.rounds import round_folder

    towers = load_towers(round_folder(scratch, number), cfg.others).to(device())
    source = _source(view, shared, scratch / "tables")
    return towers, _open(cfg, source, scratch, caches, towers, lambda what, done, total: None)


def _write_clusters(path: Path, clip_ids: list[str], labels: Labels) -> None:
    """Writes clip_id, the clusters of each modality, and how well the frames' cluster goes with those of the others."""
    columns: dict[str, np.ndarray | list[str]] = {"clip_id": clip_ids}
    for name in labels.coarse:
        columns |= {f"coarse_{name}": labels.coarse[name], f"fine_{name}": labels.fine[name]}
    columns |= {f"frames_pmi_{name}": score_C for name, score_C in labels.agreement_of_frames().items()}
    _write(path, columns)


def _write_scores(path: Path, langs: tuple[str, ...], texts: TextColumns, done: Cotrained) -> None:
    """Writes text_id and how well a caption's fine cluster goes with those of its clip: of its frames (`cluster_pmi`), and of
    what else it holds. Of the versions of a raw text it is the mean."""
    from m2raap.adapt.conflict import means_by_id
    from m2raap.cotrain.captions import captions_of
    from m2raap.cotrain.consistency import cluster_pmi

    of_clips = {name: fine_C for name, fine_C in done.labels.fine.items() if name not in map(text_name, langs)}
    ids: list[str] = []
    scores: dict[str, list[np.ndarray]] = {name: [] for name in of_clips}
    for lang in langs:
        places = captions_of(texts, lang)
        ids += texts.raw_ids.take(places)
        for name, fine_C in of_clips.items():
            clip_N = texts.clip_N[places]
            of_caption_N = done.captions.get(text_name(lang), np.full(len(clip_N), -1))
            scores[name].append(cluster_pmi(of_caption_N, fine_C[clip_N], clip_N))
    columns: dict[str, np.ndarray | list[str]] = {}
    for name, parts in scores.items():
        score_N = np.concatenate(parts)
        columns["text_id"], means, _ = means_by_id(ids, score_N, (~np.isnan(score_N)).astype(float))
        columns["cluster_pmi" if name == "frames" else f"cluster_pmi_{name}"] = means
    _write(path, columns)


def _write(path: Path, columns: Mapping[str, np.ndarray | list[str]]) -> None:
    """Writes ids, clusters (null where -1) and scores (null where NaN)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {
        name: pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else values < 0)
        if isinstance(values, np.ndarray)
        else pa.array(values, pa.string())
        for name, values in columns.items()
    }
    path.parent.mkdir(exist_ok=True)
    with open_atomic(path) as sink:
        pq.write_table(pa.table(arrays), sink)
