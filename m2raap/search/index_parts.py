"""Writes the clips of a view as rows of an index, each with its vectors, into one file of scratch/ for each part."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine, map_networks
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object, write_json
from m2raap.core.records import as_object
from m2raap.core.tables import Row, part_name, write_table
from m2raap.core.tombstones import id_hash
from m2raap.core.view import Part, View
from m2raap.models.config import BackboneConfig
from m2raap.search.clip_vectors import ClipEncoder, index_encoder
from m2raap.search.gallery import CLIPS, Gallery, Sources
from m2raap.search.tags import tags_of_signals

NAME, VERSION = "index", 3
_SCRATCH = pa.schema([*CLIPS, ("vector", pa.binary()), ("frames", pa.binary())])


@dataclass
class Counts:
    """How many clips of a view were embedded, and why the others were not."""

    embedded: int = 0
    kept: int = 0  # clips whose vectors are copied, since the old index has them with the same frames
    without_frames: int = 0
    removed_before: int = 0  # ids that an earlier --remove removed
    elsewhere: int = 0  # ids that the index has from another view

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(frozen=True)
class IndexTask:
    """One part of a view, with all that a worker process needs to write it to scratch/.

    `removed`: hashes of ids that are not indexed; `removed_now`: those of them that were not removed earlier. `old`: digest of
    the index that is updated; None for a new one. `plan`: digest of plan.json.
    """

    out: Path
    view: View
    number: int
    model: Path | BackboneConfig
    may_fetch: bool
    model_digest: str
    removed: frozenset[str]
    removed_now: frozenset[str]
    old: str | None
    part: int
    plan: str


def embed_view(
    out: Path,
    view: View,
    number: int,
    sources: Sources,
    removed_now: set[str],
    encoder: ClipEncoder,
    may_fetch: bool,
    old: Gallery | None,
    counts: Counts,
    engine: Engine,
) -> int:
    """Writes one file in scratch/ for each part of the view and adds to `counts`; finished files of a killed run are kept.

    `removed_now`: those of `sources.removed` that were not removed earlier. Returns how many clips this command embedded.
    """
    scratch = out / "scratch"
    old_digest = old.manifest["digest"] if old else None
    plan = {
        "stage": NAME,
        "version": VERSION,
        "num_parts": view.num_parts,
        "inputs": {},
        "view": view.digest,
        "number": number,
        "model": encoder.digest,
        "removed": sorted(sources.removed),
        "old": old_digest,
    }
    if not (out / "plan.json").exists() or read_object(out / "plan.json") != plan:
        shutil.rmtree(scratch, ignore_errors=True)
        write_json(out / "plan.json", plan)
    removed = frozenset(sources.removed), frozenset(removed_now)
    model = sources.model
    tasks = [
        IndexTask(out, view, number, model, may_fetch, encoder.digest, *removed, old_digest, part, digest(plan))
        for part in range(view.num_parts)
    ]
    fresh = 0
    with talk.progress(f"{out.name}/embed", view.corpus.counts["clips"]) as advance:
        for _, (of_part, is_fresh) in map_networks(engine, index_part, tasks):
            counts.add(of_part)
            fresh += of_part.embedded if is_fresh else 0
            advance(sum(vars(of_part).values()))
    return fresh


def index_part(task: IndexTask) -> tuple[Counts, bool]:
    """Writes the clips of a part with their vectors to scratch/. Returns their counts, and whether they are written now."""
    done = task.out / "scratch" / "clips" / part_name(task.part)
    counted = task.out / "scratch" / "counts" / f"part-{task.part:05d}.json"  # written before `done`
    if done.exists():
        return as_object(Counts, read_object(counted), counted), False
    encoder = index_encoder(task.model, task.may_fetch)
    old = opened_gallery(task.out, task.old) if task.old else None
    if encoder.digest != task.model_digest:
        raise M2raapError(f"{task.out}: the model has changed while clips were embedded; run the same command again")
    counts = Counts()
    part = task.view.part(task.part, ("texts", "jpegs", "signals"))
    rows = [
        row
        for row in _rows(part, task.number)
        if _keep(row, part, task.number, task.removed, task.removed_now, old, counts)
    ]
    vectors = vectors_of_rows(rows, part, encoder, old, counts)
    columns = [[row[name] for row in rows] for name in CLIPS.names]
    columns += [[pair[0] for pair in vectors], [pair[1] for pair in vectors]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SCRATCH, strict=True)]
    if digest(read_object(task.out / "plan.json")) != task.plan:
        raise M2raapError(f"{task.out}: another command has begun to update this index; run the same command again")
    write_json(counted, vars(counts))
    write_table(done, pa.Table.from_arrays(arrays, schema=_SCRATCH))
    return counts, True


@lru_cache(maxsize=1)
def opened_gallery(path: Path, signed: str) -> Gallery:
    """The index at `path` whose manifest has the digest `signed`, opened once in each process: its checks read all of it."""
    gallery = Gallery.open(path)
    if gallery.manifest["digest"] != signed:
        raise M2raapError(f"{path}: the index has changed while it was updated; run the same command again")
    return gallery


def _rows(part: Part, number: int) -> Iterator[Row]:
    """The row of every clip of a part, as in `gallery.CLIPS`."""
    for clip in part.clips:
        clip_id, frames = clip["clip_id"], part.frames.get(clip["clip_id"])
        texts = [row for row in part.texts_of[clip_id] if row["origin"] != "aux"]
        end_s, start_s = clip["end_s"], clip["start_s"] or 0.0
        signals = part.signals.get(clip_id, {})
        known_s, (tags, tags_p) = signals.get("duration_s"), tags_of_signals(clip_id, signals)
        yield {
            "clip_id": clip_id,
            "view": number,
            "duration_s": end_s - start_s if end_s is not None else known_s,
            "times_s": frames["times_s"] if frames else [],
            "width": frames["width"] if frames else None,
            "height": frames["height"] if frames else None,
            "frames_key": _frames_key(frames["jpegs"]) if frames else None,
            "langs": [row["lang"] for row in texts],
            "texts": [row["text"] for row in texts],
            "origins": [row["origin"] for row in texts],
            "tags": tags,
            "tags_p": tags_p,
        } | {name: clip[name] for name in ("video", "start_s", "end_s", "source", "category")}


def _frames_key(jpegs: list[bytes]) -> str:
    hasher = hashlib.blake2b(digest_size=12)
    for jpeg in jpegs:
        hasher.update(len(jpeg).to_bytes(8, "big") + jpeg)
    return hasher.hexdigest()


def _keep(
    row: Row,
    part: Part,
    number: int,
    removed: Collection[str],
    removed_now: Collection[str],
    old: Gallery | None,
    counts: Counts,
) -> bool:
    """Whether a clip goes into the index; one that does not is counted by its cause."""
    clip_id = row["clip_id"]
    if clip_id not in part.frames:
        counts.without_frames += 1
    elif removed and id_hash(clip_id) in removed:
        counts.removed_before += id_hash(clip_id) not in removed_now
    elif old and clip_id in old.row_of and old.clips["view"][old.row_of[clip_id]].as_py() != number:
        counts.elsewhere += 1
    else:
        return True
    return False


def vectors_of_rows(
    rows: list[Row], part: Part, encoder: ClipEncoder, old: Gallery | None, counts: Counts
) -> list[tuple[bytes, bytes]]:
    """The bytes of every row's vector and frame vectors: copied where its frames are those of the old index."""
    vectors: dict[str, tuple[bytes, bytes]] = {}
    for row in rows:
        place = old.row_of.get(row["clip_id"]) if old else None
        if old is not None and place is not None and old.clips["frames_key"][place].as_py() == row["frames_key"]:
            frames_KE = old.frames_FE[old.frames_from[place] : old.frames_from[place + 1]]
            vectors[row["clip_id"]] = (old.vectors_NE[place].tobytes(), frames_KE.tobytes())
    counts.kept += len(vectors)
    new = [row["clip_id"] for row in rows if row["clip_id"] not in vectors]
    encoded = encoder.clips([part.frames[clip_id]["jpegs"] for clip_id in new])
    for clip_id, (vector_E, frames_KE) in zip(new, encoded, strict=True):
        vectors[clip_id] = (vector_E.astype("<f4").tobytes(), frames_KE.astype("<f2").tobytes())
    counts.embedded += len(new)
    return [vectors[row["clip_id"]] for row in rows]


def scratch_block(path: Path) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """(clips, vectors (N, E), frame vectors (F, E)) of one file of scratch/."""
    table = pq.read_table(path, schema=_SCRATCH)
    vectors = [np.frombuffer(data.as_py(), "<f4") for data in table["vector"]]
    dim = len(vectors[0]) if vectors else 1
    frames = [np.frombuffer(data.as_py(), "<f2").reshape(-1, dim) for data in table["frames"]]
    clips = table.select(CLIPS.names)
    if not vectors:
        return clips, np.zeros((0, 1), "<f4"), np.zeros((0, 1), "<f2")
    return clips, np.stack(vectors), np.concatenate(frames)
