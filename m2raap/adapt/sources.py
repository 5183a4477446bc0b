"""Clips with their frames and texts, as training reads them. Nothing in this file knows the folders of a corpus.

N texts, C clips, K stored frames of the clip that has most, M captions of frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from m2raap.core.config import digest
from m2raap.core.strings import Strings

if TYPE_CHECKING:
    from m2raap.adapt.modalities import Modalities


@dataclass(frozen=True)
class TextColumns:
    """The active texts of all clips, ordered by clip; the texts of a clip are in a fixed order.

    `clip_N`: the clip of each text, ascending. `lang_N` and `origin_N`: indices in `langs` and `origins`. `raw_ids`: of each
    text the id of the text of the corpus that it is, or comes from; empty where there is none.
    """

    clip_N: np.ndarray
    lang_N: np.ndarray
    origin_N: np.ndarray
    texts: Strings
    raw_ids: Strings
    langs: tuple[str, ...]
    origins: tuple[str, ...]


@dataclass(frozen=True)
class CaptionColumns:
    """The captions of key-frames, ordered by clip and frame; a frame has one at most."""

    clip_M: np.ndarray
    frame_M: np.ndarray
    texts: Strings


class PairSource(Protocol):
    """Clips with their frames and texts, wherever these are stored."""

    @property
    def num_clips(self) -> int: ...

    @property
    def clip_ids(self) -> Strings | Sequence[str]: ...

    @property
    def digest(self) -> str:
        """Names everything that training reads of the clips, except the videos of input `video`."""
        ...

    @property
    def frames_digest(self) -> str:
        """Names the clips and their frames: sources with equal ones may share a cache of what a model makes of the frames."""
        ...

    @property
    def read_groups(self) -> np.ndarray | None:
        """(C,) ascending: clips of the same number are read from the disk together; None: the order of reading is free."""
        ...

    @property
    def shuffle_window(self) -> int | None:
        """Number of clips whose frames fit into memory together; None: of all."""
        ...

    def frames(self, clip: int) -> list[bytes]:
        """The clip's key-frames as JPEG bytes, in order of time."""
        ...

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        """(lang, text, origin) of the clip's active texts, in a fixed order."""
        ...

    def text_columns(self) -> TextColumns: ...


@runtime_checkable
class CaptionedSource(PairSource, Protocol):
    """A PairSource whose frames have captions."""

    @property
    def num_frames_C(self) -> np.ndarray:
        """Number of stored key-frames of each clip."""
        ...

    def caption_columns(self) -> CaptionColumns:
        """The captions of key-frames, in the first language that has one."""
        ...


@runtime_checkable
class SensedSource(PairSource, Protocol):
    """A source whose clips may have motion or sound. None: they were not read."""

    @property
    def senses(self) -> Modalities | None: ...


@dataclass
class ListSource:
    """A PairSource in memory: of every clip its id, frames, (lang, text, origin) triples and captions of frames.

    Text k of a clip has the id CLIP.k.
    """

    clip_ids: list[str]
    jpegs: list[list[bytes]]
    pairs: list[list[tuple[str, str, str]]]
    frame_captions: list[list[str | None]] = field(default_factory=list)
    read_groups: np.ndarray | None = None
    shuffle_window: int | None = None

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)

    @property
    def digest(self) -> str:
        return digest([self.frames_digest, self.pairs, self.frame_captions])

    @cached_property
    def frames_digest(self) -> str:
        state = hashlib.sha256()
        for clip_id, jpegs in zip(self.clip_ids, self.jpegs, strict=True):
            state.update(repr(clip_id).encode())
            for jpeg in jpegs:
                state.update(hashlib.sha256(jpeg).digest())
        return state.hexdigest()[:32]

    def frames(self, clip: int) -> list[bytes]:
        return self.jpegs[clip]

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        return self.pairs[clip]

    def text_columns(self) -> TextColumns:
        rows = [(clip, *triple) for clip, triples in enumerate(self.pairs) for triple in triples]
        ids = (
            f"{self.clip_ids[clip]}.{place}" for clip, triples in enumerate(self.pairs) for place in range(len(triples))
        )
        langs, origins = tuple(sorted({row[1] for row in rows})), tuple(sorted({row[3] for row in rows}))
        return TextColumns(
            clip_N=np.array([row[0] for row in rows], np.int32),
            lang_N=np.array([langs.index(row[1]) for row in rows], np.int8),
            origin_N=np.array([origins.index(row[3]) for row in rows], np.int8),
            texts=Strings.of(row[2] for row in rows),
            raw_ids=Strings.of(ids),
            langs=langs,
            origins=origins,
        )

    @property
    def num_frames_C(self) -> np.ndarray:
        return np.array([len(jpegs) for jpegs in self.jpegs], np.int64)

    def caption_columns(self) -> CaptionColumns:
        rows = [
            (clip, frame, text)
            for clip, texts in enumerate(self.frame_captions)
            for frame, text in enumerate(texts)
            if text is not None
        ]
        return CaptionColumns(
            np.array([row[0] for row in rows], np.int32),
            np.array([row[1] for row in rows], np.int32),
            Strings.of(row[2] for row in rows),
        )
