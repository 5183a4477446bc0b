"""Importer of ActivityNet Captions (Krishna et al., ICCV 2017): the sentences of a video are joined into one paragraph.

It reads jsonl ({clip_id, text[], timestamps}, such as `actnet_data_val1.jsonl`) and the original json ({v_ID: {duration,
timestamps, sentences}}: `train.json`, `val_1.json`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.cell_readers import text_of, texts_of
from data_tools.columns import Columns
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.didemo import paragraph
from data_tools.listing import kind_of, read_json_file, require
from data_tools.locate import without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

PROTOCOLS = {
    "paragraph": Declared("activitynet-paragraph", 4_917, {"en": 4_917}),
    "train": Declared("ActivityNet Captions train", 10_009, {"en": 10_009}),
}


def import_activitynet(
    listing: Path, out: Path, *, protocol: str = "paragraph", video_dir: Path | None = None
) -> list[Corpus]:
    """`protocol`: paragraph, the benchmark on val_1, or train, a training corpus.

    Raises M2raapError naming file and row, and if the counts of the benchmark differ from the published ones.
    """
    root = video_root(video_dir, listing.parent)
    files = files_by_stem(root)
    pairs = Pairs(listing, "ActivityNet")
    for number, video, sentences in _entries(pairs):
        if video in pairs.clips:
            raise M2raapError(f"{listing}: row {number}: '{video}' is listed twice; remove one of its rows")
        url = f"https://www.youtube.com/watch?v={video.removeprefix('v_')}"
        pairs.clip(f"row {number}", video, files.get(video, f"{video}.mp4"), url=url)
        pairs.text(video, paragraph(sentences), "en")
    source = {"importer": "activitynet", "listing": listing.name, "protocol": protocol}
    if protocol == "train":
        return write_training(out, pairs, root=root, source=source, known=PROTOCOLS[protocol])
    return write_benchmark(out, pairs, PROTOCOLS[protocol], root=root, source=source)


def _entries(pairs: Pairs) -> Iterator[tuple[int, str, list[str]]]:
    """(number, video without the ending of its file, sentences)."""
    listing = pairs.listing
    tree: Any = read_json_file(listing) if kind_of(listing) == "json" else None
    if isinstance(tree, dict):
        known, columns = ("sentences", "timestamps"), Columns(("sentences", "timestamps", "duration"))
        columns.used.update((*known, "duration"))
        for number, (video, entry) in enumerate(tree.items(), 1):
            row = columns.row(entry) if isinstance(entry, dict) else {}
            require(listing, f"entry '{video[:40]}'", row, known)
            yield number, without_ending(video), texts_of(listing, number, "sentences", row["sentences"])
        pairs.unread[listing.name] = columns.unread
        return
    for number, row in pairs.rows(("clip_id", "text"), ("timestamps", "duration", "num_frame")):
        video = without_ending(text_of(listing, number, "clip_id", row["clip_id"]))
        yield number, video, texts_of(listing, number, "text", row["text"])
