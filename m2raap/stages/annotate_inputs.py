"""What a tagger is fitted on, read from a view by workers: frame vectors that a stage or an import has stored, and labels.

Tasks carry a view and numbers of parts; what they read goes into shards, and never through the process that hands them out.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from m2raap.annotate.config import CAPTIONS, CATEGORY, COLUMN, AnnotateConfig, LabelsConfig
from m2raap.annotate.job import LABELS, Job, stamp
from m2raap.annotate.label_set import LabelSet, Synonyms, companions, frequent, label_set, stated_label_set
from m2raap.annotate.label_words import words_of
from m2raap.annotate.shards import make_shard, read_shard, write_shard
from m2raap.core import talk
from m2raap.core.config import digest
from m2raap.core.engine import Engine
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import file_sha256, read_regular
from m2raap.core.signed import part_key, read_manifest, signed_parts, signed_path, stage_manifest
from m2raap.core.tables import Clip, Row, Text, part_schema, read_part
from m2raap.core.view import Part, View
from m2raap.curate.encode import unpack
from m2raap.retrieval.embeddings import Embeddings

VECTORS, DIM = "features", "dim"  # columns of signals of clips
STATED = "labels"  # a column of the signals of a corpus: the labels that its list stated
_EMBED = "embed"


def vector_folder(view: View) -> Path:
    """The folder of the view that holds frame vectors: of embed (one vector a clip), of align, or the corpus.

    Raises M2raapError where none does.
    """
    for folder in reversed(view.folders):
        stage = stage_manifest(folder)["stage"]
        if stage == _EMBED or VECTORS in _columns(folder):
            return folder
    if VECTORS in _columns(view.corpus_path):
        return view.corpus_path
    raise M2raapError(
        f"{view.folders[-1] if view.folders else view.corpus_path}: holds no vectors of frames; run 'm2raap align' or "
        "'m2raap embed' on it first and give its --out here"
    )


def _columns(folder: Path) -> set[str]:
    for part in signed_parts(folder, "signals") or []:
        return set(part_schema(signed_path(folder, part_key("signals", part))).names)
    return set()


def vectors_made_with(view: View) -> str:
    """What frame vectors depend on: those of another backbone mean something else, even where they are as long."""
    folder = vector_folder(view)
    if folder == view.corpus_path:
        return f"imported:{view.corpus.source.get('importer', '')}"
    manifest = stage_manifest(folder)
    if _is_embed(folder, view):
        return f"embed:{manifest['models'].get('model', '')}"
    return f"frames:{digest(manifest['settings'].get('dependencies', {}).get('backbone'))}"


def vectors_digest(view: View) -> str:
    """Of vectors that are in no row of the view: those of embed; "" for all others, which the rows of their clips hold."""
    folder = vector_folder(view)
    return read_manifest(folder)["digest"] if _is_embed(folder, view) else ""


def _is_embed(folder: Path, view: View) -> bool:
    return folder != view.corpus_path and stage_manifest(folder)["stage"] == _EMBED


def frame_vectors(view: View, part: int, rows: Iterable[Row] | None = None) -> dict[str, np.ndarray]:
    """clip_id -> (K, E) float32 vectors of a part's clips. `rows`: their signals, where they have been read.

    Raises M2raapError for a clip whose vectors are damaged.
    """
    folder = vector_folder(view)
    if _is_embed(folder, view):
        return _embedded(folder, read_manifest(folder)["digest"])
    rows = read_part(folder, "signals", part, ["clip_id", "text_id", VECTORS, DIM]) if rows is None else rows
    vectors: dict[str, np.ndarray] = {}
    for row in rows:
        if row.get("text_id") is None and (data := row.get(VECTORS)) is not None:
            if not row.get(DIM) or len(data) == 0 or len(data) % (2 * row[DIM]):
                raise M2raapError(
                    f"{folder}: the vectors of clip {row['clip_id']} have no whole rows of {row.get(DIM)}; make it again"
                )
            vectors[row["clip_id"]] = unpack(data, row[DIM])
            if not np.isfinite(vectors[row["clip_id"]]).all():
                raise M2raapError(f"{folder}: the vectors of clip {row['clip_id']} hold NaN or infinity; make it again")
    return vectors


@lru_cache(maxsize=1)
def _embedded(folder: Path, digest_of_folder: str) -> dict[str, np.ndarray]:
    embeddings = Embeddings.load(folder)
    if not np.isfinite(embeddings.video_VE).all():
        raise M2raapError(f"{folder}: its vectors hold NaN or infinity; embed again")
    return {name: row[None] for name, row in zip(embeddings.video_ids, np.asarray(embeddings.video_VE), strict=True)}


@dataclass(frozen=True)
class PartsTask:
    """Some parts of a view to be read by one worker. `kept`: words of captions that can be labels."""

    view: View
    labels: LabelsConfig
    parts: tuple[int, ...]
    kept: frozenset[str] = frozenset()
    job: Job | None = None
    index: int = 0

    def read(self, part: int) -> Part:
        of_clips = self.labels.source == CAPTIONS
        return self.view.part(part, ("texts",) if of_clips else ("signals",) if self.labels.source == COLUMN else ())

    def names(self, part: Part, clip: Clip) -> set[str]:
        """The labels of a clip of a part by name; of captions the words, with their languages, by the heads of their synonyms."""
        texts, signals = part.texts_of[clip["clip_id"]], part.signals.get(clip["clip_id"], {})
        names = _names_of(clip, texts, signals, self.labels)
        return _synonyms(self.labels.synonyms).heads(names) if self.labels.source == CAPTIONS else names


def _names_of(clip: Clip, texts: Iterable[Text], signals: Row, cfg: LabelsConfig) -> set[str]:
    if cfg.source == CAPTIONS:
        return {word for text in texts for word in words_of(text["text"], text["lang"])}
    if cfg.source == CATEGORY:
        return {name for cell in (clip["category"] or "").split(";") if (name := cell.strip())}
    if cfg.source == COLUMN:
        return set(signals.get(STATED) or ())
    path = Path(cfg.source)
    key, by_key = _listed(path, stamp(path))
    return by_key.get(clip[key] or "", set())


@lru_cache(maxsize=1)
def _listed(path: Path, as_of: tuple[int, ...]) -> tuple[Literal["clip_id", "url"], dict[str, set[str]]]:
    """The column of the keys of a csv, and key -> labels. Raises M2raapError for a file without these, or an empty key."""
    try:
        rows = csv.DictReader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline=""))
        columns = rows.fieldnames or ()
        key: Literal["clip_id", "url"] | None = (
            "clip_id" if "clip_id" in columns else "url" if "url" in columns else None
        )
        if key is None or "label" not in columns:
            raise M2raapError(
                f"{path}: expected the columns clip_id (or url) and label, found {', '.join(columns)[:200] or 'none'}"
            )
        by_key: dict[str, set[str]] = {}
        for number, row in enumerate(rows, 1):
            if not row[key]:
                raise M2raapError(f"{path}: row {number}: {key} is empty; name a clip, or remove the row")
            names = {name for cell in (row["label"] or "").split(";") if (name := cell.strip())}
            by_key.setdefault(row[key], set()).update(names)
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise M2raapError(f"{path}: cannot be read as a csv ({error})") from None
    return key, by_key


def source_digest(cfg: LabelsConfig) -> list[str]:
    """SHA-256 of the files that the labels depend on. Raises UsageError for one that is not there."""
    source = None if cfg.source in (CAPTIONS, CATEGORY, COLUMN) else Path(cfg.source)
    files = {"source": source, "stop_words": cfg.stop_words, "synonyms": cfg.synonyms}
    for key, path in files.items():
        if path is not None and not path.is_file():
            words = f"; give {CAPTIONS}, {CATEGORY}, {COLUMN} or the path of a csv" if key == "source" else ""
            raise UsageError(f"annotate.labels.{key}: {path} is no file{words}")
    return [file_sha256(path) for path in files.values() if path is not None]


@dataclass(frozen=True)
class Counted:
    """How many clips have each name, in all and of those with texts in both languages; and each English with each Chinese word
    of `PartsTask.kept`."""

    num_clips: int
    clips: Counter[str]
    bilingual: Counter[str]
    pairs: Counter[tuple[str, str]]


def count_names(task: PartsTask) -> Counted:
    """Counts the labels of the clips of some parts."""
    num_clips, clips, bilingual, pairs = 0, Counter(), Counter(), Counter()
    for index in task.parts:
        part = task.read(index)
        for clip in part.clips:
            texts = part.texts_of[clip["clip_id"]]
            names = task.names(part, clip)
            num_clips += 1
            if task.kept:
                names &= task.kept
                if {text["lang"] for text in texts} >= {"en", "zh"}:
                    bilingual.update(names)
                    pairs.update(product(_in_lang(names, "en"), _in_lang(names, "zh")))
            clips.update(names)
    return Counted(num_clips, clips, bilingual, pairs)


def _in_lang(names: Iterable[str], lang: str) -> list[str]:
    return [name for name in names if name.startswith(f"{lang}:")]


@lru_cache(maxsize=1)
def _read_synonyms(path: Path | None, as_of: tuple[int, ...]) -> Synonyms:
    return Synonyms(path)


def _synonyms(path: Path | None) -> Synonyms:
    return _read_synonyms(path, stamp(path) if path else ())


def _sum(results: Iterable[Counted]) -> Counted:
    total = Counted(0, Counter(), Counter(), Counter())
    for part in results:
        total = Counted(
            total.num_clips + part.num_clips,
            *(getattr(total, n) + getattr(part, n) for n in ("clips", "bilingual", "pairs")),
        )
    return total


def make_label_set(view: View, cfg: LabelsConfig, engine: Engine, shards: list[tuple[int, ...]]) -> LabelSet:
    """The labels of a view's clips, counted by workers. Raises M2raapError where no label has enough clips."""
    synonyms = _synonyms(cfg.synonyms)
    tasks = [PartsTask(view, cfg, parts) for parts in shards]
    total = _sum(result for _, result in engine.map(count_names, tasks))
    if not total.num_clips:
        raise M2raapError(f"{view.corpus_path}: no clip is left to fit a tagger on")
    if cfg.source != CAPTIONS:
        return stated_label_set(total.clips, total.num_clips, cfg, synonyms)
    counts = frequent(total.clips, total.num_clips, cfg)
    joined: dict[str, str] = {}
    pairs: Counter[tuple[str, str]] = Counter()
    if cfg.join_langs is not None and _in_lang(counts, "en") and _in_lang(counts, "zh"):
        kept = frozenset(counts)
        both = _sum(
            result for _, result in engine.map(count_names, [PartsTask(view, cfg, parts, kept) for parts in shards])
        )
        pairs = both.pairs
        joined = companions(both.bilingual, pairs, cfg.join_langs)
    return label_set(counts, total.num_clips, cfg, synonyms, joined, pairs)


def parts_of_shards(view: View, shard_clips: int) -> list[tuple[int, ...]]:
    """The parts of each shard: runs of them with about `shard_clips` clips."""
    clips_a_part = max(1, view.corpus.counts["clips"] // view.num_parts)
    size = max(1, round(shard_clips / clips_a_part))
    return [tuple(range(start, min(start + size, view.num_parts))) for start in range(0, view.num_parts, size)]


def gather(task: PartsTask) -> tuple[int, int]:
    """Writes the shard of some parts; returns its number of clips and the size of a vector, 0 where there are no clips."""
    job = task.job
    assert job is not None
    path = job.shard(task.index)
    if not path.exists():
        labels = job.labels
        frames: list[np.ndarray] = []
        of_clips: list[list[int]] = []
        videos: list[str] = []
        for index in task.parts:
            part, vectors = task.read(index), frame_vectors(task.view, index)
            for clip in part.clips:
                clip_id = clip["clip_id"]
                if clip_id not in vectors:
                    continue  # nothing can be learnt from it; `write_inputs` says how many clips are left
                frames.append(vectors[clip_id])
                of_clips.append(labels.labels_in(task.names(part, clip)))
                videos.append(clip["video"])
        if len(sizes := {rows.shape[1] for rows in frames}) > 1:
            raise M2raapError(
                f"{vector_folder(task.view)}: vectors of {sorted(sizes)} numbers in one part; make it again"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shard(path, make_shard(frames, of_clips, videos, job.cfg))
    shard = read_shard(path)
    return len(shard), shard.frames_FE.shape[1]


def write_inputs(view: View, cfg: AnnotateConfig, engine: Engine, folder: Path) -> Job:
    """Writes labels.json and the shards into `folder`, unless they are there, and returns the job of fitting on them.

    Raises M2raapError for clips without vectors, vectors of different sizes, or no label with enough clips.
    """
    shards = parts_of_shards(view, cfg.fit.shard_clips)
    vector_folder(view)
    if not (folder / LABELS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        make_label_set(view, cfg.labels, engine, shards).save(folder / LABELS)
    job = Job(cfg.fit, folder, 0, len(shards))
    tasks = [PartsTask(view, cfg.labels, parts, job=job, index=index) for index, parts in enumerate(shards)]
    counts = [result for _, result in engine.map(gather, tasks)]
    dims = {dim for num, dim in counts if num}
    if len(dims) != 1:
        problem = f"vectors of {sorted(dims)} numbers" if dims else "no vectors of its clips"
        raise M2raapError(f"{vector_folder(view)}: holds {problem}; make it again")
    talk.log(f"annotate: {sum(num for num, _ in counts):,} clips, {len(job.labels):,} labels")
    return Job(cfg.fit, folder, dims.pop(), len(shards))
