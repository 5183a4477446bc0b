"""A corpus whose frames are drawn: a coloured shape on black, stored as keyframes would store it. No video, no decoder."""

from __future__ import annotations

import io
from pathlib import Path

from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.corpus import write_corpus
from m2raap.core.engine import LocalEngine
from m2raap.core.runner import run_data_stage
from m2raap.core.stage import DataStage, Tables
from m2raap.core.tables import Row
from m2raap.core.view import Part, View

COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220), "green": (30, 180, 60), "yellow": (230, 210, 40)}


def draw(colour: str, shape: str = "circle", side_px: int = 96) -> bytes:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (side_px, side_px), (12, 12, 12))
    box = (side_px // 4, side_px // 4, 3 * side_px // 4, 3 * side_px // 4)
    pen = ImageDraw.Draw(picture)
    (pen.ellipse if shape == "circle" else pen.rectangle)(box, fill=COLOURS[colour])
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=90)
    return sink.getvalue()


class DrawnConfig(Config):
    """`colours`: clip_id -> colour. The other keys are what a protocol reads of key-frames."""

    colours: dict[str, str]
    num: int = 3
    duration_s: dict[str, float] = Field(default_factory=dict)
    strategy: str = "drawn"
    k: int = 3
    short_side_px: int = 96


class DrawnFrames(DataStage[DrawnConfig]):
    """A stage in the place of keyframes."""

    name = "keyframes"
    config = DrawnConfig
    adds = ("frames",)

    def signal_columns(self) -> dict[str, str]:
        return {"num_frames": "int"}

    def score(self, part: Part, view: View) -> Tables:
        num = self.cfg.num
        rows: list[Row] = [
            {
                "clip_id": clip["clip_id"], "times_s": [float(t) for t in range(num)], "shots": [0] * num,
                "scores": [1.0] * num, "why": ["drawn"] * num, "hashes": list(range(num)), "width": 96, "height": 96,
                "jpegs": [draw(self.cfg.colours[clip["clip_id"]], side_px=96 + 2 * t) for t in range(num)],
            }
            for clip in part.clips
        ]  # fmt: skip
        return {"frames": rows, "signals": [{"clip_id": row["clip_id"], "num_frames": num} for row in rows]}


def drawn_corpus(path: Path, texts: dict[str, list[tuple[str, str]]], num_parts: int = 2) -> Path:
    """Clips by id with their (lang, text) rows."""
    clips = [{"clip_id": clip_id, "video": f"{clip_id}.mp4", "split": "train"} for clip_id in texts]
    rows = [
        {"text_id": f"{clip_id}.{i}", "clip_id": clip_id, "lang": lang, "text": text, "origin": "raw", "active": True}
        for clip_id, own in texts.items()
        for i, (lang, text) in enumerate(own)
    ]
    write_corpus(path, clips, rows, video_root=path.parent, source={}, num_parts=num_parts)
    return path


def with_frames(corpus: Path, folder: Path, colours: dict[str, str], num: int = 3) -> Path:
    """The folder of a stage that holds `num` drawn frames a clip."""
    stage = DrawnFrames(DrawnConfig(colours=colours, num=num))
    assert run_data_stage(stage, View(corpus), folder, LocalEngine(1))
    return folder
