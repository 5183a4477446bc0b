"""search: the clips of an index that are nearest to a text, a picture, a video, or one of its own clips."""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.core.files import write_atomic
from m2raap.core.frames import FrameReader
from m2raap.core.signed import read_manifest
from m2raap.core.spread import spread
from m2raap.core.tables import Row, part_of
from m2raap.core.view import View
from m2raap.models.config import BackboneConfig
from m2raap.search.backend import HAS_TAG_P, MOST_FACETS, NO_FILTER, ClipFilter, Hit, NotThere
from m2raap.search.clip_vectors import ClipEncoder
from m2raap.search.gallery import Gallery
from m2raap.search.tags import ClipTags
from m2raap.stages.keyframes import KeyframesConfig, KeyframesStage
from m2raap.stages.transnet import network_cuts
from m2raap.stages.videos import video_worker
from m2raap.video.ending import ending_of
from m2raap.video.extract import KeyframeConfig
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.worker import VideoWorker

MAX_QUERY_CHARS = 500
MAX_TOP = 200
_EXAMPLE_CHARS, _MOST_SOURCES = 60, 100
PICTURE_S = 10.0  # longest time for decoding a picture, which comes from anybody
_GROUPS_BYTES = 256 * 1024**2  # key-frames kept in memory


class Search:
    """An opened index and its model, which is loaded at the first query that needs it. Safe for several threads."""

    def __init__(self, path: Path, model: Path | BackboneConfig | None = None) -> None:
        self.gallery = Gallery.open(path)
        self._faiss = self.gallery.faiss()
        self._model = model or self.gallery.sources.model
        self._may_fetch = model is not None
        self._lock = threading.Lock()  # guards the model and the decoder: one query computes at a time
        self._readers: dict[int, FrameReader] = {}  # number of a view -> the reader of its key-frames
        self._readers_lock = threading.Lock()
        self._probe_lock = threading.Lock()
        self._picture_lock = threading.Lock()

    @cached_property
    def sources(self) -> list[str]:
        return sorted({source for source in self.gallery.clips["source"].to_pylist() if source})

    @cached_property
    def _encoder(self) -> ClipEncoder:
        encoder = ClipEncoder(self._model, fetch=self._may_fetch, for_queries=True)
        if encoder.digest != self.gallery.model_digest:
            name = self._model if isinstance(self._model, Path) else self._model.model
            raise M2raapError(
                f"{self.gallery.path}: was made with model {self.gallery.model_digest[:12]}, not with "
                f"{encoder.digest[:12]} of {name}; give the right --model, or make the index again"
            )
        return encoder

    def ready(self) -> None:
        """Loads the model now. Raises M2raapError where it is not the one with which the index was made."""
        with self._lock:
            _ = self._encoder

    def about(self) -> dict[str, Any]:
        """Facts for the page: number of clips, languages, sources, the model's digest, some captions as example queries, and
        the most frequent tags with their number of clips."""
        gallery = self.gallery
        examples: dict[str, list[str]] = {lang: [] for lang in gallery.langs}
        for row in spread(len(gallery.clips), 12):
            clip = gallery.clip(row)
            for lang, text in zip(clip["langs"], clip["texts"], strict=True):
                if len(examples[lang]) < 3 and len(text) <= _EXAMPLE_CHARS and text not in examples[lang]:
                    examples[lang].append(text)
        return {
            "clips": len(gallery.clips),
            "langs": list(gallery.langs),
            "sources": self.sources[:_MOST_SOURCES],
            "model": gallery.model_digest,
            "examples": examples,
            "tags": self._tags.frequent(MOST_FACETS, HAS_TAG_P),
        }

    def by_text(self, query: str, top: int, clip_filter: ClipFilter = NO_FILTER) -> list[Hit]:
        """The clips nearest to a text. Raises M2raapError for a query that is empty or too long."""
        query = query.strip()
        if not query:
            raise M2raapError("the query is empty; describe what the clip shows, in English or Chinese")
        if len(query) > MAX_QUERY_CHARS:
            raise M2raapError(f"the query has {len(query):,} characters; shorten it to at most {MAX_QUERY_CHARS}")
        with self._lock:
            query_E = self._encoder.texts([query])[0]
        return self._hits(query_E, top, clip_filter)

    def by_picture(self, data: bytes, name: str, top: int, clip_filter: ClipFilter = NO_FILTER) -> list[Hit]:
        """The clips nearest to a picture. Raises M2raapError for bytes that are no picture, or that take too long to decode."""
        with self._picture_lock:  # one at a time, because one may take gigabytes; other queries do not wait for it
            try:
                picture = video_worker(VideoConfig(timeout_s=PICTURE_S)).picture(data, name)
            except Refused as refused:
                raise M2raapError(f"{name}: {refused.detail}") from None
        with self._lock:
            query_E = self._encoder.picture(picture)
        return self._hits(query_E, top, clip_filter)

    def by_video(self, path: Path, top: int, clip_filter: ClipFilter = NO_FILTER) -> list[Hit]:
        """The clips nearest to a video. A child process chooses its key-frames with the settings of the index's first view.

        Raises M2raapError for a file that is missing or no video.
        """
        if not path.is_file():
            raise M2raapError(f"{path}: no such file")
        settings = self._keyframes()
        cfg = KeyframeConfig(**{name: getattr(settings, name) for name in KeyframeConfig.model_fields})
        with self._lock:
            try:
                with VideoWorker(settings.decode) as worker:
                    cuts_s = network_cuts(worker, path.resolve(), 0.0, None, cfg)
                    keyframes = worker.extract(path.resolve(), 0.0, None, cfg, cuts_s)
            except Refused as refused:
                raise M2raapError(f"{path}: cannot be read as a video ({refused})") from None
            query_E = self._encoder.clips([keyframes.jpegs])[0][0]
        return self._hits(query_E, top, clip_filter)

    def like(self, clip_id: str, top: int, clip_filter: ClipFilter = NO_FILTER) -> list[Hit]:
        """The clips nearest to a clip of the index, without that clip. Raises NotThere."""
        row = self._row(clip_id)
        return self._hits(self.gallery.vectors_NE[row], top, clip_filter, without=row)

    def by_tags(self, top: int, clip_filter: ClipFilter) -> list[Hit]:
        """The clips with all tags of the filter, by the product of the probabilities, which is their score; equal ones in the
        order of the index. Frames are scored by their nearness to their clip. Raises UsageError for an unknown tag."""
        _refuse_top(top)
        p_N = self._tags.p(clip_filter.tags, clip_filter.tag_p)
        allowed = self._allowed(clip_filter)
        assert clip_filter.tags and allowed is not None
        rows = np.flatnonzero(allowed)
        best = rows[np.argsort(-p_N[rows], kind="stable")[:top]].tolist()
        vectors_NE = self.gallery.vectors_NE
        return [{"rank": rank} | self._hit(row, float(p_N[row]), vectors_NE[row]) for rank, row in enumerate(best, 1)]

    def facets(self, hits: list[Hit], clip_filter: ClipFilter) -> list[dict[str, Any]]:
        """The tags that most hits have: {tag, clips}. `clips`: how many clips of the index pass the filter and have the tag."""
        rows = [self.gallery.row_of[hit["clip_id"]] for hit in hits]
        return self._tags.of_rows(rows, MOST_FACETS, clip_filter.tag_p, self._allowed(clip_filter))

    def clip(self, clip_id: str) -> Row:
        """The index's row of a clip, as in `gallery.CLIPS`. Raises NotThere."""
        return self.gallery.clip(self._row(clip_id))

    def jpegs(self, clip_id: str) -> list[bytes]:
        """A clip's key-frames in the order of time. Raises NotThere."""
        self.frames_part(clip_id)
        clip = self.clip(clip_id)
        reader, part = self._reader_of(clip)
        try:
            jpegs = reader.jpegs(part, clip_id)
        except M2raapError as error:
            raise NotThere(str(error)) from None
        if len(jpegs) != len(clip["times_s"]):
            raise NotThere(
                f"clip '{clip_id}': its key-frames have changed since; update the index with 'm2raap search index --add'"
            )
        return jpegs

    def frames_part(self, clip_id: str) -> Path:
        """The parquet file that holds a clip's key-frames. Raises NotThere."""
        reader, part = self._reader_of(self.clip(clip_id))
        try:
            path = reader.path(part, clip_id)
        except M2raapError as error:
            raise NotThere(str(error)) from None
        if path is None:
            raise NotThere(f"clip '{clip_id}': its key-frames have been deleted")
        return path

    def video_path(self, clip_id: str) -> Path:
        """The file of a clip, below its corpus's video root. Raises NotThere."""
        clip = self.clip(clip_id)
        if is_url(clip["video"]):
            raise NotThere(f"clip '{clip_id}': its video is a URL, not a file of this machine")
        view = self._corpus_of(clip)
        try:
            return resolve_video(view.corpus.video_root, clip["video"])
        except (Refused, M2raapError) as refused:
            raise NotThere(f"clip '{clip_id}': its video cannot be read ({refused})") from None

    def video(self, clip_id: str) -> Path:
        """The file of a clip, for the server to send: its content was checked to be a video. Raises NotThere."""
        path = self.video_path(clip_id)
        try:
            with self._probe_lock:
                ending_of(path, video_worker(VideoConfig()))
        except Refused as refused:
            raise NotThere(f"clip '{clip_id}': its video cannot be read ({refused})") from None
        return path

    def _row(self, clip_id: str) -> int:
        row = self.gallery.row_of.get(clip_id)
        if row is None:
            raise NotThere(f"{self.gallery.path}: holds no clip '{clip_id}'")
        return row

    def _corpus_of(self, clip: Row) -> View:
        sources = self.gallery.sources
        view = sources.views[clip["view"]]
        try:
            digest = view.digest
        except M2raapError as error:
            raise NotThere(f"clip '{clip['clip_id']}': its corpus cannot be opened ({error})") from None
        # An index from somebody else may name any folder: one is read only where its digest is the one in the index.
        if digest != sources.digests[clip["view"]]:
            raise NotThere(
                f"clip '{clip['clip_id']}': its corpus or a folder of its view has changed since; update the index with "
                "'m2raap search index --add'"
            )
        return view

    def _reader_of(self, clip: Row) -> tuple[FrameReader, int]:
        """The reader of the key-frames of the clip's view, and the part that holds the clip. Raises NotThere."""
        view = self._corpus_of(clip)
        with self._readers_lock:
            reader = self._readers.get(clip["view"])
            if reader is None:
                held_bytes = _GROUPS_BYTES // len(self.gallery.sources.views)
                reader = self._readers[clip["view"]] = FrameReader(view.folders, held_bytes)
        return reader, part_of(clip["clip_id"], view.num_parts)

    def _keyframes(self) -> KeyframesConfig:
        """The settings with which the key-frames of the first view were chosen."""
        for folder in self.gallery.sources.views[0].folders:
            manifest = read_manifest(folder)
            if manifest["stage"] == KeyframesStage.name:
                return KeyframesConfig(**manifest["settings"]["score"])
        return KeyframesConfig()

    def _allowed(self, clip_filter: ClipFilter) -> np.ndarray | None:
        if clip_filter == NO_FILTER:
            return None
        allowed = np.ones(len(self.gallery.clips), bool)
        if clip_filter.source is not None:
            if clip_filter.source not in self.sources:
                known = ", ".join(self.sources[:8]) or "none"
                raise M2raapError(f"--source {clip_filter.source}: is not in the index; give one of: {known}")
            allowed &= self._source_names == clip_filter.source
        if clip_filter.min_s is not None or clip_filter.max_s is not None:
            lengths_s = self._lengths_s
            least, most = clip_filter.min_s or 0.0, np.inf if clip_filter.max_s is None else clip_filter.max_s
            allowed &= (lengths_s >= least) & (lengths_s <= most)  # a comparison with NaN is False
        if clip_filter.tags:
            allowed &= ~np.isnan(self._tags.p(clip_filter.tags, clip_filter.tag_p))
        return allowed

    @cached_property
    def _tags(self) -> ClipTags:
        return ClipTags.of(self.gallery.clips)

    @cached_property
    def _source_names(self) -> np.ndarray:
        return np.array([source or "" for source in self.gallery.clips["source"].to_pylist()])

    @cached_property
    def _lengths_s(self) -> np.ndarray:
        """Seconds of every clip (N,), NaN where they are unknown."""
        return self.gallery.clips["duration_s"].to_numpy().astype(float)

    def _hits(self, query_E: np.ndarray, top: int, clip_filter: ClipFilter, without: int | None = None) -> list[Hit]:
        _refuse_top(top)
        num = top if without is None else top + 1
        # Few clips may have a tag, which an approximate index would miss.
        allowed, exact = self._allowed(clip_filter), bool(clip_filter.tags)
        rows, scores = self._faiss.search(query_E[None], num, allowed, exact=exact)
        candidates = [(row, score) for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True) if row >= 0]
        kept = [(row, score) for row, score in candidates if row != without][:top]
        return [{"rank": rank} | self._hit(row, score, query_E) for rank, (row, score) in enumerate(kept, 1)]

    def _hit(self, row: int, score: float, query_E: np.ndarray) -> Hit:
        clip = self.gallery.clip(row)
        scores_K = self.gallery.frame_vectors(row) @ query_E
        order = sorted(range(len(scores_K)), key=lambda n: (-scores_K[n], n))
        start_s = clip["start_s"] or 0.0
        return {
            "score": round(score, 6),
            "clip_id": clip["clip_id"],
            "video": clip["video"],
            "start_s": start_s,
            "end_s": clip["end_s"],
            "duration_s": clip["duration_s"],
            "source": clip["source"],
            "category": clip["category"],
            "width": clip["width"],
            "height": clip["height"],
            # Best frame first. time_s counts from the start of the video, so that a player can seek to it.
            "frames": [
                {"n": n, "time_s": round(start_s + clip["times_s"][n], 6), "score": round(float(scores_K[n]), 6)}
                for n in order
            ],
            "captions": [
                {"lang": lang, "text": text, "origin": origin}
                for lang, text, origin in zip(clip["langs"], clip["texts"], clip["origins"], strict=True)
            ],
            "tags": [{"tag": tag, "p": p} for tag, p in zip(clip["tags"], clip["tags_p"], strict=True)],
        }


def _refuse_top(top: int) -> None:
    if not 1 <= top <= MAX_TOP:
        raise M2raapError(f"--top {top}: must be between 1 and {MAX_TOP}")


def locate(search: Search, hits: list[Hit]) -> None:
    """Adds the paths of this machine to every hit: `video_path`, and `frames_part`, the parquet file whose list `jpegs` in the
    row of the clip holds key-frame n; None for a missing file. The HTTP API sends no paths and does not call this.
    """
    for hit in hits:
        for name, find in (("video_path", search.video_path), ("frames_part", search.frames_part)):
            try:
                hit[name] = str(find(hit["clip_id"]))
            except NotThere:
                hit[name] = None


def save_frames(search: Search, hits: list[Hit], folder: Path) -> None:
    """Writes every hit's key-frames below `folder` (RANK-N.jpg, N in the order of time) and adds their paths to it."""
    for hit in hits:
        jpegs = search.jpegs(hit["clip_id"])
        for frame in hit["frames"]:
            path = folder / f"{hit['rank']:03d}-{frame['n']}.jpg"
            write_atomic(path, jpegs[frame["n"]])
            frame["path"] = str(path)
