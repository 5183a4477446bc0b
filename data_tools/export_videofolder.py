"""Exports a curated view as a Hugging Face VideoFolder: {train,validation,test}/NAME.mp4, each split with a metadata.jsonl.

For a clip that is part of a longer file the whole file is copied, and its row holds start_s and end_s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_tools.provenance import columns_of
from m2raap.core.corpus import LANGS
from m2raap.core.exports import Item, Media, copy_video, plain_clip, video_name

LISTING = "metadata.jsonl"
SPLIT = {"train": "train", "val": "validation", "test": "test"}


class VideoFolder:
    media: tuple[Media, ...] = ("videos",)
    signals: tuple[str, ...] = ()

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        listings: dict[str, Any] = {}
        try:
            for item in items:
                folder = out / SPLIT[item.clip["split"]]
                if folder.name not in listings:
                    folder.mkdir()
                    listings[folder.name] = open(folder / LISTING, "w", encoding="utf-8")  # noqa: SIM115  # closed below
                copy_video(item, folder / video_name(item))
                row = {"file_name": video_name(item)} | plain_clip(item)
                for lang in LANGS:
                    texts = [text for text in item.texts if text["lang"] == lang]
                    row |= {f"captions_{lang}": [text["text"] for text in texts]} | columns_of(texts, lang)
                listings[folder.name].write(json.dumps(row, ensure_ascii=False) + "\n")
        finally:
            for listing in listings.values():
                listing.close()

    def clip_ids(self, out: Path) -> set[str]:
        return {row["clip_id"] for listing in _listings(out) for row in read_jsonl(listing)}


def _listings(out: Path) -> list[Path]:
    return sorted(out.glob(f"*/{LISTING}"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a listing that an exporter wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
