"""A few clips with drawn frames, real small videos and an index over them, made in about a second without a decoder."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from m2raap.core.config import Config
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import DataStage, Tables
from m2raap.core.view import Part, View, open_view
from m2raap.models.config import BackboneConfig
from m2raap.search.index import make_index
from tests.stages.pictures import COLOURS, with_frames

TINY = BackboneConfig()
CHINESE = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色"}
FPS, NUM_FRAMES = 8, 24


def rows(num: int = 8, first: int = 0) -> list[dict[str, Any]]:
    """Clips c0, c1, ... of four colours in turn; every second one is a stretch of its video and has source `b`."""
    table_rows = []
    for number in range(first, first + num):
        colour = list(COLOURS)[number % 4]
        texts = [("en", f"a {colour} circle"), ("zh", f"{CHINESE[colour]}的圆形")]
        row = {"clip_id": f"c{number}", "colour": colour, "texts": texts, "source": "ab"[number % 2]}
        table_rows.append(row | ({"start_s": 0.5, "end_s": 1.5 + number / 10} if number % 2 else {}))
    return table_rows


class TagsConfig(Config):
    """`tags`: clip_id -> its tags with their probabilities."""

    tags: dict[str, list[tuple[str, float]]]


class StatedTags(DataStage[TagsConfig]):
    """A stage in the place of annotate, whose tags are in its settings."""

    name = "annotate"
    config = TagsConfig

    def signal_columns(self) -> dict[str, str]:
        return {"tags": "strs", "tags_p": "floats"}

    def score(self, part: Part, view: View) -> Tables:
        tags = self.cfg.tags
        return {
            "signals": [
                {"clip_id": clip_id, "tags": [tag for tag, _ in tags[clip_id]], "tags_p": [p for _, p in tags[clip_id]]}
                for clip_id in (clip["clip_id"] for clip in part.clips)
                if clip_id in tags
            ]
        }


def tagged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with tags: the colour in two languages from 0.9 on, `Circle` from 0.85 to 0.5 in the eighth, a weak one."""
    colours = [f"{row['colour']} / {CHINESE[row['colour']]}" for row in rows]
    falling = [(round(0.9 - place / 100, 2), round(0.85 - place / 20, 2)) for place in range(len(rows))]
    return [
        row | {"tags": [(colour, first), ("Circle", second), ("square", 0.2)]}
        for row, colour, (first, second) in zip(rows, colours, falling, strict=True)
    ]


def view_of(folder: Path, clips: list[dict[str, Any]], num_frames: int = 3) -> View:
    """A corpus in `folder`/corpus, its frames in `folder`/keyframes and, where a clip has `tags`, its tags in `folder`/annotate;
    existing folders are replaced."""
    for name in ("corpus", "keyframes", "annotate"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    names = ("clip_id", "start_s", "end_s", "source", "category")
    table = [
        {name: clip.get(name) for name in names}
        | {"video": clip.get("video", f"{clip['colour']}.mp4"), "split": "train"}
        for clip in clips
    ]
    texts = [
        {
            "text_id": f"{clip['clip_id']}.{place}", "clip_id": clip["clip_id"], "lang": lang, "text": text,
            "origin": "raw", "active": True,
        }
        for clip in clips
        for place, (lang, text) in enumerate(clip["texts"])
    ]  # fmt: skip
    write_corpus(folder / "corpus", table, texts, video_root=folder / "videos", source={}, num_parts=2)
    colours = {clip["clip_id"]: clip["colour"] for clip in clips}
    view = open_view(with_frames(folder / "corpus", folder / "keyframes", colours, num_frames))
    tags = {clip["clip_id"]: clip["tags"] for clip in clips if "tags" in clip}
    if tags:
        assert run_data_stage(StatedTags(TagsConfig(tags=tags)), view, folder / "annotate", LocalEngine(1))
        return open_view(folder / "annotate")
    return view


def index_of(folder: Path, clips: list[dict[str, Any]], **options: Any) -> Path:
    """`folder`/index over `view_of` the clips, by the tiny model."""
    make_index(folder / "index", view_of(folder, clips), TINY, **options)
    return folder / "index"


def write_video(path: Path, colour: str) -> None:
    """Three seconds of a coloured square that moves to the right: H.264 in mp4."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as sink:
        stream = sink.add_stream("libx264", rate=FPS, options={"crf": "30", "g": str(FPS)})
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for number in range(NUM_FRAMES):
            pixels = np.full((96, 96, 3), 12, np.uint8)
            left = 4 + number * 56 // NUM_FRAMES
            pixels[30:66, left : left + 36] = COLOURS[colour]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
