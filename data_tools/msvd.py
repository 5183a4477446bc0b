"""Importer of MSVD and MSVD-CN: corpora in English and Chinese.

It reads captions as json (`captions_msvd.json`: {video: [captions]}, or `msvd_caption_test.json`: [{video, caption[]}]), the
lists of the three splits, and `msvd_cn/` if the folder has it (human Chinese captions of the same videos). The widespread
pickle `raw-captions.pkl` is refused, because reading a pickle runs code of the file.

Sources: Chen & Dolan, ACL 2011; MSVD-CN (github.com/IDDLab-CTL/MSVD-CN).
"""

from __future__ import annotations

from pathlib import Path

from data_tools.cell_readers import text_of, texts_of
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.listing import PICKLE, read_json_file, read_lines
from data_tools.locate import without_ending
from data_tools.pairs import Pairs, rows_of
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

# protocol -> its splits, and the published counts (zh counts only if the folder has MSVD-CN)
PROTOCOLS = {
    "test": (("test",), Declared("msvd", 670, {"en": 27_763, "zh": 3_980})),
    "train": (("train", "val"), Declared("MSVD train and val", 1_300, {"en": 53_064, "zh": 7_778})),
    "all": (("train", "val", "test"), Declared("MSVD", 1_970, {"en": 80_827, "zh": 11_758})),
}
SPLIT_SIZES = {"train": 1_200, "val": 100, "test": 670}
CAPTIONS = ("captions_msvd.json", "msvd_caption_test.json")
CHINESE, MAPPING = "msvd_cn_captions_release_utf8.csv", "youtube_mapping.txt"


def import_msvd(folder: Path, out: Path, *, protocol: str = "test", video_dir: Path | None = None) -> list[Corpus]:
    """`protocol`: test, a benchmark; train or all, training corpora with the official splits.

    Raises M2raapError naming file and row, and if the counts of the benchmark differ from the published ones.
    """
    splits, declared = PROTOCOLS[protocol]
    if not folder.is_dir():
        raise M2raapError(f"{folder}: no such folder; give the one that holds {CAPTIONS[0]} and {splits[0]}_list.txt")
    unread: dict[str, list[str]] = {}
    listing, captions = _english(folder, splits, unread)
    root = video_root(video_dir, folder, "videos")
    files = files_by_stem(root)
    pairs = Pairs(listing, "MSVD")
    pairs.unread = unread
    for split in splits:
        for video in _split(folder, split):
            if (split_of_video := pairs.clips.get(video, {}).get("split", split)) != split:
                raise M2raapError(
                    f"{folder / f'{split}_list.txt'}: '{video}' is also in {split_of_video}_list.txt; download both lists again"
                )
            url = f"https://www.youtube.com/watch?v={video.rsplit('_', 2)[0]}"
            pairs.clip(f"{split}_list.txt", video, files.get(video, f"{video}.avi"), url=url, split=split)
            if video not in captions:
                raise M2raapError(f"{listing}: no captions of '{video}', which {split}_list.txt names")
            for text in captions[video]:
                pairs.text(video, text, "en")
    if protocol == "all" and (unlisted := len(captions.keys() - pairs.clips.keys())):
        pairs.notes["videos_in_no_list"] = unlisted
    source = {"importer": "msvd", "listing": listing.name, "protocol": protocol}
    texts = dict(declared.texts or {})
    if (chinese := _chinese_folder(folder)) is not None:
        source["chinese"] = _add_chinese(pairs, chinese)
    else:
        texts.pop("zh")
        source["chinese"] = f"none: {CHINESE} is not there"
    declared = Declared(declared.name, declared.clips, texts)
    if protocol == "test":
        return write_benchmark(out, pairs, declared, root=root, source=source)
    return write_training(out, pairs, root=root, source=source, known=declared)


def _split(folder: Path, split: str) -> list[str]:
    videos = list(map(without_ending, read_lines(folder / f"{split}_list.txt")))
    if len(set(videos)) != SPLIT_SIZES[split]:
        raise M2raapError(
            f"{folder / f'{split}_list.txt'}: MSVD's {split} split has {SPLIT_SIZES[split]:,} videos, "
            f"this list has {len(set(videos)):,}; download it again"
        )
    return videos


def _english(folder: Path, splits: tuple[str, ...], unread: dict[str, list[str]]) -> tuple[Path, dict[str, list[str]]]:
    names = CAPTIONS if splits == ("test",) else CAPTIONS[:1]
    listing = next((folder / name for name in names if (folder / name).is_file()), None)
    if listing is None:
        if pickles := sorted(folder.glob("*.pkl")) + sorted(folder.glob("*.pickle")):
            raise M2raapError(
                f"{pickles[0]}: is {PICKLE}; it reads {' or '.join(names)}: {{video: [captions]}} as json"
            )
        raise M2raapError(f"{folder}: holds no {' and no '.join(names)}")
    tree = read_json_file(listing)
    captions_of: dict[str, list[str]] = {}
    if listing.name == CAPTIONS[0]:
        if not isinstance(tree, dict):
            raise M2raapError(f"{listing}: expected an object {{video: [captions]}}, found {type(tree).__name__}")
        for number, (name, texts) in enumerate(tree.items(), 1):
            _add_captions(captions_of, listing, number, name, texts_of(listing, number, name, texts))
        return listing, captions_of
    for number, row in rows_of(listing, unread, ("video", "caption"), what="entry"):
        name = text_of(listing, number, "video", row["video"])
        _add_captions(captions_of, listing, number, name, texts_of(listing, number, "caption", row["caption"]))
    return listing, captions_of


def _add_captions(captions_of: dict[str, list[str]], listing: Path, number: int, name: str, texts: list[str]) -> None:
    """Adds the captions of a video, whose name may end as its file does. Raises M2raapError for a video that is listed twice."""
    video = without_ending(name)
    if video in captions_of:
        raise M2raapError(f"{listing}: entry {number}: '{video}' is listed twice; remove one of its entries")
    captions_of[video] = texts


def _chinese_folder(folder: Path) -> Path | None:
    return next((path for path in (folder / "msvd_cn", folder) if (path / CHINESE).is_file()), None)


def _add_chinese(pairs: Pairs, folder: Path) -> str:
    """Adds the Chinese captions of the clips of `pairs`. Returns the file's name and number of captions as a phrase."""
    names = {}
    for number, line in enumerate(read_lines(folder / MAPPING), 1):
        words = line.split()
        if len(words) != 2:
            raise M2raapError(f"{folder / MAPPING}: row {number}: expected 'YOUTUBE_NAME vidN', found {line[:60]!r}")
        names[without_ending(words[1])] = without_ending(words[0])
    listing, total = folder / CHINESE, 0
    for number, row in rows_of(listing, pairs.unread, ("id", "video_id", "sentence")):
        video = names.get(without_ending(text_of(listing, number, "video_id", row["video_id"])))
        if video is None:
            raise M2raapError(f"{listing}: row {number}, column 'video_id': '{row['video_id']}' is not in {MAPPING}")
        total += 1
        if video in pairs.clips:
            pairs.text(video, row["sentence"], "zh", producer=listing.name)
    return f"{listing.name}, {total:,} captions in all"
