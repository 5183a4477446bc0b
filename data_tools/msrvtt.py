"""MSR-VTT test sets -> benchmark corpora.

1ka: the JSFusion list (`MSRVTT_JSFUSION_test.csv`), 1,000 videos with one sentence each (Yu et al., ECCV 2018).
full: the official test split, 2,990 videos with 20 captions each (Xu et al., CVPR 2016), from `msrvtt_caption_test.json` or
`MSRVTT_data.json`.
"""

from __future__ import annotations

from pathlib import Path

from data_tools.listing import read_json_file, read_rows
from data_tools.rooted import find_missing
from m2raap.core.corpus import Corpus, write_corpus
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

# protocol -> (name of the benchmark, videos, texts)
PROTOCOLS = {"1ka": ("msrvtt-1ka-jsfusion", 1000, 1000), "full": ("msrvtt-full", 2990, 59800)}


def import_msrvtt(folder: Path, out: Path, *, protocol: str, video_dir: Path | None = None) -> list[Corpus]:
    """Raises M2raapError where a list is absent, is not the list its name says, or its test ids stand in train-9k."""
    if protocol not in PROTOCOLS:
        raise M2raapError(f"--protocol {protocol}: MSR-VTT has {', '.join(PROTOCOLS)}")
    if not folder.is_dir():
        raise M2raapError(
            f"{folder}: no such folder; it should hold MSRVTT_JSFUSION_test.csv or msrvtt_caption_test.json"
        )
    name, num_videos, num_texts = PROTOCOLS[protocol]
    captions, listing = _one_ka(folder) if protocol == "1ka" else _full(folder)
    found = (len(captions), sum(map(len, captions.values())))
    if found != (num_videos, num_texts):
        raise M2raapError(
            f"{listing}: {name} has {num_videos} videos and {num_texts} texts, this file {found[0]} and {found[1]}"
        )
    overlap = _train_9k(folder) & set(captions)
    if protocol == "1ka" and overlap:
        raise M2raapError(f"{listing}: {len(overlap)} test videos stand in MSRVTT_train.9k.csv, first {min(overlap)}")
    clips: list[Row] = [
        {"clip_id": video, "video": f"{video}.mp4", "split": "test", "source": "MSR-VTT"} for video in captions
    ]
    texts: list[Row] = [
        {"text_id": f"{video}.en{i}", "clip_id": video, "lang": "en", "text": text, "origin": "raw",
         "producer": listing.name, "active": True}
        for video, sentences in captions.items()
        for i, text in enumerate(sentences)
    ]  # fmt: skip
    root = video_dir or folder / "videos"
    if not root.is_dir():
        raise M2raapError(f"{root}: no such folder; give the videos' folder with --video-dir")
    source = {"importer": "msrvtt", "listing": listing.name, "overlap_with_train_9k": len(overlap)}
    missing = find_missing(root, clips)
    return [write_corpus(out, clips, texts, video_root=root, source=source, benchmark=name, missing=missing)]


def _one_ka(folder: Path) -> tuple[dict[str, list[str]], Path]:
    listing = folder / "MSRVTT_JSFUSION_test.csv"
    captions: dict[str, list[str]] = {}
    for number, row in read_rows(listing):
        if not {"video_id", "sentence"} <= set(row):
            raise M2raapError(
                f"{listing}: row {number}: expected the columns key,vid_key,video_id,sentence; found {', '.join(row)}"
            )
        if row["video_id"] in captions:
            raise M2raapError(
                f"{listing}: row {number}: '{row['video_id']}' stands twice; this list has one sentence a video"
            )
        captions[row["video_id"]] = [row["sentence"]]
    return captions, listing


def _full(folder: Path) -> tuple[dict[str, list[str]], Path]:
    listing = folder / "msrvtt_caption_test.json"
    captions: dict[str, list[str]] = {}
    if listing.is_file():
        for number, row in read_rows(listing):
            if not isinstance(row.get("video"), str) or not isinstance(row.get("caption"), list):
                raise M2raapError(f"{listing}: entry {number}: expected 'video' and a list 'caption'")
            captions[row["video"].removesuffix(".mp4")] = row["caption"]
        return captions, listing
    listing = folder / "MSRVTT_data.json"
    tree = read_json_file(listing)
    if not isinstance(tree, dict) or not {"videos", "sentences"} <= set(tree):
        raise M2raapError(f"{listing}: expected the keys 'videos' and 'sentences'")
    test = [video["video_id"] for video in tree["videos"] if video.get("split") == "test"]
    captions = {video: [] for video in test}
    for sentence in tree["sentences"]:
        if sentence["video_id"] in captions:
            captions[sentence["video_id"]].append(sentence["caption"])
    return captions, listing


def _train_9k(folder: Path) -> set[str]:
    listing = folder / "MSRVTT_train.9k.csv"
    return {row["video_id"] for _, row in read_rows(listing)} if listing.is_file() else set()
