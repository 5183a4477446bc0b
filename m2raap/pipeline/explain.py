"""The history of one clip (`explain`): what every stage of a run measured, added or dropped, from the files on disk."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from m2raap.core import tombstones
from m2raap.core.errors import M2raapError
from m2raap.core.signed import is_finished, stage_manifest
from m2raap.core.stage import DataStage
from m2raap.core.tables import Row, part_of, read_clip
from m2raap.core.view import View, open_view
from m2raap.pipeline.inspect import is_stale
from m2raap.pipeline.run_folder import RunFolder
from m2raap.pipeline.signal_text import signal_text
from m2raap.stages.rules import StageRules


def explain(run: Path, clip_id: str) -> dict[str, Any]:
    """The history of one clip: its row, its texts, and what every stage measured, added or dropped, in order.

    `run` is a run, a stage folder or a corpus. `unfinished` lists the stages of a run that are not finished, or whose folder is
    lost: `fate` is without them. `stale` lists those that were made from other content than the run has today. Raises
    M2raapError for an id that is in none of its corpora.
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
                readable = [s for s in steps if is_finished(s.folder)]
                stale = {s.folder for s in readable if is_stale(s, stage_manifest(s.folder))}
                return story | {
                    "unfinished": [name for path, name in named.items() if path not in finished],
                    "stale": [name for path, name in named.items() if path in stale],
                }
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
    typed = clip_id.rpartition("/")[2] or clip_id  # of a path the name of the file
    near = [name for name in ids if name.startswith(typed) or typed.startswith(name)]
    near = near or difflib.get_close_matches(typed, ids[:_MAX_COMPARED])
    hint = (
        f"did you mean '{near[0]}'?"
        if near
        else f"there are {len(ids):,} clips{f', such as {ids[0]!r}' if ids else ''}"
    )
    return M2raapError(f"{clip_id}: no clip of that id in {names}: {hint}")


_MAX_COMPARED = 200_000  # most ids among which similar ones are searched for


def _has(view: View, clip_id: str) -> bool:
    index = part_of(clip_id, view.num_parts)
    return any(row["clip_id"] == clip_id for row in view.corpus.rows("clips", index, ["clip_id"]))


def _story(view: View, clip_id: str, folders: list[tuple[str, Path]]) -> dict[str, Any]:
    index = part_of(clip_id, view.num_parts)
    clip = read_clip(view.corpus_path, "clips", index, clip_id)[0]
    texts = {row["text_id"]: row for row in read_clip(view.corpus_path, "texts", index, clip_id)}
    story: dict[str, Any] = {"clip": _plain(clip), "texts": [_plain(row) for row in texts.values()], "stages": []}
    known: dict[str, Row] = {}
    for row in read_clip(
        view.corpus_path, "signals", index, clip_id
    ):  # what the imported list says of the clip: one row
        known[clip_id] = _plain(row)
        story["signals"] = [known[clip_id]]
    drops: dict[str, Row] = {}
    missing: list[str] = []
    for label, folder in folders:
        chapter: dict[str, Any] = {"stage": label}
        tables = {table: [_plain(row) for row in read_clip(folder, table, index, clip_id)] for table in _TABLES}
        for row in (*tables["signals"], *tables["verdicts"]):
            name = row.get("text_id") or clip_id
            known[name] = {**known.get(name, {}), **row}
        seen = {row.get("text_id") or clip_id for row in tables["signals"]}
        chapter["rules"] = _rules(folder, clip, [row for row in texts.values() if row["text_id"] in seen], known)
        chapter |= {table: rows for table, rows in tables.items() if rows}
        story["stages"].append(chapter)
        drops |= {row.get("text_id") or clip_id: row for row in tables["dropped"]}
        missing = [row["reason"] for row in tables["missing"]] or missing
        for table in ("texts", "superseded"):
            texts |= {row["text_id"]: row for row in read_clip(folder, table, index, clip_id)}
    story["fate"] = _fate(clip, texts, known, drops) | ({"without_frames": missing[0]} if missing else {})
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
    lines += _signal_lines(story.get("signals", []))
    for chapter in story["stages"]:
        lines.append(chapter["stage"])
        lines += _signal_lines([*chapter.get("signals", []), *chapter.get("verdicts", [])])
        lines += _rule_lines(chapter["rules"])
        for row in chapter.get("frames", []):
            picks = zip(row["times_s"], row["shots"], row["why"], strict=True)
            named = [(time, f"shot {shot}" if shot >= 0 else "no shot known", why) for time, shot, why in picks]
            lines += [f"  frame at {time:.2f} s, {shot}: {why}" for time, shot, why in named]
        for row in [*chapter.get("texts", []), *chapter.get("superseded", [])]:
            kind = "text" if row["active"] else "replaced text"
            lines.append(f"  {kind} {row['text_id']} ({row['lang']}, {row['origin']}): {row['text']}")
        for row in [*chapter.get("dropped", []), *chapter.get("missing", [])]:
            against = f" {row['score']:.4g} against {row['threshold']:.4g}" if "threshold" in row else ""
            also = f"; also {', '.join(row['also_failed'])}" if row.get("also_failed") else ""
            lines.append(
                f"  dropped {row.get('text_id') or 'the clip'}: {row['reason']} ({row.get('detail', '')}{against}), "
                f"rule {row.get('rule_version', '-')}{also}"
            )
    without = story.get("unfinished")
    note = [f"not finished, so that what follows is without it: {', '.join(without)}"] if without else []
    if stale := story.get("stale"):
        note.append(
            f"stale, made from other content than their inputs have today: {', '.join(stale)}; run it again with --force"
        )
    return lines + note + _fate_lines(story["fate"])


def _signal_lines(rows: list[Row]) -> list[str]:
    return [f"  {row.get('text_id') or 'clip'}: {text}" for row in rows if (text := signal_text(row))]


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
    if reason := fate.get("without_frames"):
        lines = [
            f"kept without frames ({reason}), as no clip of a benchmark is dropped: it counts as not retrieved; {terms}"
        ]
    for text in fate["texts"]:
        parent_text = f" from '{text['made_from']}'" if "made_from" in text else ""
        how = ", ".join(f"{name} {text[name]}" for name in ("producer", *_OUTCOMES) if name in text)
        lines.append(
            f"  {text['text_id']} ({text['lang']}, {text['origin']}{': ' + how if how else ''}){parent_text}: {text['text']}"
        )
    return lines
