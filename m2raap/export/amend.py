"""Brings one folder after another to the state without forgotten clips, and signs it again.

Parents come before children, so that a child can name them as they are called now. Every step may be cut off and done again.
"""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core import exports, tombstones
from m2raap.core.config import digest
from m2raap.core.corpus import content_digest
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Exporter
from m2raap.core.files import file_sha256, read_json, read_object, write_atomic, write_json
from m2raap.core.folder import manifest_digest
from m2raap.core.ledger import count_part
from m2raap.core.lock import FILE as LOCK_FILE
from m2raap.core.scores import scores_digest
from m2raap.core.signed import signed_path
from m2raap.core.tables import Row, read_part
from m2raap.core.view import open_view
from m2raap.export.erase import Gone, clean_parquet, clean_tree
from m2raap.retrieval.config import EvaluateConfig
from m2raap.search.index import remove_forgotten
from m2raap.stages import data_stages, open_stage
from m2raap.stages.shared import Shared
from m2raap.stages.whole import EvaluateStage

# What is signed or amended apart from the other files of a folder.
_APART = frozenset(
    {"plan.json", "manifest.json", "run.json", tombstones.FILE, exports.FILE, tombstones.MARK, LOCK_FILE}
)
_CORPUS_COUNTS = (("clips", "clips"), ("texts", "texts"), ("missing_file", "missing"))


@dataclass(frozen=True)
class Unit:
    """A folder of ours, as it was before the forget; `gone`: how many clips leave it, `was`: what earlier ones called it."""

    path: Path
    kind: str  # corpus, run, export, folder, or the stage's name
    digest: str | None = None
    was: list[str] = field(default_factory=list)
    forgotten: int = 0
    gone: int = 0
    inputs: dict[str, str] = field(default_factory=dict)
    stones: list[dict[str, Any]] = field(default_factory=list)
    embedded: Path | None = None  # evaluate: the folder whose vectors it ranks
    settings: dict[str, Any] = field(default_factory=dict)  # of evaluate


class Amender:
    """Cleans folders. `left` names files that still hold a forgotten name, `removed` folders that had to go whole."""

    def __init__(self, gone: Gone, units: list[Unit], exporters: Mapping[str, Exporter]) -> None:
        self.left: list[str] = []
        self.removed: list[str] = []
        self._gone = gone
        self._exporters = exporters
        self._paths = {unit.path for unit in units}
        self._by_digest = by_digest(units)
        self._renamed: dict[str, str] = {}  # what a folder was called -> what it is called now

    def clean_scores(self, name: str, files: list[Path]) -> None:
        """Users' score files that were called `name` together: rows leave, and stages know them by their new name."""
        for file in files:
            clean_parquet(file, self._gone)
        self._renamed[name] = scores_digest(tuple(files))

    def clean(self, unit: Unit) -> None:
        handlers: dict[str, Callable[[Unit], None]] = {
            "run": self._run, "folder": self._files, "corpus": self._corpus, "export": self._export,
            "adapt": self._adapt, "embed": self._embed, "evaluate": self._evaluate, "index": self._index,
        }  # fmt: skip
        if unit.kind in handlers:
            handlers[unit.kind](unit)
        elif (unit.path / "done").is_dir():
            self._data_stage(unit)
        elif self._touched(unit):
            self._remove(unit)  # made from what is gone, in a form that nobody here can take apart
        else:
            self._sign(unit)
        if unit.digest and (unit.path / "manifest.json").exists():
            now = read_json(unit.path / "manifest.json")["digest"]
            self._renamed |= {name: now for name in (unit.digest, *unit.was)}

    def _touched(self, unit: Unit) -> bool:
        """Do clips leave it, or data that it was made from, now or in a forget that it missed? (No clip leaves a model.)"""
        parents = [(name, self._by_digest[name]) for name in unit.inputs.values() if name in self._by_digest]
        data = [(name, parent) for name, parent in parents if parent.kind != "adapt"]
        lost = (parent.gone or name != parent.digest or str(parent.path) in self.removed for name, parent in data)
        return unit.gone > 0 or any(lost)

    def _files(self, unit: Unit, apart: frozenset[str] = frozenset()) -> None:
        others = self._paths - {unit.path}
        self.left += clean_tree(unit.path, others, self._gone, _APART | apart, of_the_user=unit.kind == "folder")

    def _run(self, unit: Unit) -> None:
        shutil.rmtree(unit.path / "cache" / "prefix", ignore_errors=True)  # of frames; made anew
        self._files(unit)
        path = unit.path / "run.json"
        if path.exists():
            tree = read_object(path)
            corpora = {name: self._renamed.get(value, value) for name, value in tree.get("digests", {}).items()}
            write_json(path, tree | {"digests": corpora}, sort_keys=False)

    def _remove(self, unit: Unit) -> None:
        (unit.path / "manifest.json").unlink(missing_ok=True)  # first: what is cut off here is unfinished
        shutil.rmtree(unit.path, ignore_errors=True)
        self.removed.append(str(unit.path))

    def _corpus(self, unit: Unit) -> None:
        path = unit.path / "manifest.json"
        self._files(unit)
        manifest = read_json(path)
        files = _signed_again(unit.path, manifest["files"])
        for key in [key for key in files if key.startswith("missing/")]:
            if not read_part(unit.path, "missing", int(key.partition("/")[2])):
                signed_path(unit.path, key).unlink()
                del files[key]
        total = unit.forgotten + unit.gone
        if manifest["benchmark"] and total:
            manifest["benchmark"] = tombstones.benchmark_name(manifest["benchmark"], total)
        counts = {name: len(all_rows(unit.path, table)) for name, table in _CORPUS_COUNTS}
        manifest["counts"] |= counts | ({"forgotten": total} if total else {})
        manifest["files"] = files
        manifest["digest"] = content_digest(files, manifest["num_parts"], manifest["benchmark"])
        write_json(path, manifest | _names_before(unit, manifest["digest"]))

    def _data_stage(self, unit: Unit) -> None:
        # Thresholds and counts stay, so that `explain` can show them; samples of clips and texts are made anew when needed.
        if (decisions := unit.path / "decisions.json").exists():
            write_json(decisions, _numbers_of(read_json(decisions)))
        for done in (unit.path / "done").glob("apply-*.json"):
            done.unlink()
        plan = read_json(unit.path / "plan.json")
        scored = sorted((unit.path / "done").glob("score-*.json"))
        self._files(unit, frozenset(path.name for path in scored))
        for done in scored:
            record = read_json(done)
            record["clips"] = {i: value for i, value in record["clips"].items() if i not in self._gone.clip_ids}
            record["key"] = digest([plan["stage"], plan["version"], plan["settings"]["score"], record["clips"]])
            record["files"] = _signed_again(unit.path, record["files"])
            write_json(done, record)
        self._sign(unit, _recount)

    def _adapt(self, unit: Unit) -> None:
        if not (unit.path / "manifest.json").exists():  # half trained, on data that is no longer there
            for name in ("scratch", "cache", "model", "tensorboard"):
                shutil.rmtree(unit.path / name, ignore_errors=True)
            (unit.path / "train.jsonl").unlink(missing_ok=True)
        self._files(unit)
        self._sign(unit)

    def _embed(self, unit: Unit) -> None:
        path = unit.path / "ids.json"
        if not unit.path.is_dir():  # removed by a forget that was cut off later
            self.removed.append(str(unit.path))
            return
        if path.exists():
            ids = read_json(path)
            videos = [i not in self._gone.clip_ids for i in ids["video_ids"]]
            texts = [i not in self._gone.clip_ids for i in ids["text_video_ids"]]
            # Tables of candidates have no row a clip to take out: they go, and the folder with them.
            plain = (".npy", ".json", ".jsonl", ".lock")
            tables = [p for p in unit.path.iterdir() if p.is_file() and p.suffix not in plain]
            if not any(videos) or not any(texts) or (tables and not all(videos + texts)):
                self._remove(unit)
                return
            for array in sorted(unit.path.glob("*.npy")):
                _thin_rows(array, texts if array.stem.startswith("text") else videos)
            write_json(path, _thin_ids(ids, videos, texts, self._gone))
        self._files(unit, frozenset({"ids.json"}))
        self._sign(unit, lambda folder, manifest: manifest["counts"] | _embed_counts(folder))

    def _index(self, unit: Unit) -> None:
        try:
            remove_forgotten(unit.path, self._gone.clip_ids.__contains__)
        except M2raapError:  # damaged: nobody can take it apart
            if self._touched(unit):
                self._remove(unit)
            return
        if unit.path.is_dir():
            self._sign(unit)
        else:
            self.removed.append(str(unit.path))

    def _evaluate(self, unit: Unit) -> None:
        """Ranks are made again from the vectors that are left: a rank among clips that are gone means nothing."""
        if not self._touched(unit):
            self._files(unit)
            self._sign(unit)
            return
        self._remove(unit)
        again = unit.embedded and "bank" not in unit.inputs and {"rows", "seed"} <= set(unit.settings)
        if not unit.embedded or not again or not (unit.embedded / "manifest.json").exists():
            return
        self.removed.remove(str(unit.path))
        protocol = open_view(unit.embedded, current=False).corpus.benchmark or "custom"
        cfg = EvaluateConfig(**unit.settings["rows"])
        EvaluateStage(cfg, Shared(seed=unit.settings["seed"])).run_on(unit.embedded, protocol, unit.path)

    def _export(self, unit: Unit) -> None:
        tree = exports.read_export(unit.path)
        if tree is None:  # somebody has deleted it since it was planned
            return
        exporter = exporter_of(unit.path, self._exporters)
        self._files(unit, frozenset(path.name for path in unit.path.rglob("*") if path.suffix != ".tmp"))
        exporter.remove(unit.path, self._gone.clip_ids.__contains__)
        ids = exporter.clip_ids(unit.path)
        if unit.gone:
            counts = {key: n for key, n in tree["counts"].items() if not key.startswith("texts_")}
            tree["counts"] = counts | {"clips": len(ids), "forgotten": unit.forgotten + unit.gone}
            exports.sign(unit.path, tree, ids)

    def _sign(
        self, unit: Unit, recount: Callable[[Path, Row], dict[str, Any]] = lambda _, tree: tree["counts"]
    ) -> None:
        """Plan and manifest name the parents as they are called now; the manifest is signed over the files as they are."""
        for name in ("plan.json", "manifest.json"):
            path = unit.path / name
            if not path.exists():
                continue
            tree = read_json(path)
            tree["inputs"] = {key: self._renamed.get(value, value) for key, value in tree["inputs"].items()}
            if name == "manifest.json":
                tree["files"] = _signed_again(unit.path, tree["files"])
                total = unit.forgotten + unit.gone
                tree["counts"] = recount(unit.path, tree) | ({"forgotten": total} if total else {})
                tree["digest"] = manifest_digest(tree)
                tree |= _names_before(unit, tree["digest"])
            write_json(path, tree)


def _names_before(unit: Unit, now: str) -> dict[str, list[str]]:
    """What a manifest keeps of its old digests, so that a folder that is not here today finds its parents again."""
    names = {name for name in (unit.digest, *unit.was) if name and name != now}
    return {"was": sorted(names)} if names else {}


def by_digest(units: Iterable[Unit]) -> dict[str, Unit]:
    """Folders by what they are and were called."""
    return {name: unit for unit in units for name in (unit.digest, *unit.was) if name}


def exporter_of(folder: Path, exporters: Mapping[str, Exporter]) -> Exporter:
    """Raises M2raapError for an export of a format that is not known."""
    tree = exports.read_export(folder)
    assert tree is not None
    if tree.get("format") not in exporters:
        raise M2raapError(f"{folder}: an export of the format '{tree.get('format')}'; known: {', '.join(exporters)}")
    return exporters[tree["format"]]


def all_rows(folder: Path, table: str) -> list[Row]:
    parts = sorted((folder / table).glob("part-*.parquet"))
    return [row for part in parts for row in read_part(folder, table, int(part.stem.removeprefix("part-")))]


def _recount(folder: Path, manifest: Row) -> dict[str, Any]:
    """The counts that a run would have come to without what is gone."""
    after = open_view(folder, current=False)  # its parents are signed again already
    view = replace(after, folders=after.folders[:-1])  # what the stage was given
    counts: Counter[str] = Counter()
    stage = open_stage(manifest, str(folder)) if manifest["stage"] in data_stages() else None
    for part in view.parts():
        added = read_part(folder, "texts", part.index) + read_part(folder, "superseded", part.index)
        drops = read_part(folder, "missing" if view.is_benchmark else "dropped", part.index)
        counts.update(count_part(part, added, drops, view.is_benchmark).to_dict())
        if stage:
            own = {row["text_id"] or row["clip_id"]: row for row in read_part(folder, "signals", part.index)}
            counts.update(stage.counts(own))
    return dict(sorted(counts.items()))


def _numbers_of(tree: Any) -> Any:
    """Numbers by name, at any depth; everything else is left out."""
    if not isinstance(tree, dict):
        return tree
    kept = {key: _numbers_of(value) for key, value in tree.items() if isinstance(value, dict | int | float)}
    return {key: value for key, value in kept.items() if value != {}}


def _signed_again(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Digests of the files as they are now, without those that are gone."""
    paths = {key: signed_path(folder, key) for key in files}
    return {key: file_sha256(path) for key, path in paths.items() if path.exists()}


def _thin_rows(path: Path, keep: list[bool]) -> None:
    """An array with a row for each entry of `keep`; one that has only as many as stay was thinned before."""
    rows = np.load(path, allow_pickle=False)
    if len(rows) == sum(keep):
        return
    if len(rows) != len(keep):
        raise M2raapError(
            f"{path}: {len(rows)} rows for {len(keep)} ids; delete {path.parent}, embed again, forget again"
        )
    sink = io.BytesIO()
    np.save(sink, rows[np.asarray(keep)], allow_pickle=False)
    write_atomic(path, sink.getvalue())


def _thin_ids(ids: dict[str, Any], videos: list[bool], texts: list[bool], gone: Gone) -> dict[str, Any]:
    pick = lambda values, keep: [v for v, kept in zip(values, keep, strict=True) if kept]  # noqa: E731
    thinned: dict[str, Any] = {key: pick(ids[key], texts) for key in ids if key == "texts" or key.startswith("text_")}
    thinned |= {key: pick(ids[key], videos) for key in ids if key.startswith("video_")}
    thinned["missing"] = [i for i in ids["missing"] if i not in gone.clip_ids]
    thinned["categories"] = {i: value for i, value in ids["categories"].items() if i not in gone.clip_ids}
    return ids | thinned


def _embed_counts(folder: Path) -> dict[str, int]:
    ids = read_json(folder / "ids.json")
    return {"videos": len(ids["video_ids"]), "missing": len(ids["missing"]), "texts": len(ids["text_ids"])}
