"""Inspecting a run: the integrity of its folders (`status --verify`) and its progress (`status`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from m2raap.core import tombstones
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object
from m2raap.core.folder import read_timings
from m2raap.core.ledger import Counts
from m2raap.core.part_work import phase_digest
from m2raap.core.records import CorpusManifest, DoneRecord, Plan, StageManifest, as_record, read_record
from m2raap.core.signed import (
    FORGETTING,
    digest_of,
    is_finished,
    part_key,
    refuse_old_format,
    signed_parts,
    signed_path,
    stage_manifest,
    verify_files,
)
from m2raap.core.tables import SCHEMA_VERSION, part_rows, part_settings
from m2raap.core.tombstones import FILE as TOMBSTONES
from m2raap.core.view import View, changed_parents, digest_in
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.stages import data_stages, stage_classes
from m2raap.stages.training_log import last_step


def check(folder: Path) -> list[dict[str, Any]]:
    """One row for every corpus and stage folder at or below `folder`: its state and its faults.

    Raises M2raapError where there is no such folder.
    """
    manifests = sorted({path.parent for name in ("manifest.json", "plan.json") for path in folder.rglob(name)})
    manifests = [path for path in manifests if "previous" not in path.relative_to(folder).parts]
    if not manifests:
        raise M2raapError(f"{folder}: the folder holds no corpus and no stage folder")
    return [_row_of(path) for path in manifests]


def _row_of(folder: Path) -> dict[str, Any]:
    try:
        return _check_one(folder)
    except M2raapError as error:  # a fault of one folder must not keep the others from being checked
        return {"folder": str(folder), "state": "damaged", "faults": [str(error)]}


def _check_one(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"folder": str(folder), "state": "ok", "faults": []}
    if not (folder / "manifest.json").exists():
        return row | {"state": "unfinished"}
    path = folder / "manifest.json"
    tree = read_object(path)
    if tree.get("kind") == "corpus":
        if FORGETTING in tree or tree.get("schema_version") != SCHEMA_VERSION:
            open_corpus(folder)  # which raises the error
        manifest: CorpusManifest | StageManifest = as_record(CorpusManifest, tree, path)
    else:
        refuse_old_format(tree, folder)
        manifest = as_record(StageManifest, tree, path)
    wrong = verify_files(folder, manifest["files"])
    row["faults"] = [f"{file}: the file is missing or differs from its digest in the manifest" for file in wrong]
    if manifest["digest"] != digest_of(manifest):
        row["faults"].append(f"{path}: was changed after it was signed")
    if manifest["kind"] == "corpus":
        if not row["faults"]:
            row["faults"] += _rows(folder, cast(CorpusManifest, manifest))
    else:
        stage = cast(StageManifest, manifest)
        row["faults"] += _accounting(folder, stage["counts"])
        row["faults"] += _parents(folder, stage)
        row["faults"] += _settings(folder, stage, wrong)
        row["libraries"] = stage.get("libraries", {})
    return row | {"state": "damaged" if row["faults"] else "ok"}


def _rows(folder: Path, manifest: CorpusManifest) -> list[str]:
    """Faults where the counts in the manifest of a corpus, which its digest does not include, are not those of its tables."""
    faults = []
    for table, name in (("clips", "clips"), ("texts", "texts"), ("missing", "missing_file"), ("dropped", "dropped")):
        parts = [signed_path(folder, part_key(table, part)) for part in signed_parts(folder, table) or ()]
        num_rows = sum(map(part_rows, parts))
        if num_rows != manifest["counts"].get(name, 0):
            counted = manifest["counts"].get(name, 0)
            faults.append(
                f"{folder / 'manifest.json'}: counts {counted:,} {name}, but the table '{table}' has {num_rows:,} rows"
            )
    if manifest["counts"].get("forgotten") and not (folder / TOMBSTONES).is_file():
        faults.append(f"{folder / TOMBSTONES}: is missing, although the manifest counts forgotten clips")
    try:
        tombstones.read(folder)
    except M2raapError as error:
        faults.append(str(error))
    return faults


def _accounting(folder: Path, counts: dict[str, Any]) -> list[str]:
    if not all(isinstance(value, int) for name, value in counts.items() if name.startswith(("clips_", "texts_"))):
        return [f"{folder / 'manifest.json'}: counts clips or texts by something other than whole numbers"]
    return [
        f"{folder}: {rows.expected} {table} were read or added, but {rows.accounted} are kept or dropped"
        for table, rows in Counts.from_dict(counts).tables.items()
        if rows.expected != rows.accounted
    ]


def _parents(folder: Path, manifest: StageManifest) -> list[str]:
    """Faults for the parents that have changed since this stage was made."""
    if "view" not in manifest:
        return []
    if any("\0" in name for name in (manifest["view"]["corpus"], *manifest["view"]["folders"])):
        return [f"{folder / 'manifest.json'}: names a parent by a path that cannot exist"]
    parents = tuple(folder / parent for parent in manifest["view"]["folders"])
    view = View(folder / manifest["view"]["corpus"], (*parents, folder))
    return [
        f"{folder}: the stage was made from {parent.resolve()}, which has changed since or is unfinished"
        for parent in changed_parents(view, manifest["inputs"])
    ]


def _settings(folder: Path, manifest: StageManifest, wrong: list[str]) -> list[str]:
    """Faults where the plan or a part has other settings or inputs than the manifest. `wrong`: files that differ from the
    manifest, which are not checked again."""
    faults = []
    plan = read_object(folder / "plan.json") if (folder / "plan.json").exists() else {}
    for key in ("stage", "version", "settings", "inputs"):
        if plan and plan.get(key) != manifest.get(key):
            faults.append(f"{folder / 'plan.json'}: the key '{key}' differs from the manifest")
    stage, version, settings = manifest["stage"], manifest["version"], manifest["settings"]
    for phase in ("score", "apply"):
        for path in sorted((folder / "done").glob(f"{phase}-*.json")):
            record = read_record(DoneRecord, path)
            expected = phase_digest(stage, version, phase, settings)
            if record["settings"] != expected:
                faults.append(f"{path}: was made with other settings than the manifest names")
            faults += [
                f"{path}: names the file '{key[:80]}' with another digest than the manifest"
                for key, value in record["files"].items()
                if manifest["files"].get(key) != value
            ]
            # Only files of the manifest, which have been verified: another path may be a pipe, which never ends.
            files = [signed_path(folder, key) for key in record["files"] if key in manifest["files"]]
            faults += [
                f"{file}: was made with other settings than the manifest names"
                for file in files
                if str(file) not in wrong and part_settings(file) != expected
            ]
    return faults


def status(run: RunFolder) -> list[dict[str, Any]]:
    """One row for every stage folder: its state, the parts that are done, the rows in and out; and one for a report.

    A stage that was made from other content than its inputs have today is `stale`.
    """
    rows = []
    owners = {step.folder: step for step in reversed(run.steps)}
    for folder in dict.fromkeys(step.folder for step in run.steps):
        arms = [other.arm for other in run.steps if other.folder == folder]
        rows.append(_status_row(owners[folder]) | {"arms": list(dict.fromkeys(arms))})
    for name, cls in stage_classes().items():
        if cls.result and (run.path / name / cls.result).is_file():
            row = {"folder": str(run.path / name), "stage": name, "bench": None, "state": "done"}
            rows.append(row | {"arms": run.arms()})
    return rows


def _status_row(step: Step) -> dict[str, Any]:
    row: dict[str, Any] = {"folder": str(step.folder), "stage": step.stage, "bench": step.bench, "state": "to do"}
    if (step.folder / "manifest.json").exists():
        if not is_finished(step.folder):
            return row | {"state": "old format"}
        manifest = stage_manifest(step.folder)
        state = "stale" if is_stale(step, manifest) else "done"
        devices = sorted({timing["device"] for timing in read_timings(step.folder) if "device" in timing})
        row |= {"devices": devices} if devices else {}
        return row | {"state": state, "counts": manifest["counts"], "libraries": manifest.get("libraries", {})}
    if (step.folder / "plan.json").exists():
        row |= {"state": "unfinished"}
        if step.stage not in data_stages():
            trained = last_step(step.folder)
            return row if trained is None else row | {"step": trained}
        total = read_record(Plan, step.folder / "plan.json")["num_parts"]
        done = {phase: len(list((step.folder / "done").glob(f"{phase}-*.json"))) for phase in ("score", "apply")}
        return row | {"parts": total, "scored": done["score"], "applied": done["apply"]}
    return row


def is_stale(step: Step, manifest: StageManifest) -> bool:
    """Whether the corpus, or a folder that the step reads, has another content than when the step was finished, or is gone."""
    inputs = manifest["inputs"]
    folders = [*step.parents, *([step.model] if step.model and "model" in inputs else [])]
    if "view" in manifest:
        folders.append(step.folder / manifest["view"]["corpus"])
    return any(digest_in(folder) not in {*inputs.values()} - {""} for folder in folders)
