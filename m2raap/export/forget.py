"""forget: clips leave corpora, stage folders, caches, embeddings, reports and exports, and every manifest is signed again.

First a journal says what has to go and from where; then folder by folder is cleaned (amend.py, erase.py). A journal that is
still there (kill -9, full disk) only has to be carried out once more. The last act is to delete it: it is the only place that
still holds the names. It lies in the user's own state folder, never in a folder that somebody may have sent; and nothing is
changed outside of what the user named, whatever a manifest or a run's map says.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from m2raap.core import exports, talk, tombstones
from m2raap.core.corpus import TABLES as CORPUS_TABLES
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.exports import Exporter
from m2raap.core.files import inside, read_json, read_object, write_json
from m2raap.core.lock import locked
from m2raap.core.scores import scores_digest
from m2raap.core.signed import signed_path
from m2raap.core.state import state_file, state_folder
from m2raap.core.tables import Row, read_part
from m2raap.core.tombstones import MARK, Tombstone, Tombstones
from m2raap.core.view import open_view
from m2raap.export.amend import Amender, Unit, all_rows, by_digest, exporter_of
from m2raap.export.erase import Gone

Exporters = Mapping[str, Exporter]


def read_ids(path: Path) -> list[str]:
    """One clip id a line. Raises M2raapError for a file that is no list of them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise M2raapError(f"{path}: cannot be read as a list of clip ids, one a line ({error})") from None
    ids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise M2raapError(f"{path}: holds no clip id; write one a line")
    return ids


def forget(roots: list[Path], wanted: Iterable[str], exporters: Exporters) -> dict[str, Any]:
    """Removes clips from everything at and below `roots`: folders, and files of users' scores.

    `wanted`: clip ids. What the corpora have forgotten before leaves, too. A forget of these folders that was interrupted is
    finished first. Returns what was done. Raises M2raapError where there is nothing of ours, where the folders were made from
    something that is not named with them, or another command is writing one of them.
    """
    named = [root.resolve() for root in roots]
    for path in _interrupted(named):
        talk.log(f"{read_object(path)['home']}: finishing a 'm2raap data forget' that was interrupted")
        finish(path, exporters)
    kinds = dict(_units([root for root in named if not root.is_file()], named))
    with _all_locked(kinds):
        journal = _plan(named, kinds, set(wanted), exporters)
        if not journal["gone"]["clip_ids"]:
            return journal["summary"] | {"still_named_in": [], "removed_whole": []}
        path = state_file("forgetting", named[0])
        write_json(path, journal)
        return finish(path, exporters)


@contextmanager
def _all_locked(kinds: dict[Path, str]) -> Iterator[None]:
    """All folders at once. Stages, indexes and exports are written everywhere; in the others lie files of the user's, too."""
    with ExitStack() as locks:
        for folder, kind in kinds.items():
            if folder.is_dir():
                locks.enter_context(locked(folder, written=_WRITTEN.get(kind)))
        yield


_WRITTEN: dict[str, tuple[str, ...]] = {"run": ("cache",), "folder": (), "corpus": CORPUS_TABLES}


def _interrupted(roots: list[Path]) -> list[Path]:
    """This user's journals of a forget that has touched one of `roots`, or what lies below it, and was cut off."""
    journals = []
    for path in sorted(state_folder("forgetting").glob("*.json")):
        journal = read_object(path)
        home = Path(journal["home"])
        units = [home, *(_unpacked(row, home).path for row in journal["units"])]
        if any(unit == root or unit.is_relative_to(root) for unit in units for root in roots):
            journals.append(path)
    return journals


def finish(journal_path: Path, exporters: Exporters) -> dict[str, Any]:
    """Carries out a journal of this user's, from its beginning or from wherever it was cut off, and deletes it."""
    journal = read_object(journal_path)
    home = Path(journal["home"])
    units = [_unpacked(row, home) for row in journal["units"]]
    gone = Gone(**{name: frozenset(values) for name, values in journal["gone"].items()})
    with _all_locked({unit.path: unit.kind for unit in units}):
        done = _carry_out(journal, home, units, gone, exporters)
    journal_path.unlink()
    return done


def _carry_out(
    journal: dict[str, Any], home: Path, units: list[Unit], gone: Gone, exporters: Exporters
) -> dict[str, Any]:
    for unit in units:
        if unit.path.is_dir():
            write_json(unit.path / MARK, {"kind": "forgetting"})
    with tombstones.at_work(), talk.progress("forget", len(units)) as advance:
        for unit in units:  # from here on no import brings anything back
            known = tombstones.read(unit.path).stones.values() if unit.kind == "corpus" else ()
            tombstones.write(unit.path, Tombstones([*known, *(Tombstone(**stone) for stone in unit.stones)]))
        for copy in journal["video_copies"]:
            (home / copy).unlink(missing_ok=True)
        amender = Amender(gone, units, exporters)
        for name, files in journal["scores"].items():
            amender.clean_scores(name, [Path(os.path.normpath(home / file)) for file in files])
        for unit in units:
            amender.clean(unit)
            advance()
    for unit in units:
        (unit.path / MARK).unlink(missing_ok=True)
    return journal["summary"] | {"still_named_in": sorted(amender.left), "removed_whole": amender.removed}


def _plan(roots: list[Path], found: dict[Path, str], wanted: set[str], exporters: Exporters) -> dict[str, Any]:
    """The journal: what has to go from which folders (`found`: their kinds), and how everything was called before."""
    for path in found:
        tombstones.refuse_unfinished(path)
    corpora = [path for path, kind in found.items() if kind == "corpus"]
    stones = [stone for path in corpora for stone in tombstones.read(path).stones.values() if stone.was_here]
    buried = Tombstones(stones)
    ids_of = {path: _ids(path, kind, exporters) for path, kind in found.items()}
    every = {clip_id for ids in ids_of.values() for clip_id in ids}
    clip_ids = {i for i in every if i in wanted or (stones and buried.contains(i))}
    rows = {path: all_rows(path, "clips") for path in corpora}
    clips = {path: [row for row in rows[path] if row["clip_id"] in clip_ids] for path in corpora}
    gone, files, copies = _gone(found, rows, clip_ids)
    units, checkpoints = [], []
    for path, kind in found.items():
        unit = _unit(path, kind, len(ids_of[path] & clip_ids), clips.get(path, []))
        if kind == "adapt" and (checkpoint := _checkpoint(path, clip_ids)):
            checkpoints.append(checkpoint)
            unit = replace(unit, gone=sum(checkpoint["clips"].values()))
        units.append(unit)
    return {
        "kind": "forgetting",
        "home": os.fspath(roots[0]),
        "units": [_packed(unit, roots[0]) for unit in _parents_first(units)],
        "gone": {name: sorted(values) for name, values in vars(gone).items()},
        "summary": {
            "clips": len(clip_ids),
            "not_found": len({i for i in wanted - clip_ids if not buried.contains(i)}),
            "folders": {str(unit.path): unit.gone for unit in units if unit.gone and unit.kind != "adapt"},
            "checkpoints": checkpoints,
            "video_files_left": [str(file) for file in files if file not in copies],
        },
        "scores": _score_digests(found, roots),
        "video_copies": [os.path.relpath(file, roots[0]) for file in copies],
    }


def _units(roots: list[Path], named: list[Path]) -> Iterator[tuple[Path, str]]:
    """(folder, kind) of all folders of ours at and below the roots."""
    kinds: dict[Path, str] = {}
    for root in roots:
        if not root.is_dir():
            raise M2raapError(f"{root}: no such folder; give runs, corpora, stage folders or exports")
        kinds |= {path: kind for path in _folders(root) if (kind := _kind(path))}
    _refuse_unnamed({other: path for path in kinds for other in _lies_on(path) if other.exists()}, named)
    if not kinds:
        raise M2raapError(f"{roots[0]}: holds no run, corpus, stage folder or export; there is nothing to forget in")
    for root in roots:
        kinds.setdefault(root, "folder")
    yield from sorted(kinds.items())


def _refuse_unnamed(made_from: dict[Path, Path], named: list[Path]) -> None:
    """Raises M2raapError where folders were made from something that the user has not named: it would have to change, too."""
    others = {other: path for other, path in made_from.items() if not any(other.is_relative_to(root) for root in named)}
    for other, path in others.items():
        raise M2raapError(
            f"{path}: was made from {other}, which knows the clips, too, and would bring them back; name all of them: "
            f"m2raap data forget {shlex.join(map(os.fspath, [*named, *others]))}"
        )


def _folders(root: Path) -> Iterator[Path]:
    """Without links: what they lead to was not named."""
    yield root
    for folder, names, _ in os.walk(root):
        names.sort()
        yield from (path for path in (Path(folder) / name for name in names) if not path.is_symlink())


def _kind(path: Path) -> str | None:
    """What a folder of ours is; None for any other, also where a file of it is called as ours are."""
    for name, needed in _OURS.items():
        if (path / name).exists():
            try:
                tree = read_object(path / name)
            except M2raapError as error:
                talk.log(f"left as it is: {error}")
                return None
            if not needed <= tree.keys():
                talk.log(f"left as it is: {path / name} is none of ours, or damaged")
                return None
            return "run" if name == "run.json" else "corpus" if tree.get("kind") == "corpus" else str(tree.get("stage"))
    return "export" if exports.read_export(path) else None


_OURS = {
    "run.json": {"data", "benches", "steps"},
    "manifest.json": {"files", "counts", "digest"},
    "plan.json": {"stage", "inputs"},
}  # a file by which a folder is known, and what it has to hold


def _lies_on(path: Path) -> list[Path]:
    """Corpora, parent folders and files of scores that a run or a finished stage names."""
    resolve = lambda names: [(path / name).resolve() for name in names]  # noqa: E731
    if (path / "run.json").exists():
        tree = read_json(path / "run.json")
        return resolve((tree["data"], *tree["benches"].values(), *tree.get("scores", ())))
    manifest = path / "manifest.json"
    view = read_json(manifest).get("view") if manifest.exists() else None
    return resolve((view["corpus"], *view["folders"])) if view else []


def _score_digests(found: dict[Path, str], roots: list[Path]) -> dict[str, list[str]]:
    """What the users' score files of every run are called now -> where they lie."""
    digests: dict[str, list[str]] = {}
    for path in (path for path, kind in found.items() if kind == "run"):
        files = [Path(os.path.normpath(path / name)) for name in read_json(path / "run.json").get("scores", ())]
        if files and all(file.is_file() for file in files):
            digests[scores_digest(tuple(files))] = [os.path.relpath(file, roots[0]) for file in files]
    return digests


def _ids(path: Path, kind: str, exporters: Exporters) -> set[str]:
    """Every clip id that a folder knows."""
    if kind == "export":
        return exporter_of(path, exporters).clip_ids(path)
    found: set[str] = set()
    for part in sorted(path.glob("*/part-*.parquet")):
        rows = read_part(path, part.parent.name, int(part.stem.removeprefix("part-")), ["clip_id"])
        found.update(row["clip_id"] for row in rows)
    for done in path.glob("done/score-*.json"):
        found.update(read_json(done)["clips"])
    if (path / "ids.json").exists():
        tree = read_json(path / "ids.json")
        found.update(tree.get("video_ids", ()), tree.get("missing", ()))
    return found


def _gone(
    found: dict[Path, str], rows: dict[Path, list[Row]], clip_ids: set[str]
) -> tuple[Gone, list[Path], list[Path]]:
    """What leaves, the video files that only these clips use, and which of them an import has put into the `videos` folder of
    the corpus that names them: any other is the user's own and stays."""
    leaving: set[str] = set()
    staying: set[str] = set()
    text_ids: set[str] = set()
    for path in found if clip_ids else ():
        for row in all_rows(path, "texts"):
            (leaving if row["clip_id"] in clip_ids else staying).add(row["text"])
            if row["clip_id"] in clip_ids:
                text_ids.add(row["text_id"])
    videos: set[str] = set()
    used: set[Path] = set()
    unused: set[Path] = set()
    copied: set[Path] = set()
    names_used: set[str] = set()
    for path, clips in rows.items():
        root = open_corpus(path).video_root
        for row in clips:
            goes = row["clip_id"] in clip_ids
            (videos if goes else names_used).add(row["video"])
            with suppress(M2raapError):  # an address, or a path that leads out of the root
                file = inside(root, row["video"]).resolve()
                (unused if goes else used).add(file)
                if file.is_relative_to(path.resolve() / "videos"):
                    copied.add(file)
    files = sorted(path for path in unused - used if path.is_file())
    # A caption that stays on other clips tells nothing of those that leave.
    gone = Gone(frozenset(clip_ids), frozenset(text_ids), frozenset(leaving - staying), frozenset(videos - names_used))
    return gone, files, [file for file in files if file in copied]


def _unit(path: Path, kind: str, num_gone: int, clips: list[Row]) -> Unit:
    unit = Unit(path, kind, gone=num_gone)
    if kind == "export":
        tree = exports.read_export(path) or {}
        return replace(unit, forgotten=tree["counts"].get("forgotten", 0))
    if kind == "corpus":
        root = open_corpus(path).video_root
        unit = replace(unit, stones=[vars(tombstones.bury(clip, root)) for clip in clips])
    if not (path / "manifest.json").exists():
        return unit
    tree = read_json(path / "manifest.json")
    for key in tree["files"]:
        signed_path(path, key)  # what lies outside is said before anything is marked
    if kind != "corpus" and "inputs" not in tree:
        raise M2raapError(
            f"{path / 'manifest.json'}: names no inputs; it is none of ours, or damaged: move the folder away"
        )
    settings = tree["settings"] if kind == "evaluate" else {}
    forgotten = tree["counts"].get("forgotten", 0)
    unit = replace(unit, digest=tree["digest"], was=tree.get("was", []), forgotten=forgotten, settings=settings)
    return replace(unit, inputs=tree.get("inputs", {}))


def _checkpoint(path: Path, clip_ids: set[str]) -> dict[str, Any] | None:
    """An adapted model, and how many of the clips it was trained on or chosen by."""
    if not (path / "manifest.json").exists():
        return None
    used = Counter(
        clip["split"]
        for part in open_view(path, current=False).parts()
        for clip in part.clips
        if clip["clip_id"] in clip_ids and part.texts_of[clip["clip_id"]] and clip["split"] in ("train", "val")
    )
    models = read_json(path / "manifest.json")["models"]
    return {"model": str(path / "model"), "digest": models.get("model"), "clips": dict(used)} if used else None


def _parents_first(units: list[Unit]) -> list[Unit]:
    """Corpora, then every stage behind all whose digests it names, then the rest."""
    named = by_digest(units)
    ordered: dict[Path, Unit] = {}

    def put(unit: Unit) -> None:
        if unit.path in ordered:
            return
        parents = {name: named[value] for name, value in sorted(unit.inputs.items()) if value in named}
        for parent in parents.values():
            put(parent)
        embedded = parents["embed"].path if unit.kind == "evaluate" and "embed" in parents else None
        ordered[unit.path] = replace(unit, embedded=embedded)

    for unit in sorted(units, key=lambda unit: (unit.kind != "corpus", unit.path)):
        put(unit)
    return list(ordered.values())


def _packed(unit: Unit, home: Path) -> dict[str, Any]:
    paths = {name: getattr(unit, name) for name in ("path", "embedded")}
    return asdict(unit) | {name: path and os.path.relpath(path, home) for name, path in paths.items()}


def _unpacked(row: dict[str, Any], home: Path) -> Unit:
    paths = {name: row[name] and Path(os.path.normpath(home / row[name])) for name in ("path", "embedded")}
    return Unit(**row | paths)  # type: ignore[arg-type]  # as `_packed` wrote it
