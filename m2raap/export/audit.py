"""audit: a blind sheet of dropped and kept rows for people to label, and the error rate of every rule by their labels.

The sheet shows a video, a text and a clip to compare with, for dropped and kept rows alike; `audit-key.parquet` beside it
holds the reason of every row.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.errors import M2raapError
from m2raap.core.exports import neutral
from m2raap.core.files import write_atomic
from m2raap.core.tables import Clip, Drop, Row, Text, read_part, write_table
from m2raap.core.view import View
from m2raap.export.corpus import curated_view
from m2raap.retrieval.significance import wilson

KEY = "audit-key.parquet"
LABELS = ("keep", "drop")
_COLUMNS = (
    "item", "label", "note", "clip_id", "video", "start_s", "end_s", "lang", "text", "same_text_on", "compare_with",
)  # fmt: skip
# Reasons that follow from other drops, or drop good clips of which there are too many.
_NO_VERDICT = (
    "no_text_left",
    "balanced_out",
)


def draw_sheet(run: Path, out: Path, per_reason: int, seed: int) -> dict[str, Any]:
    """Writes the sheet and its key. `rows`: how many of each reason ('kept' among them) are on it.

    Raises M2raapError where nothing was dropped, or where a key of another sheet lies beside `out`.
    """
    if (out.parent / KEY).exists():
        raise M2raapError(f"{out.parent / KEY}: is the key of a sheet drawn before; give --out in another folder")
    view = curated_view(run)
    candidates = _AuditRows(view)
    if not candidates.dropped:
        raise M2raapError(f"{run}: no rule has dropped a row, so there is nothing to audit")
    rng = np.random.default_rng([seed, per_reason])
    chosen: list[Row] = []
    for reason, rows in sorted(candidates.dropped.items()):
        chosen += [candidates.item(row, reason, rng) for row in _draw(rows, per_reason, rng)]
    chosen += [candidates.item(row, "kept", rng) for row in _draw(candidates.kept, per_reason, rng)]
    order = rng.permutation(len(chosen))
    items = [chosen[at] | {"item": str(number)} for number, at in enumerate(order, 1)]
    _write_key(out.parent / KEY, items)
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, _COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows({name: neutral(value) for name, value in item.items()} for item in items)
    write_atomic(out, b"\xef\xbb\xbf" + sink.getvalue().encode())  # Excel recognises UTF-8 by this byte order mark
    return {"sheet": str(out), "key": str(out.parent / KEY), "rows": dict(Counter(item["reason"] for item in items))}


def _draw(rows: Sequence[Drop] | Sequence[Text], num: int, rng: np.random.Generator) -> list[Drop | Text]:
    ordered = sorted(rows, key=lambda row: (row["clip_id"], row["text_id"] or ""))
    return [ordered[at] for at in sorted(rng.permutation(len(ordered))[:num])]


class _AuditRows:
    """The rows that the stages of a view dropped, by reason, and those that they kept."""

    def __init__(self, view: View) -> None:
        self._root = view.corpus.stated_video_root  # shown to the user, and not opened
        self._clips: dict[str, Clip] = {}
        self._texts: dict[str, Mapping[str, Any]] = {}
        self._texts_of: dict[str, list[str]] = {}
        self._copy_of: dict[str, str] = {}
        self._clips_with_text: Counter[str] = Counter()
        self.dropped: dict[str, list[Drop]] = {}
        self.kept: list[Text] = []
        base = replace(view, folders=())
        for index in range(view.num_parts):
            before, after, dropped_ids = base.part(index), view.part(index), view.dropped_ids(index)
            self._clips |= {row["clip_id"]: row for row in before.clips}
            self._texts |= {row["text_id"]: row for row in before.texts}
            self._texts_of |= {clip: [row["text_id"] for row in rows] for clip, rows in before.texts_of.items()}
            self._clips_with_text.update(text for text, _ in {(row["text"], row["clip_id"]) for row in before.texts})
            # The sheet shows the original of a rewritten text, since the rules judged the original.
            kept = {row["clip_id"] for row in after.clips}
            self.kept += [row for row in before.texts if row["clip_id"] in kept and row["text_id"] not in dropped_ids]
            for folder in view.folders:
                for row in read_part(folder, "verdicts", index):
                    if row.get("copy_of"):
                        self._copy_of[row["clip_id"]] = row["copy_of"]
                for row in read_part(folder, "texts", index):
                    self._texts.setdefault(row["text_id"], row)
            for row in view.dropped(index):
                if row["reason"] not in _NO_VERDICT:
                    self.dropped.setdefault(row["reason"], []).append(row)
        self._ids = sorted(self._clips)

    def item(self, row: Mapping[str, Any], reason: str, rng: np.random.Generator) -> Row:
        """A row of the sheet with a clip to compare with: the one that it is a copy of, or else a random one."""
        clip = self._clips[row["clip_id"]]
        texts = self._texts_of[clip["clip_id"]]
        text_id = row["text_id"] or (texts[int(rng.integers(len(texts)))] if texts else None)
        text = self._texts.get(text_id or "", {})
        other = self._copy_of.get(clip["clip_id"]) or self._ids[int(rng.integers(len(self._ids)))]
        same_text_on = self._clips_with_text[text["text"]] if text.get("text") else ""
        cells = {"clip_id": clip["clip_id"], "text_id": row["text_id"] if reason != "kept" else text_id}
        cells |= {"reason": reason, "stage": row.get("stage"), "video": self._path(clip)}
        cells |= {"start_s": clip["start_s"], "end_s": clip["end_s"], "lang": text.get("lang", "")}
        cells |= {"text": text.get("text", ""), "same_text_on": same_text_on}
        return cells | {"compare_with": self._path(self._clips[other]) if other in self._clips else ""}

    def _path(self, clip: Clip) -> str:
        return clip["video"] if "://" in clip["video"] else str(self._root / clip["video"])


def _write_key(path: Path, items: list[Row]) -> None:
    import pyarrow as pa

    names = ("item", "clip_id", "text_id", "reason", "stage")
    fields = pa.schema([(name, pa.string()) for name in names])
    write_table(path, pa.Table.from_pylist([{name: item[name] for name in names} for item in items], schema=fields))


def judge_sheet(run: Path, sheet: Path) -> dict[str, Any]:
    """The share of wrong drops of every reason and of good rows among the kept, each with its Wilson 95% interval.

    Raises M2raapError naming row and column of the sheet, or where the key is absent or of another run.
    """
    import pyarrow.parquet as pq

    path = sheet.parent / KEY
    if not path.exists():
        raise M2raapError(f"{path}: is missing; put the key of the sheet into the folder of the sheet")
    key = {row["item"]: row for row in pq.read_table(path, use_threads=False).to_pylist()}
    _check_run(run, path, key)
    labels = _read_labels(sheet, set(key))
    labels_of: dict[str, Counter[str]] = {}
    for item, label in labels.items():
        labels_of.setdefault(key[item]["reason"], Counter())[label] += 1
    kept = labels_of.pop("kept", Counter())
    reasons = []
    for reason, counts in sorted(labels_of.items()):
        wrong, labelled = counts["keep"], sum(counts.values())
        row = {"reason": reason, "labelled": labelled, "wrong": wrong, "rate": wrong / labelled}
        reasons.append(row | {"interval": wilson(wrong, labelled)})
    judged = sum(kept.values())
    agreed: dict[str, Any] = {"labelled": judged, "agreed": kept["keep"]}
    if judged:
        agreed |= {"rate": kept["keep"] / judged, "interval": wilson(kept["keep"], judged)}
    return {"reasons": reasons, "kept": agreed, "unlabelled": len(key) - len(labels)}


def _check_run(run: Path, path: Path, key: dict[str, Row]) -> None:
    view = curated_view(run)
    dropped = {
        (row["clip_id"], row["text_id"], row["reason"])
        for index in range(view.num_parts)
        for row in view.dropped(index)
    }
    for row in key.values():
        if row["reason"] != "kept" and (row["clip_id"], row["text_id"], row["reason"]) not in dropped:
            raise M2raapError(
                f"{path}: '{row['text_id'] or row['clip_id']}' is not dropped as {row['reason']} in {run}; the sheet is "
                "of another run or of other thresholds: draw a new one"
            )


def _read_labels(sheet: Path, items: set[str]) -> dict[str, str]:
    """Item -> keep or drop, without empty labels. Reads a csv as spreadsheet programs save it: byte order mark, separator."""
    text = _decoded(sheet)
    header = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    names = [name.strip().lower() for name in next(rows, [])]
    for name in ("item", "label"):
        if names.count(name) != 1:
            raise M2raapError(f"{sheet}: row 1: expected one column '{name}'; the columns are {', '.join(names)}")
    at_item, at_label = names.index("item"), names.index("label")
    labels: dict[str, str] = {}
    seen: set[str] = set()
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        where = f"{sheet}: row {rows.line_num}"
        if len(row) <= max(at_item, at_label):
            raise M2raapError(f"{where}: has {len(row)} columns, but the header has {len(names)}")
        item, label = row[at_item].strip(), row[at_label].strip().lower()
        if item not in items:
            raise M2raapError(f"{where}, column 'item': '{item}' is not an item of {KEY}")
        if item in seen:
            raise M2raapError(f"{where}, column 'item': '{item}' is repeated; delete one of its rows")
        if label and label not in LABELS:
            raise M2raapError(
                f"{where}, column 'label': '{label}' is neither keep nor drop; leave it empty if in doubt"
            )
        seen.add(item)
        if label:
            labels[item] = label
    return labels


def _decoded(sheet: Path) -> str:
    try:
        data = sheet.read_bytes()
    except OSError as error:
        raise M2raapError(f"{sheet}: cannot be read ({error.strerror or error})") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # a local code page: items and labels are ASCII in all of these
