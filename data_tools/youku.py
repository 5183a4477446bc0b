"""Importer of Youku-mPLUG's retrieval lists (Xu et al., arXiv 2306.04362): corpora in Chinese.

The lists are `retrieval_{train,val,test}.csv` of the ModelScope data set, with the header `clip_name:FILE,caption` (as read by
X-PLUG/Youku-mPLUG, dataset/video_downstream_datasets.py): in ModelScope's csv files ':FILE' marks a column of paths. A clip in
several rows has several captions. No source that can be cited says how many clips and captions the lists have, so that no
number is checked; the publishers print results on the validation list.
"""

from __future__ import annotations

import os
from pathlib import Path

from data_tools.cell_readers import captions_in, text_of
from data_tools.corpora import Declared, write_benchmark, write_training
from data_tools.locate import Files, without_ending
from data_tools.pairs import Pairs
from data_tools.rooted import video_root
from m2raap.core.corpus import Corpus
from m2raap.core.errors import M2raapError

COLUMNS = ("clip_name:FILE", "caption")
PROTOCOLS = {"train": None, "val": Declared("youku-val", None), "test": Declared("youku", None)}


def import_youku(listing: Path, out: Path, *, protocol: str, video_dir: Path | None = None) -> list[Corpus]:
    """`protocol`: val or test, benchmarks; train, a training corpus.

    Raises M2raapError naming file, row and column, for a list without captions, and for two files of one name in two folders,
    because the name is the clip's id.
    """
    root = video_root(video_dir, listing.parent)
    files, pairs = Files(root), Pairs(listing, "Youku-mPLUG")
    for number, row in pairs.rows(COLUMNS):
        name = text_of(listing, number, COLUMNS[0], row[COLUMNS[0]])
        clip_id = without_ending(os.path.basename(name.replace("\\", "/")))
        clip = pairs.clip(f"row {number}", clip_id, files.locate(name))
        for caption in captions_in(listing, number, COLUMNS[1], row[COLUMNS[1]]):
            pairs.text(clip["clip_id"], caption, "zh")
    if not pairs.texts:
        raise M2raapError(
            f"{listing}: holds no captions; give a list whose captions are published, such as retrieval_val.csv"
        )
    source = {"importer": "youku", "listing": listing.name, "protocol": protocol}
    if (declared := PROTOCOLS[protocol]) is None:
        return write_training(out, pairs, root=root, source=source)
    return write_benchmark(out, pairs, declared, root=root, source=source)
