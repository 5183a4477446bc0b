"""Embeds a folder of videos that needs no list and no captions. Writes OUT/corpus, OUT/keyframes, and OUT/vectors with

video.npy        float32, unit rows
videos.parquet   one row a file: video (path below the folder), row of video.npy (null where it was refused), frames, reason
"""

from __future__ import annotations

import io
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core import talk
from m2raap.core.corpus import open_corpus, write_corpus
from m2raap.core.engine import Engine, map_networks
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.lock import locked
from m2raap.core.records import ModelDigest, read_record
from m2raap.core.replace import replacing
from m2raap.core.runner import run_data_stage
from m2raap.core.signed import read_manifest
from m2raap.core.view import View
from m2raap.core.whole import StageOutput, run_single_stage
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.embeddings import write_npy
from m2raap.search.clip_vectors import forget_encoder, index_encoder
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.stages.split import as_name
from m2raap.video.health import find_files, printable


def is_video_folder(path: Path) -> bool:
    """Whether a path is a folder of videos, and not a corpus, a stage's folder or a run."""
    is_output = any((path / name).exists() for name in ("manifest.json", "plan.json", "run.json")) or any(
        path.glob("*/part-*")
    )
    return path.is_dir() and not is_output


def embed_folder(
    videos: Path,
    keyframes: KeyframesConfig,
    model: Path | BackboneConfig,
    out: Path,
    engine: Engine,
    force: bool = False,
) -> dict[str, Any]:
    """Returns the counts of files, embedded and refused. A file that cannot be decoded is a row with its reason.

    Raises M2raapError where the folder holds no video, `out` lies inside it or holds the vectors of another folder, or
    `model` is no model folder.
    """
    if out.resolve().is_relative_to(videos.resolve()):
        raise M2raapError(f"{out}: lies inside {videos}, the folder of the videos; give an --out outside it")
    inputs = {"model": str(model) if isinstance(model, Path) else model.model_dump_json()}
    if isinstance(model, Path):  # before anything is decoded
        if not (model / "model.json").is_file():
            raise M2raapError(f"--model {model}: holds no model.json; give a model folder or an adapt folder")
        inputs = {"model": read_record(ModelDigest, model / "model.json")["digest"]}
    with locked(out, written=()):
        return _embed_folder(videos, keyframes, model, inputs, out, engine, force)


def _embed_folder(
    videos: Path,
    keyframes: KeyframesConfig,
    model: Path | BackboneConfig,
    inputs: dict[str, str],
    out: Path,
    engine: Engine,
    force: bool,
) -> dict[str, Any]:
    if (out / "corpus" / "manifest.json").exists():
        before = open_corpus(out / "corpus").stated_video_root
        if before != videos.resolve():
            raise M2raapError(f"{out}: holds the vectors of {before}, not of {videos.resolve()}; give another --out")
    with replacing(force):
        corpus, bad_names = _corpus(videos, out / "corpus")
    view = View(corpus)
    # One good frame is enough for a vector.
    stage = KeyframesStage(keyframes.model_copy(update={"min_frames": 1}))
    run_data_stage(stage, view, out / "keyframes", engine, force=force)
    framed = view.over(out / "keyframes")

    def work(folder: Path) -> StageOutput:
        return _vectors(framed, bad_names, model, inputs["model"], folder, engine)

    settings = {"bad_names": bad_names} if bad_names else {}
    run_single_stage("vectors", 1, settings, out / "vectors", work, view=framed, inputs=inputs, force=force)
    return read_manifest(out / "vectors")["counts"]


def _corpus(videos: Path, out: Path) -> tuple[Path, list[str]]:
    """Writes the folder as a corpus. Returns its path, and the file names that are not UTF-8, escaped for printing."""
    files, left_out = find_files([videos])
    for line in left_out:
        talk.log(f"left out: {line}")
    all_names = sorted({file.path.relative_to(videos).as_posix() for file in files}, key=os.fsencode)
    names = [name for name in all_names if _is_utf8(name)]
    if not names:
        raise M2raapError(f"{videos}: holds no file" + (" whose name is UTF-8; rename the files" if all_names else ""))
    clips = [{"clip_id": as_name(name), "video": name, "split": "test"} for name in names]
    write_corpus(out, clips, [], video_root=videos, source={"importer": "folder"})
    return out, [printable(Path(name)) for name in all_names if not _is_utf8(name)]


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class _Task:
    """One part of a folder of videos; `content`: digest of the model."""

    view: View
    model: Path | BackboneConfig
    content: str
    part: int


def _embed_part(task: _Task) -> tuple[list[dict[str, Any]], list[np.ndarray], str]:
    """The rows of videos.parquet of a part, without `row`, the vectors of those that have some, and the model's digest."""
    encoder = index_encoder(task.model, content=task.content)
    part = task.view.part(task.part, ("jpegs",))
    framed = [clip for clip in part.clips if clip["clip_id"] in part.frames]
    jpegs = [part.frames[clip["clip_id"]]["jpegs"] for clip in framed]
    vectors = [vector_E for vector_E, _ in encoder.clips(jpegs)]
    rows = [
        {"video": clip["video"], "frames": len(frames), "reason": None}
        for clip, frames in zip(framed, jpegs, strict=True)
    ]
    video_of = {clip["clip_id"]: clip["video"] for clip in task.view.corpus.rows("clips", task.part)}
    for drop in task.view.dropped(task.part):
        rows.append({"video": video_of[drop["clip_id"]], "frames": 0, "reason": drop["reason"]})
    return rows, vectors, encoder.digest


def _vectors(
    view: View, bad_names: list[str], model: Path | BackboneConfig, content: str, folder: Path, engine: Engine
) -> StageOutput:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tasks = [_Task(view, model, content, part) for part in range(view.num_parts)]
    parts: dict[int, tuple[list[dict[str, Any]], list[np.ndarray], str]] = {}
    with talk.progress("embed", view.corpus.counts["clips"]) as advance:
        for index, embedded in map_networks(engine, _embed_part, tasks):
            parts[index] = embedded
            advance(len(embedded[0]))
    vectors: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    for index in range(view.num_parts):
        of_part, vectors_of_part, _ = parts[index]
        numbers = itertools.count(len(vectors))
        rows += [row | {"row": next(numbers) if row["reason"] is None else None} for row in of_part]
        vectors += vectors_of_part
    rows += [{"video": name, "row": None, "frames": 0, "reason": "bad_name"} for name in bad_names]
    if not vectors:
        reasons = sorted({row["reason"] for row in rows})
        raise M2raapError(
            f"{view.corpus.video_root}: none of its {len(rows)} files is a video that can be decoded ({', '.join(reasons)})"
        )
    write_npy(folder / "video.npy", np.stack(vectors))
    schema = pa.schema([("video", pa.string()), ("row", pa.int64()), ("frames", pa.int64()), ("reason", pa.string())])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
    write_atomic(folder / "videos.parquet", sink.getvalue())
    counts = {"files": len(rows), "embedded": len(vectors), "refused": len(rows) - len(vectors)}
    forget_encoder()
    return StageOutput(["video.npy", "videos.parquet"], counts, {"model": parts[0][2]})
