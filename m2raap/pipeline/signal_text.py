"""Signals as `explain` prints them: name and value, tags with their probabilities."""

from __future__ import annotations

import json
from typing import Any

from m2raap.core.tables import Row

# Ids, the size of vectors, and the number of the first tag among the labels of a tagger.
_NOT_TOLD = ("clip_id", "text_id", "text_key", "dim", "top_tag")


def signal_text(row: Row) -> str:
    """The signals of a clip or text in one line; '' where it has none."""
    columns = {name: value for name, value in row.items() if name not in _NOT_TOLD}
    texts = []
    tags, tags_p = columns.get("tags"), columns.get("tags_p")
    if isinstance(tags, list) and isinstance(tags_p, list) and len(tags) == len(tags_p):
        texts.append("tags " + ", ".join(f"{tag} {p:.2g}" for tag, p in zip(tags, tags_p, strict=True)))
        columns = {name: value for name, value in columns.items() if name not in ("tags", "tags_p")}
    texts += [f"{name} {_short(value)}" for name, value in columns.items()]
    return ", ".join(texts)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, str | float) for item in value):
        return f"[{', '.join(map(_short, value))}]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
