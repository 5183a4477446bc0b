"""The rows of an index that was made elsewhere: its author signed them, so that digests say nothing about what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute

from m2raap.core.errors import M2raapError

pc: Any = pyarrow.compute  # whose functions are made when it is imported, so that no checker knows them
_ALWAYS = ("clip_id", "view", "video", "times_s", "langs", "texts", "origins")  # columns without nulls
_OF_TEXTS = ("langs", "texts", "origins")  # of one length in each row
_OF_TAGS = ("tags", "tags_p")


def refuse_bad_rows(path: Path, clips: pa.Table, num_views: int) -> None:
    """Raises M2raapError naming the column where the clips of the index `path` hold what no index can.

    `clips`: a table with the schema `gallery.CLIPS`; `num_views`: the number of views in sources.json.
    """
    if fault := next(_faults(clips, num_views), None):
        raise M2raapError(f"{path}: the clips of the index are damaged ({fault}); make the index again")


def _faults(clips: pa.Table, num_views: int) -> Iterator[str]:
    yield from (f"{name}: a value is missing" for name in _ALWAYS if clips[name].null_count)
    inner = {name: pc.list_flatten(clips[name]) for name in ("times_s", *_OF_TEXTS, *_OF_TAGS)}
    yield from (f"{name}: a value is missing" for name, values in inner.items() if values.null_count)
    if len(clips) != pc.count_distinct(clips["clip_id"]).as_py():
        yield "clip_id: an id is there twice"
    numbers = pc.min_max(clips["view"]).as_py()
    if len(clips) and not 0 <= numbers["min"] <= numbers["max"] < num_views:
        yield f"view: {numbers['min']} to {numbers['max']}, and there are {num_views} views"
    if not pc.all(pc.is_finite(inner["times_s"]), min_count=0).as_py():
        yield "times_s: a time is no finite number"
    p = pc.min_max(inner["tags_p"]).as_py()
    if (
        not pc.all(pc.is_finite(inner["tags_p"]), min_count=0).as_py()
        or not 0 <= (p["min"] or 0) <= (p["max"] or 0) <= 1
    ):
        yield "tags_p: a probability is not from 0 to 1"
    for first, *others in (_OF_TEXTS, _OF_TAGS):
        lengths = pc.list_value_length(clips[first])
        yield from (
            f"{name}: not as many as {first}"
            for name in others
            if not pc.list_value_length(clips[name]).equals(lengths)
        )
