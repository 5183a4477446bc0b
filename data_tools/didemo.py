"""Importer of DiDeMo (Hendricks et al., ICCV 2017): paragraphs or moments.

paragraph: `didemo_data_test.jsonl` ({clip_id, text[], timestamps}); the descriptions of a video are joined into one text.
moments: `test_data.json`, the original release ({video, description, times, num_segments, dl_link}); a clip is a moment of a
video, made of whole segments of 5 s, and its texts are the descriptions of that moment. Annotators disagree: the moment is
the annotation that overlaps most with the others (largest mean IoU; the first of equal ones).
train, train-moments: the same from the training and validation lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.cell_readers import MAX_SECONDS, text_of, texts_of
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.locate import without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

SEGMENT_S = 5.0
PROTOCOLS = {
    "paragraph": Declared("didemo-paragraph", 1_002, {"en": 1_002}),
    # 4,021 descriptions of 1,037 file names, which are 1,004 videos: 33 are listed with two file endings
    "moments": Declared("didemo-moments", 2_635, {"en": 4_021}),
    "train": Declared("DiDeMo train and val", 9_459, {"en": 9_459}),
    "train-moments": Declared("DiDeMo train and val moments", None, {"en": 37_185}),
}


def import_didemo(
    folder: Path, out: Path, *, protocol: str = "paragraph", video_dir: Path | None = None
) -> list[Corpus]:
    """Raises M2raapError naming file, row and key, and if the counts of a benchmark differ from the published ones."""
    if not folder.is_dir():
        raise M2raapError(f"{folder}: no such folder; give the one that holds didemo_data_test.jsonl or test_data.json")
    root = video_root(video_dir, folder, "videos" if (folder / "videos").is_dir() else "")
    moments = protocol.endswith("moments")
    splits = ("train", "val") if protocol.startswith("train") else ("test",)
    names = {split: f"{split}_data.json" if moments else f"didemo_data_{split}.jsonl" for split in splits}
    pairs = Pairs(folder / names[splits[-1]], "DiDeMo")
    files = files_by_stem(root)
    for split in splits:
        pairs.listing = folder / names[split]
        (_add_moments if moments else _add_paragraphs)(pairs, files, split)
    source: dict[str, Any] = {"importer": "didemo", "listing": ", ".join(names.values()), "protocol": protocol}
    declared = PROTOCOLS[protocol]
    if moments:
        source["videos"] = len({row["video"] for row in pairs.clips.values()})
    if protocol.startswith("train"):
        return write_training(out, pairs, root=root, source=source, known=declared)
    return write_benchmark(out, pairs, declared, root=root, source=source)


def _add_paragraphs(pairs: Pairs, files: dict[str, str], split: str) -> None:
    for number, row in pairs.rows(("clip_id", "text"), ("timestamps", "duration", "num_frame")):
        video = without_ending(text_of(pairs.listing, number, "clip_id", row["clip_id"]))
        if video in pairs.clips:
            raise M2raapError(f"{pairs.listing}: row {number}: '{video}' is listed twice; remove one of its rows")
        pairs.clip(f"row {number}", video, files.get(video, f"{video}.mp4"), split=split)
        pairs.text(video, paragraph(texts_of(pairs.listing, number, "text", row["text"])), "en")


def paragraph(sentences: list[str]) -> str:
    """The sentences of one video, in the list's order, as one text."""
    return " ".join(" ".join(sentence.split()) for sentence in sentences if sentence)


def _add_moments(pairs: Pairs, files: dict[str, str], split: str) -> None:
    listing, names = pairs.listing, dict(files)  # names that differ only in the file ending are one video
    for number, row in pairs.rows(
        ("video", "description", "times", "num_segments"), ("dl_link", "annotation_id"), "entry"
    ):
        name = text_of(listing, number, "video", row["video"])
        first, last = consensus(list(_annotations(listing, number, row)))
        columns: dict[str, Any] = {"start_s": first * SEGMENT_S, "url": row.get("dl_link") or name, "split": split}
        if last + 1 < row["num_segments"]:  # the last segment ends with the video, whose length the list does not hold
            columns["end_s"] = (last + 1) * SEGMENT_S
        stem = name.rpartition(".")[0] or name
        clip = pairs.clip(f"entry {number}", f"{stem}_{first}_{last}", names.setdefault(stem, name), **columns)
        pairs.text(clip["clip_id"], text_of(listing, number, "description", row["description"]), "en")


def _annotations(listing: Path, number: int, row: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """(first, last) segment of the moment that each annotator chose."""
    segments, times = row["num_segments"], row["times"]
    if not isinstance(segments, int) or not 0 < segments <= MAX_SECONDS / SEGMENT_S:
        raise M2raapError(
            f"{listing}: entry {number}, key 'num_segments': expected a whole number, 1 to {MAX_SECONDS / SEGMENT_S:,.0f}"
        )
    if not isinstance(times, list) or not times:
        raise M2raapError(f"{listing}: entry {number}, key 'times': expected a list of [first, last] segments")
    for time in times:
        good = isinstance(time, list) and len(time) == 2 and all(type(segment) is int for segment in time)
        if not good or not 0 <= time[0] <= time[1] < segments:
            raise M2raapError(
                f"{listing}: entry {number}, key 'times': expected [first, last] below {segments} segments, found {time}"
            )
        yield time[0], time[1]


def consensus(annotations: list[tuple[int, int]]) -> tuple[int, int]:
    """The annotation (first, last segment) with the largest mean IoU with all others, the first of equal ones.

    [(4, 4), (4, 4), (0, 0)] -> (4, 4)
    """

    def iou(a: tuple[int, int], b: tuple[int, int]) -> float:
        overlap = max(0, min(a[1], b[1]) - max(a[0], b[0]) + 1)
        return overlap / (a[1] - a[0] + b[1] - b[0] + 2 - overlap)

    return max(annotations, key=lambda moment: sum(iou(moment, other) for other in annotations))
