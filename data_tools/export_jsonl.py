"""Exports a curated view as data-juicer's jsonl: one row a text, with data-juicer's special tokens and the paths of the video
or the frames. If no videos are copied (`none`), `videos` holds the absolute paths of the originals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_tools.export_videofolder import read_jsonl
from m2raap.core.exports import Item, Media, copy_video, plain_clip, plain_text, video_name

LISTING = "data.jsonl"
_VIDEO, _IMAGE, _END = "<__dj__video>", "<__dj__image>", "<|__dj__eoc|>"


class DataJuicer:
    media: tuple[Media, ...] = ("none", "videos", "frames")
    signals: tuple[str, ...] = ()

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        with open(out / LISTING, "w", encoding="utf-8") as listing:
            for item in items:
                paths = _copy(item, out, media)
                for text in item.texts:
                    tokens = _IMAGE * len(paths["images"]) + _VIDEO * len(paths["videos"])
                    meta = plain_clip(item) | {k: v for k, v in plain_text(text).items() if k != "text"}
                    row = {"text": f"{tokens} {_without_tokens(text['text'])} {_END}", **paths, "meta": meta}
                    listing.write(json.dumps(row, ensure_ascii=False) + "\n")

    def clip_ids(self, out: Path) -> set[str]:
        return {row["meta"]["clip_id"] for row in read_jsonl(out / LISTING)}


def _without_tokens(text: str) -> str:
    """A caption with data-juicer's special tokens broken up: each would be read as one more picture or video."""
    return text.replace("<__dj__", "< __dj__").replace("<|__dj__", "< |__dj__")


def _copy(item: Item, out: Path, media: Media) -> dict[str, Any]:
    if media == "frames":
        (out / "frames").mkdir(exist_ok=True)
        names = [f"frames/{item.key}.{index}.jpg" for index in range(len(item.jpegs))]
        for name, jpeg in zip(names, item.jpegs, strict=True):
            (out / name).write_bytes(jpeg)
        return {"videos": [], "images": names}
    assert item.video is not None
    if media == "none":
        return {"videos": [str(item.video)], "images": []}
    (out / "videos").mkdir(exist_ok=True)
    copy_video(item, out / "videos" / video_name(item))
    return {"videos": [f"videos/{video_name(item)}"], "images": []}
