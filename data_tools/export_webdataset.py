"""Exports a curated view as webdataset shards: {key}.mp4 (or {key}.0.jpg ...), {key}.txt and {key}.json in plain tar files.

`.txt` is the clip's first text; `.json` holds the clip and every text with its provenance. Keys hold no dot or separator. No
time, owner or link is stored, so that the same view gives the same bytes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from m2raap.core.errors import M2raapError
from m2raap.core.exports import Item, Media, open_video, plain_clip, plain_text, video_name

MAX_SAMPLES, MAX_BYTES = 10_000, 512 * 1024**2  # of one shard; its last sample may go over MAX_BYTES


class WebDataset:
    media: tuple[Media, ...] = ("videos", "frames")
    signals: tuple[str, ...] = ()

    def write(self, items: Iterable[Item], out: Path, media: Media) -> None:
        shard: tarfile.TarFile | None = None
        number = samples = size = 0
        for item in items:
            if shard is None or samples >= MAX_SAMPLES or size >= MAX_BYTES:
                if shard is not None:
                    shard.close()
                shard, samples, size = _new(out / f"{number:05d}.tar"), 0, 0
                number += 1
            size += _add(shard, item, media)
            samples += 1
        if shard is not None:
            shard.close()

    def clip_ids(self, out: Path) -> set[str]:
        return {clip_id for path in _shards(out) for clip_id in _keys(path).values()}


def _shards(out: Path) -> list[Path]:
    return sorted(out.glob("*.tar"))


def _new(path: Path) -> tarfile.TarFile:
    return tarfile.open(path, "w", format=tarfile.GNU_FORMAT)


def _add(shard: tarfile.TarFile, item: Item, media: Media) -> int:
    meta: dict[str, Any] = plain_clip(item) | {"texts": [plain_text(row) for row in item.texts]}
    files: list[tuple[str, bytes]] = []
    total = 0
    if media == "videos":
        with open_video(item) as source:
            total += _add_file(shard, video_name(item), source, os.fstat(source.fileno()).st_size)
    else:
        files += [(f"{item.key}.{index}.jpg", jpeg) for index, jpeg in enumerate(item.jpegs)]
    files.append((f"{item.key}.txt", (item.texts[0]["text"] if item.texts else "").encode()))
    files.append((f"{item.key}.json", json.dumps(meta, ensure_ascii=False, sort_keys=True).encode()))
    return total + sum(_add_file(shard, name, io.BytesIO(content), len(content)) for name, content in files)


def _add_file(shard: tarfile.TarFile, name: str, source: BinaryIO, num_bytes: int) -> int:
    info = tarfile.TarInfo(name)  # mtime 0, no owner
    info.mode, info.size = 0o644, num_bytes
    shard.addfile(info, source)
    return num_bytes


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    try:
        with tarfile.open(path, "r:") as shard:
            for info in shard:
                if not info.isreg():
                    raise M2raapError(
                        f"{path}: '{info.name}' is not a regular file, so m2raap did not write this shard"
                    )
                yield shard, info
    except tarfile.TarError as error:
        raise M2raapError(f"{path}: cannot be read as tar ({error}); export again") from None


def _keys(path: Path) -> dict[str, str]:
    """Key -> clip id."""
    id_of_key = {}
    for shard, info in _members(path):
        if info.name.endswith(".json"):
            source = shard.extractfile(info)
            assert source is not None
            id_of_key[info.name.removesuffix(".json")] = json.loads(source.read())["clip_id"]
    return id_of_key
