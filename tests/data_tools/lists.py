"""Lists as their publishers write them, put on disk by a test, and what an import made of them."""

import json
from pathlib import Path

from m2raap.core.corpus import Corpus


def put(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif name.endswith("l"):
        assert isinstance(content, list)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def clips(corpus: Corpus) -> dict[str, dict]:
    return {row["clip_id"]: row for row in corpus.all_rows("clips")}


def texts(corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in sorted(corpus.all_rows("texts"), key=lambda row: row["text_id"]):
        found.setdefault(row["clip_id"], []).append((row["lang"], row["text"]))
    return found


def missing(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return {row["clip_id"]: (row["reason"], row["detail"]) for row in corpus.all_rows("missing")}


def texts_of(corpus) -> dict[str, list[str]]:
    return {clip: [text for _, text in rows] for clip, rows in texts(corpus).items()}
