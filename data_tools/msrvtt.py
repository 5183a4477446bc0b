"""Importer of MSR-VTT (Xu et al., CVPR 2016): two benchmarks and three training corpora.

1ka: the JSFusion list (`MSRVTT_JSFUSION_test.csv`), 1,000 videos with one sentence each (Yu et al., ECCV 2018).
full: the official test split, 2,990 videos with 20 captions each.
train-9k, train-7k, train-full: the videos of `MSRVTT_train.9k.csv` (9,000, for 1ka only: 1,990 of them are test videos of
`full`), `MSRVTT_train.7k.csv` (7,010: official train and val) and `MSRVTT_train.full.csv` (6,513: official train).

Captions come from `MSRVTT_data.json`, `train_val_videodatainfo.json` or `msrvtt_caption_test.json`; if a training list has
none of these, they come from `train_one_caption/*.csv`, one caption a video, and `source` says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_tools.cell_readers import seconds_or_none, text_of, texts_of
from data_tools.cells import is_nothing
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.listing import read_json_file, read_rows, require
from data_tools.locate import without_ending
from data_tools.pairs import Pairs, rows_of
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError
from m2raap.core.tables import Row

ONE_KA, TRAIN_9K = "MSRVTT_JSFUSION_test.csv", "MSRVTT_train.9k.csv"
PROTOCOLS = {
    "1ka": Declared("msrvtt-1ka-jsfusion", 1_000, {"en": 1_000}),
    "full": Declared("msrvtt-full", 2_990, {"en": 59_800}),
    "train-9k": Declared("MSR-VTT train-9k", 9_000, {"en": 180_000}),
    "train-7k": Declared("MSR-VTT train-7k", 7_010, {"en": 140_200}),
    "train-full": Declared("MSR-VTT train-full", 6_513, {"en": 130_260}),
}
# Keys that are known.
_RELEASE = ("video_id", "split", "start time", "end time", "url", "category", "id", "caption", "sen_id")
Captions = dict[str, list[str]]


def import_msrvtt(folder: Path, out: Path, *, protocol: str = "1ka", video_dir: Path | None = None) -> list[Corpus]:
    """Raises M2raapError if a list is absent or is not the one that its name promises, and if training and test ids overlap."""
    declared = PROTOCOLS[protocol]
    if not folder.is_dir():
        raise M2raapError(f"{folder}: no such folder; give the one that holds {ONE_KA} or msrvtt_caption_test.json")
    root = video_root(video_dir, folder, "videos")
    source: dict[str, Any] = {"importer": "msrvtt", "protocol": protocol}
    unread: dict[str, list[str]] = {}
    if protocol in ("1ka", "full"):
        captions, listing = (_one_ka if protocol == "1ka" else _full)(folder, unread)
        overlap = set(_ids(folder / TRAIN_9K)) & set(captions) if (folder / TRAIN_9K).is_file() else set()
        if protocol == "1ka" and overlap:
            raise M2raapError(
                f"{listing}: {len(overlap)} test videos are also in {TRAIN_9K}, the first is {min(overlap)}; training would "
                "see the test set: download both lists again"
            )
        pairs = _pairs(listing, captions, root, {}, unread)
        source |= {"listing": listing.name, "overlap_with_train_9k": len(overlap)}
        return write_benchmark(out, pairs, declared, root=root, source=source)
    listing = folder / f"MSRVTT_train.{protocol.removeprefix('train-')}.csv"
    videos = _ids(listing)
    test = set(_ids(folder / ONE_KA)) if (folder / ONE_KA).is_file() else set()
    if overlap := test & set(videos):
        raise M2raapError(
            f"{listing}: {len(overlap)} of its videos are test videos of {ONE_KA}, the first is {min(overlap)}; training "
            "would see the test set: download both lists again"
        )
    captions_of, columns_of, source["captions"] = _training_captions(folder, unread)
    if uncaptioned := [video for video in videos if video not in captions_of]:
        raise M2raapError(
            f"{folder}: no captions of {len(uncaptioned):,} videos of {listing.name}, the first is {uncaptioned[0]}; captions "
            "are read from MSRVTT_data.json, train_val_videodatainfo.json or train_one_caption/*.csv"
        )
    pairs = _pairs(listing, {video: captions_of[video] for video in videos}, root, columns_of, unread)
    if protocol == "train-7k" and (official := folder / "MSRVTT_train.full.csv").is_file():
        train = set(_ids(official))
        for video, row in pairs.clips.items():
            row["split"] = "train" if video in train else "val"
    source["listing"] = listing.name
    return write_training(out, pairs, root=root, source=source, known=declared)


def _pairs(
    listing: Path, captions: Captions, root: Path, columns_of: dict[str, Row], unread: dict[str, list[str]]
) -> Pairs:
    pairs, files = Pairs(listing, "MSR-VTT"), files_by_stem(root)
    pairs.unread = unread
    for video, sentences in captions.items():
        pairs.clip(f"'{video}'", video, files.get(video, f"{video}.mp4"), **columns_of.get(video, {}))
        for sentence in sentences:
            pairs.text(video, sentence, "en")
    return pairs


def _ids(listing: Path) -> list[str]:
    videos = []
    for number, row in read_rows(listing):
        require(listing, f"row {number}", row, ("video_id",))
        videos.append(without_ending(text_of(listing, number, "video_id", row["video_id"])))
    return list(dict.fromkeys(videos))


def _one_ka(folder: Path, unread: dict[str, list[str]]) -> tuple[Captions, Path]:
    listing = folder / ONE_KA
    captions: Captions = {}
    for number, row in rows_of(listing, unread, ("key", "vid_key", "video_id", "sentence")):
        video = without_ending(text_of(listing, number, "video_id", row["video_id"]))
        if video in captions:
            raise M2raapError(f"{listing}: row {number}: '{video}' is listed twice; this list has one sentence a video")
        captions[video] = [row["sentence"]]
    return captions, listing


def _full(folder: Path, unread: dict[str, list[str]]) -> tuple[Captions, Path]:
    listing = folder / "msrvtt_caption_test.json"
    if listing.is_file():
        return _by_video(listing, unread), listing
    listing = folder / "MSRVTT_data.json"
    captions, _, splits = _official_release(listing, unread)
    return {video: captions[video] for video, split in splits.items() if split == "test"}, listing


def _by_video(listing: Path, unread: dict[str, list[str]]) -> Captions:
    captions: Captions = {}
    for number, row in rows_of(listing, unread, ("video", "caption"), what="entry"):
        video = without_ending(text_of(listing, number, "video", row["video"]))
        captions[video] = texts_of(listing, number, "caption", row["caption"])
    return captions


def _training_captions(folder: Path, unread: dict[str, list[str]]) -> tuple[Captions, dict[str, Row], str]:
    """Captions and columns of clips by video, and the name of the list that they come from."""
    for name in ("MSRVTT_data.json", "train_val_videodatainfo.json"):
        if (folder / name).is_file():
            captions, columns_of, _ = _official_release(folder / name, unread)
            test = folder / "msrvtt_caption_test.json"
            if test.is_file():  # train-9k holds videos of the official test split
                captions = _by_video(test, unread) | captions
            return captions, columns_of, name
    captions = {}
    for listing in sorted((folder / "train_one_caption").glob("*.csv")):
        for number, row in rows_of(listing, unread, ("video_id", "sentence"), ("key", "vid_key")):
            video = without_ending(text_of(listing, number, "video_id", row["video_id"]))
            captions.setdefault(video, []).append(row["sentence"])
    if not captions:
        raise M2raapError(
            f"{folder}: holds no captions of training videos: no MSRVTT_data.json, train_val_videodatainfo.json or "
            "train_one_caption/*.csv"
        )
    return captions, {}, "train_one_caption, one a video"


def _official_release(listing: Path, unread: dict[str, list[str]]) -> tuple[Captions, dict[str, Row], dict[str, str]]:
    """Captions, columns of clips (an address with start and end in seconds, a category) and splits, by video."""
    tree = read_json_file(listing)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(key), list) for key in ("videos", "sentences")):
        raise M2raapError(f"{listing}: expected the keys 'videos' and 'sentences', each a list")
    captions: Captions = {}
    columns_of: dict[str, Row] = {}
    splits: dict[str, str] = {}
    for number, row in enumerate(tree["videos"], 1):
        require(listing, f"videos[{number - 1}]", row if isinstance(row, dict) else {}, ("video_id", "split"))
        video = without_ending(text_of(listing, number, "video_id", row["video_id"]))
        if splits.setdefault(video, str(row["split"])) != str(row["split"]):
            raise M2raapError(
                f"{listing}: videos[{number - 1}]: '{video[:60]}' is listed for {row['split']} and for {splits[video]}; leave it "
                "in one split"
            )
        captions[video] = []
        start, end = (
            seconds_or_none(row.get(f"{edge} time"), listing, number, f"{edge} time") for edge in ("start", "end")
        )
        url = row["url"] if isinstance(row.get("url"), str) and row["url"] else None
        span = f"#t={start:g},{end:g}" if None not in (start, end) else ""
        category = None if is_nothing(row.get("category")) else str(row["category"])
        columns_of[video] = {"url": url and url + span, "category": category}
    for number, row in enumerate(tree["sentences"], 1):
        require(listing, f"sentences[{number - 1}]", row if isinstance(row, dict) else {}, ("video_id", "caption"))
        video = without_ending(text_of(listing, number, "video_id", row["video_id"]))
        if video not in captions:
            raise M2raapError(f"{listing}: sentences[{number - 1}]: '{video[:60]}' is not among the videos")
        caption = row["caption"]
        captions[video] += texts_of(listing, number, "caption", caption if isinstance(caption, list) else [caption])
    keys = {str(key) for name in ("videos", "sentences") for row in tree[name] for key in row}
    unread[listing.name] = sorted(keys - set(_RELEASE))
    return captions, columns_of, splits
