"""A captioner that knows what the synthetic world shows, for `caption.name: "python:data_tools.world.frame_truth:FrameTruth"`.

It reads the tables that the world writes beside its videos (data_tools/world/shots.py), never a frame. So it is an upper bound
for captioners, with a measured share of errors where `noise` says so, and shows what weights over frames could gain from
captions; results with it are results with planted captions, and are to be reported as such.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field, model_validator

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError, UsageError
from m2raap.core.files import file_sha256

_KEY = "caption.options.tables"
_NEAR_S = 0.005  # frames of the world are at least 16 ms apart; a time may differ from that of the table by rounding
_COLUMNS = ("clip_id", "split", "start_s", "end_s", "caption_en", "caption_zh")


class FrameTruthConfig(Config):
    """Where the captions are, and which share of them is spoilt."""

    tables: tuple[str, ...] = Field(
        min_length=1,
        description="Paths of shots.parquet of the world and of further benchmarks, with the captions of all clips.",
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the key-frames whose caption is that of a moment of another clip of the same table and split.",
    )
    missing: float = Field(default=0.0, ge=0, le=1, description="Share of the key-frames that get no caption.")
    seed: int = Field(default=0, ge=0, description="Seed by which frames lose their caption or get another one.")

    @model_validator(mode="after")
    def _shares(self) -> FrameTruthConfig:
        if self.noise + self.missing > 1:
            raise ValueError(f"noise and missing are shares of all frames, and add up to {self.noise + self.missing:g}")
        return self


class ClipTimes(Protocol):
    """What it needs of a clip (m2raap.curate.captioners.ClipFrames)."""

    @property
    def clip_id(self) -> str: ...
    @property
    def times_s(self) -> Sequence[float]: ...


class FrameTruth:
    """The caption of what is drawn at the time of each key-frame. The same frame has the same caption whatever other frames,
    clips or workers there are; with a higher `noise` or `missing` the frames that were spoilt before remain so."""

    Config = FrameTruthConfig

    def __init__(self, cfg: FrameTruthConfig, tools: Any) -> None:
        self.cfg = cfg
        self.producer = f"planted truth, noise {cfg.noise:g}, missing {cfg.missing:g}, seed {cfg.seed}"
        self._moments: dict[str, list[dict[str, Any]]] = {}  # clip_id -> its rows in order of time
        self._group: dict[
            str, tuple[list[str], int]
        ] = {}  # clip_id -> ids of its table and split, its place among them
        for path in cfg.tables:
            self._add(Path(path))

    @staticmethod
    def dependencies(cfg: FrameTruthConfig) -> dict[str, Any]:
        """Digests of the tables, for the digest of the stage. Raises UsageError for a table that is not there."""
        return {"tables": [file_sha256(_existing(path)) for path in cfg.tables]}

    def caption_many(self, clips: Sequence[ClipTimes], langs: Sequence[str]) -> list[list[dict[str, Any]]]:
        """See m2raap.curate.captioners.Captioner. Raises M2raapError for a clip, or a time in it, of which no table tells."""
        return [
            [row for index, time_s in enumerate(clip.times_s) for row in self._rows(clip.clip_id, index, time_s, langs)]
            for clip in clips
        ]

    def _rows(self, clip_id: str, index: int, time_s: float, langs: Sequence[str]) -> list[dict[str, Any]]:
        moment = self._at(clip_id, time_s)
        key = hashlib.blake2b(f"{self.cfg.seed}:{clip_id}:{round(1000 * time_s)}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(key, "big"))
        drawn = float(rng.random())
        if drawn < self.cfg.missing:
            moment = None
        elif drawn >= 1 - self.cfg.noise:
            moment = self._elsewhere(clip_id, rng)
        return [
            {
                "frame_index": index, "lang": lang, "text": moment and moment[f"caption_{lang}"], "score": None,
                "outcome": "ok" if moment else "skipped", "note": "" if moment else "caption.options.missing", "sent_to": "",
            }
            for lang in langs
        ]  # fmt: skip

    def _at(self, clip_id: str, time_s: float) -> dict[str, Any]:
        if clip_id not in self._moments:
            raise M2raapError(
                f"{_KEY}: clip '{clip_id}' is in none of {', '.join(self.cfg.tables)}; add the shots.parquet of its world or "
                "benchmark"
            )
        moments = self._moments[clip_id]
        place = bisect_right([moment["start_s"] for moment in moments], time_s + _NEAR_S) - 1
        if place < 0 or time_s > moments[place]["end_s"] + _NEAR_S:
            raise M2raapError(
                f"{_KEY}: clip '{clip_id}' has a key-frame at {time_s:g} s, of which the table does not tell; its videos are "
                "those of another world"
            )
        return moments[place]

    def _elsewhere(self, clip_id: str, rng: np.random.Generator) -> dict[str, Any]:
        """A moment of another clip."""
        ids, place = self._group[clip_id]
        if len(ids) < 2:
            raise M2raapError(
                f"caption.options.noise: clip '{clip_id}' is the only one of its table and split, and there is no other caption "
                "to give it"
            )
        moments = self._moments[ids[(place + 1 + int(rng.integers(len(ids) - 1))) % len(ids)]]
        return moments[int(rng.integers(len(moments)))]

    def _add(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(_existing(path), columns=list(_COLUMNS))
        except (OSError, pa.ArrowException) as error:
            raise M2raapError(f"{_KEY}: {path}: cannot be read as a table of moments: {error}") from None
        if faulty := [name for name in table.column_names if table[name].null_count]:
            raise M2raapError(f"{_KEY}: {path}: has no value in some rows of {', '.join(faulty)}")
        by_clip: dict[str, list[dict[str, Any]]] = defaultdict(list)
        by_split: dict[str, list[str]] = defaultdict(list)
        for row in table.to_pylist():
            if row["clip_id"] not in by_clip:
                by_split[row["split"]].append(row["clip_id"])
            by_clip[row["clip_id"]].append(row)
        if twice := sorted(by_clip.keys() & self._moments.keys()):
            raise M2raapError(
                f"{_KEY}: {path}: clip '{twice[0]}' is in another of the tables, too; give those of one world"
            )
        self._moments |= {clip_id: sorted(rows, key=lambda row: row["start_s"]) for clip_id, rows in by_clip.items()}
        for ids in by_split.values():
            self._group |= {clip_id: (ids, place) for place, clip_id in enumerate(ids)}


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise UsageError(
            f"{_KEY}: {path}: no such file; `m2raap data import world` and the benchmarks of data_tools/world write "
            "shots.parquet beside the videos"
        )
    return Path(path)
