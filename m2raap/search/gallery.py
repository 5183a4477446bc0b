"""An index on disk: a stage folder whose rows are clips.

clips/part-*.parquet   one row per clip, in the order of the vectors: id, video, times, source, texts and their languages, tags
vectors.npy            (N, E) float32, one unit vector per clip
frames.npy             (F, E) float16, one unit vector per key-frame, clip after clip
index.faiss            made from vectors.npy; opened only where its SHA-256 is the one in manifest.json
sources.json           the model and the views that the clips came from, hashes of the ids that were removed
manifest.json          written last: SHA-256 of each of these files, the model's digest, languages
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from m2raap.core.config import build
from m2raap.core.errors import M2raapError
from m2raap.core.files import file_sha256, read_object
from m2raap.core.records import ViewPaths, as_record, read_record
from m2raap.core.signed import part_key, read_manifest, refuse_changed_file, signed_parts, signed_path
from m2raap.core.tables import Row, damaged, write_table
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig
from m2raap.retrieval.embeddings import read_npy
from m2raap.retrieval.index import Kind, VectorIndex
from m2raap.search.index_rows import refuse_bad_rows
from m2raap.search.tags import with_numbered_tags

CLIPS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("view", pa.int32()),  # number of the view in sources.json
        ("video", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("duration_s", pa.float64()),  # null where it is unknown
        ("source", pa.string()),
        ("category", pa.string()),
        ("times_s", pa.list_(pa.float64())),  # times of the key-frames, since the start of the clip
        ("width", pa.int32()),  # width of the key-frames in pixels; null in an index of version 1
        ("height", pa.int32()),
        ("frames_key", pa.string()),  # digest of the JPEGs that the vectors were made from
        ("langs", pa.list_(pa.string())),
        ("texts", pa.list_(pa.string())),
        ("origins", pa.list_(pa.string())),
        # Labels of annotate, the most probable first; null in an index of version 1 or 2.
        ("tags", pa.list_(pa.string())),
        ("tags_p", pa.list_(pa.float64())),  # their probabilities
    ]
)
CLIPS_A_PART = 8192
VECTORS, FRAMES, FAISS, SOURCES = "vectors.npy", "frames.npy", "index.faiss", "sources.json"


class _ViewJson(ViewPaths):
    digest: str


class _ModelJson(TypedDict, total=False):
    folder: str
    backbone: dict[str, Any]


class _SourcesJson(TypedDict):
    """sources.json, as Sources.tree writes it."""

    model: _ModelJson
    views: list[_ViewJson]
    removed: list[str]


# `asked`: the --kind that the user gave.
_IndexSettings = TypedDict(  # noqa: UP013
    "_IndexSettings", {"asked": Literal["auto", "flat", "hnsw", "ivf", "pq"], "kind": Kind, "langs": list[str]}
)


class _IndexModels(TypedDict):
    model: str


class _IndexManifest(TypedDict):
    """What the manifest of an index holds besides the keys of every stage."""

    settings: _IndexSettings
    models: _IndexModels


@dataclass(frozen=True)
class Sources:
    """What an index was made from. Paths are absolute; on disk they are relative to the index."""

    model: Path | BackboneConfig
    views: tuple[View, ...]
    digests: tuple[str, ...]  # digests of the views when their clips were read
    removed: tuple[str, ...] = ()  # hashes of ids that --add does not index again

    def tree(self, folder: Path) -> dict[str, Any]:
        base = folder.resolve()
        relative = lambda path: os.path.relpath(path.resolve(), base)  # noqa: E731
        if isinstance(self.model, Path):
            model: dict[str, Any] = {"folder": relative(self.model)}
        else:
            model = {"backbone": self.model.model_dump(mode="json")}
        views = [
            {
                "corpus": relative(view.corpus_path),
                "folders": [relative(path) for path in view.folders],
                "langs": list(view.langs),
                "cutoff": view.cutoff,
                "digest": digest,
            }
            for view, digest in zip(self.views, self.digests, strict=True)
        ]
        return {"model": model, "views": views, "removed": sorted(self.removed)}

    @classmethod
    def read(cls, folder: Path) -> Sources:
        """The sources of the index in `folder`. Raises M2raapError where the file is damaged."""
        path = folder / SOURCES
        tree = read_record(_SourcesJson, path)
        base = folder.resolve()
        resolve = lambda name: Path(os.path.normpath(base / name))  # noqa: E731
        model, rows = tree["model"], tree["views"]
        names = [name for row in rows for name in (row["corpus"], *row["folders"])]
        if (
            not rows
            or any("\0" in name for name in (*names, model.get("folder", "")))
            or not {"folder", "backbone"} & {*model}
        ):
            raise M2raapError(f"{path}: names no view, no model, or a path that cannot exist; make the index again")
        views = [
            View(resolve(row["corpus"]), tuple(map(resolve, row["folders"])), tuple(row["langs"]), cutoff=row["cutoff"])
            for row in rows
        ]
        return cls(
            resolve(model["folder"])
            if "folder" in model
            else build(BackboneConfig, model.get("backbone", {}), f"{path}: model.backbone"),
            tuple(views),
            tuple(row["digest"] for row in rows),
            tuple(tree["removed"]),
        )


@dataclass(frozen=True)
class Gallery:
    """An opened index of N clips with F key-frames in all. A row is the number of a clip, from 0 to N - 1."""

    path: Path
    manifest: dict[str, Any]
    clips: pa.Table
    vectors_NE: np.ndarray
    frames_FE: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Gallery:
        """Raises M2raapError where there is no finished index, or its tables differ from what its manifest says."""
        if not (path / "manifest.json").exists():
            what = "an unfinished index" if (path / "plan.json").exists() else "no index"
            raise M2raapError(
                f"{path}: {what} (no manifest.json); make one with 'm2raap search index VIEW --model M --out {path}'"
            )
        tree = read_object(path / "manifest.json")
        if tree.get("stage") != "index":
            raise M2raapError(
                f"{path}: is not an index, but the output of '{str(tree.get('stage') or tree.get('kind'))[:40]}'"
            )
        manifest = read_manifest(path)
        as_record(_IndexManifest, manifest, path / "manifest.json")
        for name in (SOURCES, VECTORS, FRAMES):  # before a model that the first one names is loaded
            refuse_changed_file(path, name)
        tables = [_clips_of(path, part) for part in signed_parts(path, "clips") or ()]
        if not tables or FAISS not in manifest["files"]:
            raise M2raapError(f"{path}: its manifest lists no file of clips, or no {FAISS}; make the index again")
        clips = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        vectors_NE, frames_FE = (_mapped(path / name, kind) for name, kind in ((VECTORS, "<f4"), (FRAMES, "<f2")))
        gallery = cls(path, manifest, clips, vectors_NE, frames_FE)
        refuse_bad_rows(path, clips, len(gallery.sources.views))
        if len(vectors_NE) != len(clips) or len(frames_FE) != gallery.frames_from[-1]:
            raise M2raapError(
                f"{path}: {len(vectors_NE)} clip and {len(frames_FE)} frame vectors for {len(clips)} clips with "
                f"{gallery.frames_from[-1]} frames; make the index again"
            )
        for name, vectors in ((VECTORS, vectors_NE), (FRAMES, frames_FE)):
            if not are_finite(vectors):
                raise M2raapError(
                    f"{path / name}: holds NaN or infinity, so that no search can use it; make the index again"
                )
        return gallery

    @property
    def model_digest(self) -> str:
        return self.manifest["models"]["model"]

    @property
    def langs(self) -> tuple[str, ...]:
        return tuple(self.manifest["settings"]["langs"])

    @cached_property
    def sources(self) -> Sources:
        return Sources.read(self.path)

    @cached_property
    def frames_from(self) -> np.ndarray:
        """(N + 1,): the frames of clip i are rows frames_from[i] to frames_from[i + 1] of `frames_FE`."""
        lengths = self.clips["times_s"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {clip_id: row for row, clip_id in enumerate(self.clips["clip_id"].to_pylist())}

    def faiss(self) -> VectorIndex:
        """The faiss index. Raises M2raapError where the file differs from its SHA-256 in the manifest."""
        digest, kind = self.manifest["files"][FAISS], self.manifest["settings"]["kind"]
        return VectorIndex.open(self.path / FAISS, digest, kind, self.vectors_NE)

    def clip(self, row: int) -> Row:
        return self.clips.slice(row, 1).to_pylist()[0]

    def frame_vectors(self, row: int) -> np.ndarray:
        """Vectors (K, E) float32 of a clip's key-frames, in the order of time."""
        return self.frames_FE[self.frames_from[row] : self.frames_from[row + 1]].astype(np.float32)


def _clips_of(path: Path, part: int) -> pa.Table:
    file = refuse_changed_file(path, part_key("clips", part))
    try:
        return with_numbered_tags(pq.read_table(file, schema=CLIPS))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(file, error) from None


def are_finite(vectors_NE: np.ndarray) -> bool:
    """Whether no vector holds NaN or infinity (or is so long that its square is infinite)."""
    return all(
        bool(np.isfinite(np.einsum("ne,ne->n", block, block, dtype=np.float32)).all())
        for block in (vectors_NE[start : start + CLIPS_A_PART] for start in range(0, len(vectors_NE), CLIPS_A_PART))
    )


def _mapped(path: Path, kind: str) -> np.ndarray:
    array = read_npy(path)
    if array.dtype != np.dtype(kind) or array.ndim != 2:
        raise M2raapError(f"{path}: holds {array.dtype} of shape {array.shape}; make the index again")
    return array


class Writer:
    """Writes the tables and arrays of an index, block by block; nothing is held in memory."""

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True)
        (folder / "clips").mkdir()
        self._folder, self._dim = folder, dim
        self._arrays = [_Rows(folder / VECTORS, np.dtype("<f4"), dim), _Rows(folder / FRAMES, np.dtype("<f2"), dim)]
        self._waiting = CLIPS.empty_table()
        self.files: dict[str, str] = {}
        self.num_clips = 0

    def add(self, clips: pa.Table, vectors_NE: np.ndarray, frames_FE: np.ndarray) -> None:
        for array, rows in zip(self._arrays, (vectors_NE, frames_FE), strict=True):
            if not are_finite(rows):
                raise M2raapError(
                    f"{self._folder.parent}: the model makes vectors of NaN or infinity, so that no search can use them; give "
                    "another --model"
                )
            array.append(rows)
        self.num_clips += len(clips)
        self._waiting = pa.concat_tables([self._waiting, clips])
        while len(self._waiting) >= CLIPS_A_PART:
            self._part()

    def _part(self) -> None:
        """Writes CLIPS_A_PART rows, so that the same clips make the same files in whatever blocks they were added."""
        key = f"clips/{len(self.files):05d}"
        self.files[key] = write_table(signed_path(self._folder, key), self._waiting.slice(0, CLIPS_A_PART))
        self._waiting = self._waiting.slice(CLIPS_A_PART)

    def close(self) -> None:
        if len(self._waiting):
            self._part()
        for array in self._arrays:
            self.files[array.path.name] = array.close()


class _Rows:
    """A .npy file to which rows are appended: numpy leaves room in its header for their final number."""

    def __init__(self, path: Path, dtype: np.dtype, dim: int) -> None:
        self.path, self._dtype, self._dim, self._num = path, dtype, dim, 0
        self._sink = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._header()

    def _header(self) -> None:
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._num, self._dim)}
        np.lib.format.write_array_header_1_0(self._sink, described)

    def append(self, rows: np.ndarray) -> None:
        assert rows.shape[1] == self._dim
        self._sink.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._num += len(rows)

    def close(self) -> str:
        self._sink.seek(0)
        self._header()
        self._sink.flush()
        os.fsync(self._sink.fileno())
        self._sink.close()
        return file_sha256(self.path)


def blocks(gallery: Gallery, rows: Iterable[int], view: int, max_rows: int = CLIPS_A_PART) -> Iterator[tuple]:
    """(clips, vectors, frame vectors) of rows of an index as `Writer.add` takes them, with `view` as their view's number."""
    numbers_of_rows = list(rows)
    for start in range(0, len(numbers_of_rows), max_rows):
        block = numbers_of_rows[start : start + max_rows]
        clips = gallery.clips.take(pa.array(block)).cast(CLIPS)
        numbers = pa.array([view] * len(block), pa.int32())
        clips = clips.set_column(CLIPS.get_field_index("view"), CLIPS.field("view"), numbers)
        spans = [np.arange(gallery.frames_from[row], gallery.frames_from[row + 1]) for row in block]
        yield clips, gallery.vectors_NE[block], gallery.frames_FE[np.concatenate(spans)]


def same_view(view: View, other: View) -> bool:
    """Whether two views are of the same folders, whatever the folders contain now."""
    resolved = lambda view: replace(  # noqa: E731
        view, corpus_path=view.corpus_path.resolve(), folders=tuple(path.resolve() for path in view.folders)
    )
    return resolved(view) == resolved(other)
