"""Inspecting a run: the integrity of its folders (`check`), its progress (`status`), the history of one clip (`explain`)."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from m2raap.core import tombstones
from m2raap.core.corpus import open_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.files import read_object
from m2raap.core.ledger import Counts
from m2raap.core.records import CorpusManifest, DoneRecord, Plan, StageManifest, as_record, read_record
from m2raap.core.runner import phase_digest
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
from m2raap.core.stage import DataStage
from m2raap.core.tables import SCHEMA_VERSION, Row, part_of, part_rows, part_settings, read_part
from m2raap.core.tombstones import FILE as TOMBSTONES
from m2raap.core.view import View, changed_parents, digest_in, open_view
from m2raap.pipeline.plan import Step
from m2raap.pipeline.run_folder import RunFolder
from m2raap.stages import stage_classes
from m2raap.stages.rules import StageRules


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
            if record.get("settings") != expected:
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
        state = "stale" if _is_stale(step, manifest) else "done"
        return row | {"state": state, "counts": manifest["counts"], "libraries": manifest.get("libraries", {})}
    if (step.folder / "plan.json").exists():
        total = read_record(Plan, step.folder / "plan.json")["num_parts"]
        done = {phase: len(list((step.folder / "done").glob(f"{phase}-*.json"))) for phase in ("score", "apply")}
        return row | {"state": "unfinished", "parts": total, "scored": done["score"], "applied": done["apply"]}
    return row


def _is_stale(step: Step, manifest: StageManifest) -> bool:
    """Whether the corpus, or a folder that the step reads, has another content than when the step was finished, or is gone."""
    inputs = manifest["inputs"]
    folders = [*step.parents, *([step.model] if step.model and "model" in inputs else [])]
    if "view" in manifest:
        folders.append(step.folder / manifest["view"]["corpus"])
    return any(digest_in(folder) not in {*inputs.values()} - {""} for folder in folders)


def explain(run: Path, clip_id: str) -> dict[str, Any]:
    """The history of one clip: its row, its texts, and what every stage measured, added or dropped, in order.

    `run` is a run, a stage folder or a corpus. `unfinished` lists the stages of a run that are not finished, or whose folder is
    lost: `fate` is without them. Raises M2raapError for an id that is in none of its corpora.
    """
    if (run / "run.json").exists():
        folder = RunFolder.open(run)
        for bench in (None, *folder.inputs.benches):
            corpus = View(folder.inputs.benches[bench] if bench else folder.inputs.data)
            if _has(corpus, clip_id):
                steps = [s for s in folder.steps if s.bench == bench and s.is_of(DataStage)]
                named = {s.folder: f"{s.owner}/{s.stage}" for s in steps}
                finished = {path: name for path, name in named.items() if (path / "manifest.json").exists()}
                story = _story(corpus, clip_id, [(name, path) for path, name in finished.items()])
                return story | {"unfinished": [name for path, name in named.items() if path not in finished]}
        raise _unknown(clip_id, [View(path) for path in folder.inputs.corpora.values()])
    view = open_view(run)
    if not _has(view, clip_id):
        raise _unknown(clip_id, [view])
    return _story(view, clip_id, [(folder.name, folder) for folder in view.folders])


def _unknown(clip_id: str, views: list[View]) -> M2raapError:
    """The error to raise for an id that none of the corpora has: whether it was forgotten, or which ids are like it."""
    names = ", ".join(str(view.corpus_path) for view in views)
    for view in views:
        if tombstones.read(view.corpus_path).contains(clip_id):
            return M2raapError(f"{clip_id}: was removed from {view.corpus_path} by 'm2raap data forget'")
    ids = [row["clip_id"] for view in views for row in view.corpus.all_rows("clips", ["clip_id"])]
    near = [name for name in ids if name.startswith(clip_id) or clip_id.startswith(name)]
    near = near or difflib.get_close_matches(clip_id, ids[:_MAX_COMPARED])
    hint = f"did you mean '{near[0]}'?" if near else f"it has {len(ids):,} clips, such as '{ids[0]}'"
    return M2raapError(f"{clip_id}: no clip of that id in {names}: {hint}")


_MAX_COMPARED = 200_000  # most ids among which similar ones are searched for


def _has(view: View, clip_id: str) -> bool:
    index = part_of(clip_id, view.num_parts)
    return any(row["clip_id"] == clip_id for row in view.corpus.rows("clips", index, ["clip_id"]))


def _story(view: View, clip_id: str, folders: list[tuple[str, Path]]) -> dict[str, Any]:
    index = part_of(clip_id, view.num_parts)
    of_clip = lambda rows: [_plain(row) for row in rows if row["clip_id"] == clip_id]  # noqa: E731
    clip = next(row for row in view.corpus.rows("clips", index) if row["clip_id"] == clip_id)
    texts = {row["text_id"]: row for row in view.corpus.rows("texts", index) if row["clip_id"] == clip_id}
    story: dict[str, Any] = {"clip": _plain(clip), "texts": [_plain(row) for row in texts.values()], "stages": []}
    known: dict[str, Row] = {}
    drops: dict[str, Row] = {}
    for label, folder in folders:
        chapter: dict[str, Any] = {"stage": label}
        tables = {table: of_clip(read_part(folder, table, index)) for table in _TABLES}
        for row in (*tables["signals"], *tables["verdicts"]):
            name = row.get("text_id") or clip_id
            known[name] = {**known.get(name, {}), **row}
        seen = {row.get("text_id") or clip_id for row in tables["signals"]}
        chapter["rules"] = _rules(folder, clip, [row for row in texts.values() if row["text_id"] in seen], known)
        chapter |= {table: rows for table, rows in tables.items() if rows}
        story["stages"].append(chapter)
        drops |= {row.get("text_id") or clip_id: row for row in tables["dropped"]}
        for table in ("texts", "superseded"):
            texts |= {row["text_id"]: row for row in read_part(folder, table, index) if row["clip_id"] == clip_id}
    story["fate"] = _fate(clip, texts, known, drops)
    return story


_TABLES = ("signals", "verdicts", "frames", "texts", "superseded", "dropped", "missing")


def _rules(folder: Path, clip: Row, texts: list[Row], known: dict[str, Row]) -> list[Row]:
    """The result of every rule of one stage for the clip and its texts."""
    rules = StageRules(folder)
    rows = [(clip, {}), *((text, {"text_id": text["text_id"]}) for text in texts)]
    return [
        {"stage": rules.stage.name, **asdict(judged), "failed": judged.failed, **ids}
        for row, ids in rows
        if (signals := known.get(row.get("text_id") or row["clip_id"])) is not None
        for judged in rules.judged(row, signals)
    ]


def _fate(clip: Row, texts: dict[str, Row], known: dict[str, Row], drops: dict[str, Row]) -> dict[str, Any]:
    """Whether the clip is kept or dropped; of a kept clip also source, licence, and the origin of each active text."""
    if clip["clip_id"] in drops:
        return {"kept": False, "reason": drops[clip["clip_id"]]["reason"], "stage": drops[clip["clip_id"]]["stage"]}
    fate: dict[str, Any] = {"kept": True, **{name: clip[name] for name in ("source", "licence", "url")}, "texts": []}
    for text in texts.values():
        if text["text_id"] in drops or not text["active"]:
            continue
        row = {name: text[name] for name in ("text_id", "lang", "text", "origin", "producer", "parent_text_id")}
        if parent := texts.get(text["parent_text_id"] or ""):
            row["made_from"] = parent["text"]
        signals = known.get(text["text_id"], {})
        row |= {name: signals[name] for name in _OUTCOMES if signals.get(name)}
        fate["texts"].append(_plain(row))
    return fate


_OUTCOMES = ("caption_outcome", "caption_note", "rewrite_outcome", "rewrite_note")


def _plain(row: Row) -> Row:
    """The row without empty values, pictures and vectors."""
    plain = {key: value for key, value in row.items() if value not in (None, []) and not isinstance(value, bytes)}
    if "jpegs" in plain:
        plain["jpegs"] = f"{len(row['jpegs'])} pictures, {sum(map(len, row['jpegs'])):,} bytes"
    return plain


def tell(story: dict[str, Any]) -> list[str]:
    """The lines in which `explain` prints what the function of that name returns."""
    clip = story["clip"]
    lines = [f"clip {clip['clip_id']}: {clip['video']}, split {clip['split']}"]
    lines += [f"  {text['text_id']} ({text['lang']}, {text['origin']}): {text['text']}" for text in story["texts"]]
    for chapter in story["stages"]:
        lines.append(chapter["stage"])
        for row in [*chapter.get("signals", []), *chapter.get("verdicts", [])]:
            name = row.get("text_id") or "clip"
            columns = {k: v for k, v in row.items() if k not in ("clip_id", "text_id", "text_key", "dim")}
            lines.append(f"  {name}: " + ", ".join(f"{k} {_short(v)}" for k, v in columns.items()))
        lines += _rule_lines(chapter["rules"])
        for row in chapter.get("frames", []):
            picks = zip(row["times_s"], row["shots"], row["why"], strict=True)
            named = [(time, f"shot {shot}" if shot >= 0 else "no shot known", why) for time, shot, why in picks]
            lines += [f"  frame at {time:.2f} s, {shot}: {why}" for time, shot, why in named]
        for row in [*chapter.get("texts", []), *chapter.get("superseded", [])]:
            lines.append(
                f"  {'text' if row['active'] else 'superseded'} {row['text_id']} ({row['lang']}, {row['origin']}): {row['text']}"
            )
        for row in [*chapter.get("dropped", []), *chapter.get("missing", [])]:
            against = f" {row['score']:.4g} against {row['threshold']:.4g}" if "threshold" in row else ""
            also = f"; also {', '.join(row['also_failed'])}" if row.get("also_failed") else ""
            lines.append(
                f"  dropped {row.get('text_id') or 'the clip'}: {row['reason']} ({row.get('detail', '')}{against}), "
                f"rule {row.get('rule_version', '-')}{also}"
            )
    without = story.get("unfinished")
    note = [f"not finished, so that what follows is without it: {', '.join(without)}"] if without else []
    return lines + note + _fate_lines(story["fate"])


def _rule_lines(rules: list[Row]) -> list[str]:
    """One line of the rules that passed and one of those that failed, for the clip and for every text."""
    lines = []
    for name in dict.fromkeys(row.get("text_id") for row in rules):
        for failed in (False, True):
            rule_texts = [
                f"{row['rule']}/{row['version']} ({row['signal']} {row['score']:.4g}, refused {row['refused_if']} "
                f"{row['threshold']:.4g})"
                for row in rules
                if row.get("text_id") == name and row["failed"] == failed
            ]
            if rule_texts:
                lines.append(f"  {name or 'clip'} {'failed' if failed else 'passed'} {', '.join(rule_texts)}")
    return lines


def _fate_lines(fate: dict[str, Any]) -> list[str]:
    if not fate["kept"]:
        return [f"dropped by {fate['stage']}: {fate['reason']}"]
    terms = ", ".join(f"{name} {fate[name] or 'not stated'}" for name in ("source", "licence"))
    lines = [f"kept: {terms}"]
    for text in fate["texts"]:
        parent_text = f" from '{text['made_from']}'" if "made_from" in text else ""
        how = ", ".join(f"{name} {text[name]}" for name in ("producer", *_OUTCOMES) if name in text)
        lines.append(
            f"  {text['text_id']} ({text['lang']}, {text['origin']}{': ' + how if how else ''}){parent_text}: {text['text']}"
        )
    return lines


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
