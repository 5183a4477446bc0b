"""What a stage reads: a corpus combined with the folders of the stages before it, part by part.

A stage folder holds only the rows that the stage adds or drops. A view leaves out dropped clips and texts, joins frames and
signals by id, and replaces a text by the row of the same id in a later folder. From a benchmark nothing is left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from m2raap.core import tombstones
from m2raap.core.config import canonical, digest
from m2raap.core.corpus import LANGS, Corpus, open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object
from m2raap.core.scores import open_scores, scores_digest
from m2raap.core.signed import read_manifest, stage_manifest
from m2raap.core.tables import FRAMES, Clip, Drop, Frames, Row, Text, read_part, row_key


@dataclass(frozen=True)
class Part:
    """The rows of one part that were not dropped, in the order of their ids."""

    index: int
    clips: list[Clip]
    texts: list[Text]
    frames: dict[str, Frames] = field(default_factory=dict)  # key: clip_id
    signals: dict[str, Row] = field(default_factory=dict)  # key: clip_id or text_id; the columns of all stages joined
    scores: dict[str, Row] = field(default_factory=dict)  # key: clip_id or text_id; the columns of users' scores

    @cached_property
    def texts_of(self) -> dict[str, list[Text]]:
        """clip_id -> its texts, for every clip of the part."""
        texts: dict[str, list[Text]] = {row["clip_id"]: [] for row in self.clips}
        for row in self.texts:
            texts[row["clip_id"]].append(row)
        return texts

    def only(self, clip_ids: set[str]) -> Part:
        return replace(
            self,
            clips=[row for row in self.clips if row["clip_id"] in clip_ids],
            texts=[row for row in self.texts if row["clip_id"] in clip_ids],
        )

    def with_signals(self, columns: tuple[str, ...]) -> Part:
        """The part with only these columns of `signals`."""
        signals = {key: {name: row[name] for name in columns if name in row} for key, row in self.signals.items()}
        return replace(self, signals=signals)


@dataclass(frozen=True)
class View:
    """A corpus and the finished stage folders over it, oldest first. It is small and picklable: workers open it again."""

    corpus_path: Path
    folders: tuple[Path, ...] = ()
    langs: tuple[str, ...] = LANGS
    scores: tuple[Path, ...] = ()  # files of --scores, read as signals before those of any stage
    cutoff: str | None = None  # with --limit: the largest id hash of a clip in the view
    with_inactive: bool = False

    @cached_property
    def corpus(self) -> Corpus:
        return open_corpus(self.corpus_path)

    @property
    def num_parts(self) -> int:
        return self.corpus.num_parts

    @property
    def is_benchmark(self) -> bool:
        return self.corpus.benchmark is not None

    @cached_property
    def digest(self) -> str:
        """The digest of the content of the view: equal digests mean equal rows."""
        parents = [read_manifest(folder)["digest"] for folder in self.folders]
        scores = [scores_digest(self.scores)] if self.scores else []
        return digest([self.corpus.digest, parents, self.langs, self.cutoff, *scores])

    def over(self, folder: Path) -> View:
        return replace(self, folders=(*self.folders, folder))

    def with_scores(self, paths: tuple[Path, ...]) -> View:
        """The view with users' scores among the signals. Raises M2raapError for files that do not fit the corpus."""
        if paths:
            open_scores(paths).check(self.corpus, tombstones.read(self.corpus_path))
        return replace(self, scores=paths)

    @property
    def score_columns(self) -> dict[str, str]:
        """Column -> clip_id or text_id, of users' scores."""
        return open_scores(self.scores).columns if self.scores else {}

    def limited(self, num_clips: int | None) -> View:
        """The `num_clips` clips with the smallest id hashes: always the same ones, and a prefix of any larger limit.

        A clip that was forgotten is still counted, so that no other clip takes its place.
        """
        if num_clips is None:
            return self
        if num_clips < 1:
            raise M2raapError(f"--limit {num_clips}: must be at least 1")
        present = {_id_hash(row["clip_id"]) for row in self.corpus.all_rows("clips", ["clip_id"])}
        forgotten = {row.id for row in tombstones.read(self.corpus_path).by_id.values() if row.was_here}
        hashes = sorted(present | forgotten)
        return replace(self, cutoff=hashes[min(num_clips, len(hashes)) - 1])

    def part(self, index: int, tables: tuple[str, ...] = ("texts",)) -> Part:
        """One part, with the tables named: of 'texts', 'frames', 'signals', 'jpegs' ('frames' without 'jpegs' leaves the
        pictures on disk)."""
        if self.cutoff is not None and not any(map(self._within, self._clip_ids(index))):
            return Part(index, [], [])  # of a large corpus a small limit leaves most parts empty
        dropped_ids = set() if self.is_benchmark else self.dropped_ids(index)
        clips = [
            row
            for row in cast(list[Clip], self.corpus.rows("clips", index))
            if row["clip_id"] not in dropped_ids and self._within(row["clip_id"])
        ]
        clip_ids = {row["clip_id"] for row in clips}
        texts: dict[str, Text] = {}
        if "texts" in tables:
            for table in ("texts", "superseded"):
                for row in self._rows(table, index):
                    texts[row["text_id"]] = cast(Text, row)
        frames = self._frames(index, clip_ids, "jpegs" in tables) if {"frames", "jpegs"} & {*tables} else {}
        signals = self._signals(index) if "signals" in tables else {}
        scores = open_scores(self.scores).of(clips, texts.values()) if self.scores else {}
        kept = [
            row
            for row in texts.values()
            if row["clip_id"] in clip_ids
            and row["text_id"] not in dropped_ids
            and row["lang"] in self.langs
            and (row["active"] or self.with_inactive)
        ]
        kept.sort(key=lambda row: (row["clip_id"], row["text_id"]))
        return Part(index, clips, kept, frames, signals, scores)

    def _clip_ids(self, index: int) -> list[str]:
        return [row["clip_id"] for row in self.corpus.rows("clips", index, ["clip_id"])]

    def _frames(self, index: int, clip_ids: set[str], with_jpegs: bool) -> dict[str, Frames]:
        """clip_id -> its key-frames, from the last folder that has some."""
        columns = None if with_jpegs else [name for name in FRAMES.names if name != "jpegs"]
        rows = (cast(Frames, row) for folder in self.folders for row in read_part(folder, "frames", index, columns))
        return {row["clip_id"]: row for row in rows if row["clip_id"] in clip_ids}

    def _signals(self, index: int) -> dict[str, Row]:
        """clip_id or text_id -> the columns of the corpus and all folders, the later ones over the earlier."""
        signals: dict[str, Row] = {}
        for folder in (self.corpus_path, *self.folders):
            for table in ("signals", "verdicts"):
                for row in read_part(folder, table, index):
                    key = row_key(row)
                    signals[key] = {**signals.get(key, {}), **row}
        return signals

    def parts(self, tables: tuple[str, ...] = ("texts",)) -> Iterator[Part]:
        for index in range(self.num_parts):
            yield self.part(index, tables)

    def dropped(self, index: int) -> list[Drop]:
        """Every drop so far, oldest stage first."""
        return [cast(Drop, row) for folder in self.folders for row in read_part(folder, "dropped", index)]

    def _rows(self, table: str, index: int) -> Iterator[Row]:
        yield from self.corpus.rows(table, index)
        for folder in self.folders:
            yield from read_part(folder, table, index)

    def dropped_ids(self, index: int) -> set[str]:
        """Ids of the clips and texts of a part that a stage has dropped."""
        return {row_key(row) for row in self.dropped(index)}

    def _within(self, clip_id: str) -> bool:
        return self.cutoff is None or _id_hash(clip_id) <= self.cutoff


def _id_hash(clip_id: str) -> str:
    return tombstones.id_hash(clip_id)


def clip_digest(part: Part, clip: Clip, video_digest: str | None) -> str:
    """The digest of everything that a clip's scores may depend on: its row, texts, frames and signals in the part, and the bytes
    of its video. The name of its twin is for evaluation alone."""
    clip_id = clip["clip_id"]
    row = {name: value for name, value in clip.items() if name != "twin_id"}
    frames = part.frames.get(clip_id)
    pictures = hashlib.sha256()
    for jpeg in (frames or {}).get("jpegs") or ():
        pictures.update(len(jpeg).to_bytes(8, "big") + jpeg)
    plain = {key: value for key, value in (frames or {}).items() if key != "jpegs"}
    texts = part.texts_of[clip_id]
    keys = (clip_id, *(text["text_id"] for text in texts))
    signals = {key: {name: _plain(value) for name, value in part.signals.get(key, {}).items()} for key in keys}
    what = [row, texts, plain, pictures.hexdigest(), signals, video_digest]
    return hashlib.blake2b(canonical(what).encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def open_view(path: Path, langs: tuple[str, ...] = LANGS, current: bool = True) -> View:
    """The view of a corpus folder, or of a finished stage folder with the corpus and the folders before it.

    Raises M2raapError where `path` is neither and, if `current`, where the corpus or a folder before it has changed since.
    """
    if not path.is_dir():
        raise M2raapError(f"{path}: no such folder; give a corpus, or the folder of a data stage")
    manifest_path = path / "manifest.json"
    if not manifest_path.exists() and (path / "plan.json").exists():
        raise M2raapError(f"{path}: this stage is unfinished (no manifest.json); run its command again to resume it")
    if not manifest_path.exists() or read_object(manifest_path).get("kind") == "corpus":
        open_corpus(path)
        return View(path, langs=langs)
    manifest = stage_manifest(path)
    if "view" not in manifest:
        raise M2raapError(
            f"{path}: stage '{manifest.get('stage')}' holds no clips; give a corpus or a data stage's folder"
        )
    base = path.resolve()
    resolve = lambda relative: Path(os.path.normpath(base / relative))  # noqa: E731
    if any("\0" in name for name in (manifest["view"]["corpus"], *manifest["view"]["folders"])):
        raise M2raapError(f"{manifest_path}: is damaged (a path of its view); run the stage again with --force")
    view = View(
        resolve(manifest["view"]["corpus"]),
        (*(resolve(folder) for folder in manifest["view"]["folders"]), path),
        tuple(lang for lang in manifest["view"]["langs"] if lang in langs),
        cutoff=manifest["view"]["cutoff"],
    )
    for parent in changed_parents(view, manifest["inputs"]) if current else ():
        raise M2raapError(f"{path}: was made from {parent}, {changed_since(parent, manifest['inputs'])}")
    return view


def changed_since(parent: Path, inputs: dict[str, str]) -> str:
    """The end of a sentence that names a folder whose digest is not among the `inputs` of a manifest."""
    today = digest_in(parent)
    if not today:
        return (
            "where no finished folder is; if it was moved, give the same command its new place ('m2raap run' with --data or "
            "--bench): equal content is recognised, and the new place is noted"
        )
    old = inputs.get("corpus" if read_object(parent / "manifest.json").get("kind") == "corpus" else parent.name, "")
    return (
        f"whose content has changed since (digest {old[:12] or 'unknown'} then, {today[:12]} now); repeat the command "
        "that made it ('m2raap run', or a stage) with --force, which reuses what still fits, or restore the old content"
    )


def changed_parents(view: View, inputs: dict[str, str]) -> list[Path]:
    """The corpus and the folders before the last whose digests are not among the `inputs` of a manifest.

    A manifest may name any path on this machine; the digests prove that its author knew the content.
    """
    named = {view.corpus_path: {inputs.get("corpus")}} | {folder: {*inputs.values()} for folder in view.folders[:-1]}
    return [parent for parent, digests in named.items() if digest_in(parent) not in digests - {""}]


def digest_in(folder: Path) -> str:
    """The digest in a folder's manifest; '' where there is none."""
    manifest = folder / "manifest.json"
    return str((read_object(manifest) if manifest.exists() else {}).get("digest", ""))
