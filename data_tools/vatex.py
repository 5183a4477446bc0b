"""Importer of the VATEX json (Wang et al., ICCV 2019): corpora in English and Chinese.

Entries {videoID, enCap[10], chCap[10]}; videoID is a YouTube id, start and end in seconds: xyz_000010_000020. A clip's file
is videoID.* if the folder holds it (already cut), else xyz.* with start and end. Chinese captions are public for training and
validation only.
"""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.cell_readers import text_of, texts_of
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.locate import without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import files_by_stem, video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

PROTOCOLS = {
    "train": Declared("VATEX training v1.0", 25_991, {"en": 259_910, "zh": 259_910}),
    "val": Declared("vatex-val", 3_000, {"en": 30_000, "zh": 30_000}),
    "test": Declared("vatex-public-test", 6_000, {"en": 60_000}),
}
_ID = re.compile(r"(.+)_(\d{6})_(\d{6})")


def import_vatex(listing: Path, out: Path, *, protocol: str, video_dir: Path | None = None) -> list[Corpus]:
    """`protocol`: val or test, benchmarks; train, a training corpus.

    Raises M2raapError naming file, entry and key, and if the counts of a benchmark differ from the published ones.
    """
    root = video_root(video_dir, listing.parent)
    files = files_by_stem(root)
    pairs = Pairs(listing, "VATEX")
    for number, row in pairs.rows(("videoID", "enCap"), ("chCap",), "entry"):
        video = without_ending(text_of(listing, number, "videoID", row["videoID"]))
        match = _ID.fullmatch(video)
        if match is None or int(match[2]) >= int(match[3]):
            raise M2raapError(
                f"{listing}: entry {number}, key 'videoID': expected ID_000010_000020, found '{video[:60]}'"
            )
        youtube, start_s, end_s = match[1], float(match[2]), float(match[3])
        if video in pairs.clips:
            raise M2raapError(f"{listing}: entry {number}: '{video}' is listed twice; remove one of its entries")
        url = f"https://www.youtube.com/watch?v={youtube}"
        if video in files:
            pairs.clip(f"entry {number}", video, files[video], url=url)
        else:
            name = files.get(youtube, f"{youtube}.mp4")
            pairs.clip(f"entry {number}", video, name, start_s=start_s, end_s=end_s, url=url)
        for key, lang in (("enCap", "en"), ("chCap", "zh")):
            for text in texts_of(listing, number, key, row.get(key) or []):
                pairs.text(video, text, lang)
    source = {"importer": "vatex", "listing": listing.name, "protocol": protocol}
    if protocol == "train":
        return write_training(out, pairs, root=root, source=source, known=PROTOCOLS[protocol])
    return write_benchmark(out, pairs, PROTOCOLS[protocol], root=root, source=source)
