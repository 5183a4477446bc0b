"""forget: deletes clips from a corpus and lists everything that was made from them, so that it can be made again.

Hashes of the clips are written first, then the corpus's tables without them, its manifest last; caches and earlier states
below the given folders are deleted. No finished stage folder is edited: `m2raap run --force` makes it again, and reuses the
results of the clips that stay. After a kill the same command finishes the work.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2raap.core import tombstones
from m2raap.core.corpus import SCORES, TABLES, Corpus, missing_counts, open_corpus
from m2raap.core.errors import UNREADABLE, M2raapError
from m2raap.core.files import inside, read_object, remove_drafts, write_json
from m2raap.core.listed_signals import TABLE as SIGNALS
from m2raap.core.lock import locked
from m2raap.core.records import Plan, StageManifest, as_record, read_record
from m2raap.core.replace import DRAFT
from m2raap.core.signed import FORGETTING, digest_of, read_manifest, signed_path, verify_files
from m2raap.core.tables import Row, part_schema, read_part, write_part, write_table
from m2raap.core.tombstones import Tombstones, sha256
from m2raap.curate.llm.cache import FILE as ANSWERS
from m2raap.curate.llm.cache import Cache
from m2raap.export.leftovers import forgotten_hashes, kind_of, leftovers, owners

_TRACED = {"clips": ("video",), "texts": ("text_id", "text"), "superseded": ("text_id", "text"), "frames": ("jpegs",)}

_WEIGHTS = (".pt", ".safetensors")


def read_ids(path: Path) -> list[str]:
    """The clip ids of a file with one id per line. Raises M2raapError for a file without ids or one that is not UTF-8."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # an id may hold other separators, such as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise M2raapError(f"{path}: cannot be read as a list of clip ids, one per line ({error})") from None
    ids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise M2raapError(f"{path}: holds no clip id; write one per line")
    return ids


@dataclass
class _Plan:
    """What is deleted from one corpus. `forgotten`: its tombstones, with those of the leaving clips."""

    corpus: Corpus
    forgotten: Tombstones
    leaving: list[Row]
    copies: list[Path]  # video files that an import put into the corpus and that only leaving clips use
    other_videos: list[Path]  # files outside the corpus that only leaving clips use; they are not deleted
    num_new: int  # leaving clips that an interrupted forget has not counted yet


def forget(
    corpora: list[Path], clip_ids: Iterable[str], runs: Iterable[Path] = (), reason: str | None = None
) -> dict[str, Any]:
    """Removes clips from corpora, and from the caches below `runs`: runs, stage folders, exports, indexes, files of scores.

    Without `clip_ids` the clips that the corpora forgot earlier are searched for. Returns the counts, the ids
    that no corpus has or had, and what still holds the clips. Raises M2raapError where a path is no corpus or does not exist,
    where a corpus would have no clip left, or where another command is writing in one of the folders.
    """
    requested_ids, runs = set(clip_ids), list(runs)
    corpora = list({path.resolve(): path for path in reversed(corpora)}.values())[
        ::-1
    ]  # each once, however it is named
    for path in (*corpora, *runs):
        if not path.exists():
            raise M2raapError(f"{path}: no such folder")
    with ExitStack() as locks:
        for path in corpora:
            open_corpus(path, mid_forget=True)
            written = (*TABLES, "manifest.json", tombstones.FILE, SCORES, DRAFT, "videos")
            locks.enter_context(locked(path, written=written))
            shutil.rmtree(path / DRAFT, ignore_errors=True)  # of an import that was killed
        plans = [_plan(path, requested_ids, reason) for path in corpora]
        _add_traces(plans, [*corpora, *(folder for run in runs for folder in _folders(run))])
        for plan in plans:
            _remove_from(plan)
    forgotten = Tombstones(row for plan in plans for row in plan.forgotten.by_id.values())
    hashes = frozenset[str]().union(*(forgotten_hashes(path) for path in corpora if len(tombstones.read(path))))
    # Where nothing is forgotten, there is nothing to prune.
    folders = [folder for run in runs for folder in _folders(run)] if hashes else []
    pruned = [str(path) for folder in folders for path in _prune(folder, forgotten, hashes)]
    return {
        "clips": len({row["clip_id"] for plan in plans for row in plan.leaving}),
        "not_found": sorted(clip_id for clip_id in requested_ids if not forgotten.contains(clip_id)),
        "corpora": {str(plan.corpus.path): len(plan.leaving) for plan in plans if plan.leaving},
        "video_files_left": sorted(str(path) for plan in plans for path in plan.other_videos),
        "pruned": pruned,
        "left_in": _left_in(corpora, runs, hashes) if hashes else {},
    }


def _plan(path: Path, requested_ids: set[str], reason: str | None) -> _Plan:
    corpus, known = open_corpus(path, mid_forget=True), tombstones.read(path)
    manifest = read_manifest(path)
    if FORGETTING not in manifest and (wrong := verify_files(path, manifest["files"])):
        raise M2raapError(
            f"{wrong[0]}: is missing or differs from its digest in the manifest; import the corpus again first"
        )
    clips = corpus.all_rows("clips")
    old_ids = {row.id for row in known.by_id.values() if row.was_here}
    leaving = [row for row in clips if row["clip_id"] in requested_ids or sha256(row["clip_id"]) in old_ids]
    if leaving and len(leaving) == len(clips):
        raise M2raapError(f"{path}: all of its {len(clips):,} clips are to be forgotten; delete the folder instead")
    root = corpus.stated_video_root
    with suppress(M2raapError):  # a folder that is not trusted: none of its videos is read or deleted
        root = corpus.video_root
    leaving_ids = {row["clip_id"] for row in leaving}
    leaving_files, other_files = set[Path](), set[Path]()
    for row in clips if leaving else ():
        with suppress(M2raapError):  # an address, or a path that leads out of the root
            (leaving_files if row["clip_id"] in leaving_ids else other_files).add(inside(root, row["video"]).resolve())
    files = sorted(file for file in leaving_files - other_files if file.is_file())
    copies = [file for file in files if file.is_relative_to(path.resolve() / "videos")]
    others = [file for file in files if file not in copies]
    num_new = len(leaving_ids) - sum(sha256(clip_id) in old_ids for clip_id in leaving_ids)
    new = [tombstones.make_tombstone(row, root, reason) for row in leaving]
    return _Plan(corpus, Tombstones([*known.by_id.values(), *new]), leaving, copies, others, num_new)


def _folders(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, sorted. Symbolic links are not followed, since the user did not name their targets."""
    if root.is_dir():
        for folder, names, _ in os.walk(root):
            names[:] = sorted(name for name in names if not Path(folder, name).is_symlink())
            yield Path(folder)


def _add_traces(plans: list[_Plan], folders: list[Path]) -> None:
    """Adds to every tombstone the hashes of the values that only its clip has in these folders."""
    by_id = {row.id for plan in plans for row in plan.forgotten.by_id.values()}
    traces: dict[str, set[str]] = {}
    for clip_hash, value in _traced(folders) if by_id else ():
        if clip_hash in by_id:
            traces.setdefault(clip_hash, set()).add(value)
    all_traces = set[str]().union(*traces.values())
    others = _traced(folders) if all_traces else ()
    shared = {value for clip_hash, value in others if clip_hash not in by_id and value in all_traces}
    for plan in plans:
        rows = plan.forgotten.by_id.values()
        added = [replace(row, traces=tuple(traces.get(row.id, set()).difference(shared))) for row in rows]
        plan.forgotten = Tombstones([*rows, *added])


def _traced(folders: list[Path]) -> Iterator[tuple[str, str]]:
    """(hash of the clip id, hash of a text id, text, video name or JPEG of the clip) of every row in the folders' tables."""
    for folder in folders:
        for table, columns in _TRACED.items():
            for path in (
                sorted((folder / table).glob("part-*.parquet")) if kind_of(folder) not in (None, "index") else ()
            ):
                for row in read_part(folder, table, int(path.stem.removeprefix("part-")), ["clip_id", *columns]):
                    clip_hash = sha256(row["clip_id"])
                    for cell in (row[column] for column in columns):
                        values = cell if isinstance(cell, list) else [cell]
                        yield from ((clip_hash, sha256(value)) for value in values if value)


def _remove_from(plan: _Plan) -> None:
    """Deletes the clips from the tables of a corpus: tombstones first, the manifest last. Until then the corpus is refused."""
    path, forgotten = plan.corpus.path, plan.forgotten
    manifest = read_manifest(path)
    remove_drafts(path)
    tombstones.write(path, forgotten)
    if not plan.leaving and FORGETTING not in manifest:
        return
    if FORGETTING in manifest:
        num_forgotten = manifest[FORGETTING] + plan.num_new
    else:
        num_forgotten = manifest["counts"].get("forgotten", 0) + len(plan.leaving)
    write_json(path / "manifest.json", manifest | {FORGETTING: num_forgotten})
    for file in plan.copies:
        file.unlink(missing_ok=True)
    counts = dict.fromkeys(TABLES, 0)
    reasons: list[str] = []
    files: dict[str, str] = {}
    for key, digest in manifest["files"].items():
        table, _, part = key.partition("/")
        if table not in TABLES or not part.isdecimal():
            raise M2raapError(f"{path / 'manifest.json'}: names the file '{key[:80]}', which is no part of a corpus")
        rows = read_part(path, table, int(part))
        kept = [_without_twin(row, forgotten) for row in rows if not forgotten.contains(row["clip_id"])]
        counts[table] += len(kept)
        reasons += [row["reason"] for row in kept] if table == "missing" else []
        if kept or table in ("clips", "texts"):
            # A part that an interrupted forget rewrote has no such row left, and its digest differs from the manifest.
            is_same = kept == rows and FORGETTING not in manifest
            schema = part_schema(signed_path(path, key)) if table == SIGNALS else None
            files[key] = digest if is_same else write_part(path, table, int(part), kept, schema)
        else:
            signed_path(path, key).unlink(missing_ok=True)
    _remove_scores(path / SCORES, forgotten)
    if manifest["benchmark"]:
        manifest["benchmark"] = tombstones.benchmark_name(manifest["benchmark"], num_forgotten)
    manifest["counts"] = {name: count for name, count in manifest["counts"].items() if name not in UNREADABLE}
    manifest["counts"] |= {"clips": counts["clips"], "texts": counts["texts"], "forgotten": num_forgotten}
    manifest["counts"] |= missing_counts(reasons)
    manifest["files"] = files
    manifest["digest"] = digest_of(manifest)
    manifest.pop(FORGETTING, None)
    write_json(path / "manifest.json", manifest)


def _without_twin(row: Row, forgotten: Tombstones) -> Row:
    """The row; that of a clip whose twin is forgotten names it no longer."""
    return row | {"twin_id": None} if row.get("twin_id") and forgotten.contains(row["twin_id"]) else row


def _remove_scores(path: Path, forgotten: Tombstones) -> None:
    """Deletes the clips' rows from the scores that an import stored, where there are some."""
    if path.is_file():
        import pyarrow as pa
        import pyarrow.parquet as pq

        scores = pq.read_table(path, use_threads=False)
        kept = [not forgotten.contains(clip_id) for clip_id in scores["clip_id"].to_pylist()]
        if not all(kept):
            write_table(path, scores.filter(pa.array(kept, pa.bool_())))


def _prune(folder: Path, forgotten: Tombstones, hashes: frozenset[str]) -> list[Path]:
    """Deletes what a run or stage folder keeps to save time: cached answers, digests of videos, the prefix cache, the earlier
    state of a stage; and a run's report, which shows clips. Returns the changed and deleted paths."""
    changed: list[Path] = []
    if not any((folder / name).is_file() for name in ("run.json", "plan.json", "previous.tmp/plan.json")):
        return changed
    with locked(folder, written=("cache", "report", "previous", "previous.tmp")):
        remove_drafts(folder / "cache")
        to_delete = [folder / "cache" / "prefix"]
        to_delete += [path for path in (folder / "previous", folder / "previous.tmp") if (path / "plan.json").is_file()]
        if (folder / "run.json").is_file():
            to_delete += [folder / "report" / name for name in ("report.html", "report.json")]
        for path in to_delete:
            if path.exists():
                _delete(path)
                changed.append(path)
        for path in sorted((folder / "cache").glob("videos*.json")):
            digests = read_object(path)
            kept = {name: value for name, value in digests.items() if sha256(name) not in hashes}
            if len(kept) < len(digests):
                write_json(path, kept)
                changed.append(path)
        if (answers := folder / "cache" / ANSWERS).is_file() and Cache(answers).delete_answers_of(forgotten.contains):
            changed.append(answers)
    return changed


def _delete(path: Path) -> None:
    """Deletes a file or folder; last its `plan.json`, by which an earlier state is recognised."""
    if not path.is_dir():
        path.unlink()
        return
    for child in sorted(path.iterdir(), key=lambda child: child.name == "plan.json"):
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    path.rmdir()


def _left_in(corpora: list[Path], runs: list[Path], hashes: frozenset[str]) -> dict[str, list[str]]:
    """The paths below the given folders that still hold the clips, grouped by what the user has to do with them."""
    left: dict[str, list[str]] = {"stages": [], "models": [], "indexes": [], "exports": [], "corpora": [], "files": []}
    group_of_kind = {"index": "indexes", "export": "exports", "corpus": "corpora", "file": "files"}
    digests = {path.resolve(): open_corpus(path).digest for path in corpora}
    kinds: dict[Path, str] = {}
    for run in runs:
        kinds |= owners(run, (leftover.path for leftover in leftovers(run, hashes)))
        kinds |= {folder: kind for folder in _folders(run) if (kind := _stale_kind(folder, digests))}
    signed = [folder / "manifest.json" for folder in kinds if (folder / "manifest.json").is_file()]
    stale = {read_object(path).get("digest") for path in signed}
    kinds |= {folder: "adapt" for run in runs for folder in _folders(run) if _holds_checkpoint_of(folder, stale)}
    models = {_model_digest(folder) for folder, kind in kinds.items() if kind == "adapt"} - {None}
    for run in runs:
        exported = [folder for folder in _folders(run) if (folder / "m2raap_export.json").is_file()]
        left["models"] += [str(f) for f in exported if read_object(f / "m2raap_export.json").get("model") in models]
    for folder, kind in sorted(kinds.items()):
        left["models" if kind == "adapt" else group_of_kind.get(kind, "stages")].append(str(folder))
    return {group: paths for group, paths in left.items() if paths}


def _stale_kind(folder: Path, digests: dict[Path, str]) -> str | None:
    """The kind of a finished stage folder that was made from an earlier state of one of the corpora; else None."""
    path = folder / "manifest.json"
    manifest = read_object(path) if path.is_file() and kind_of(folder) not in (None, "corpus") else {}
    if not {"view", "inputs"} <= manifest.keys():
        return None
    manifest = as_record(StageManifest, manifest, path)
    assert "view" in manifest
    current = digests.get((folder / manifest["view"]["corpus"]).resolve())
    return manifest["stage"] if current and current != manifest["inputs"].get("corpus") else None


def _holds_checkpoint_of(folder: Path, inputs: Set[Any]) -> bool:
    """Whether a folder is an unfinished training on one of the folders with the digests `inputs`, and holds weights already."""
    if not (folder / "plan.json").is_file() or (folder / "manifest.json").is_file() or kind_of(folder) != "adapt":
        return False
    plan = read_record(Plan, folder / "plan.json")
    return not inputs.isdisjoint(plan["inputs"].values()) and any(path.suffix in _WEIGHTS for path in folder.rglob("*"))


def _model_digest(folder: Path) -> str | None:
    path = folder / "manifest.json"
    return as_record(StageManifest, read_object(path), path)["models"].get("model") if path.is_file() else None
