"""The training data in a view: the clips of one split that have frames and texts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute

from m2raap.adapt.sources import CaptionColumns, TextColumns
from m2raap.core.config import digest
from m2raap.core.errors import M2raapError
from m2raap.core.frames import FramePlace, FrameReader
from m2raap.core.signed import part_key, read_manifest
from m2raap.core.split import ORIGINS, SplitTables, read_split
from m2raap.core.strings import Strings
from m2raap.core.tables import Text, part_bytes
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.sample import ClipFile

if TYPE_CHECKING:
    from m2raap.adapt.modalities import Modalities

pc: Any = pyarrow.compute  # whose functions are made when it is imported, so that no checker knows them
HELD_BYTES = 2 * 1024**3  # most bytes of JPEGs that are kept in memory
CaptionsByLang = dict[str, list[str | None]]  # in the order of the recipe's languages


class ViewSource:
    """Implements m2raap.adapt.raw_video.VideoSource: frames and texts of clips, and their video files for input `video`.

    Clips are ordered by part, then id, so that a pass over the frames reads each part once. `digests` caches the digests of
    video files; `limits` are those of the stage keyframes. `tables`: of this view and split, where they were read before.
    `senses`: motion and sound, where the caller has opened them.
    """

    senses: Modalities | None = None

    def __init__(
        self, view: View, split: str, limits: VideoConfig, digests: VideoDigests, tables: SplitTables | None = None
    ) -> None:
        self.limits = limits
        self._view, self._split, self._digests = view, split, digests
        self.tables = tables = tables or read_split(view, split)
        self._frames = FrameReader(view.folders, HELD_BYTES, verify=False)
        self.clip_ids = Strings(tables.clips["clip_id"])
        columns = (tables.clips[name].to_numpy() for name in ("folder", "part", "group", "row"))
        self._place_C4 = np.stack(list(columns), 1).astype(np.int32)
        # The texts of clip c are the rows first_C1[c] .. first_C1[c + 1].
        self._first_C1 = np.searchsorted(tables.texts["clip"].to_numpy(), np.arange(len(tables.clips) + 1))

    @property
    def num_clips(self) -> int:
        return len(self.tables.clips)

    @property
    def digest(self) -> str:
        """From the manifests of the view: no picture is read."""
        return digest([self._view.digest, self._split, self.frames_digest])

    @property
    def frames_digest(self) -> str:
        """From the ids of the clips and the digests of the parts with their frames in the manifests: no picture is read."""
        ids = hashlib.sha256()
        for clip_id in self.clip_ids:
            ids.update(repr(clip_id).encode())
        files = [read_manifest(folder)["files"] for folder in self._view.folders]
        used = np.unique(self._place_C4[:, :2], axis=0).tolist()
        parts = [files[folder][part_key("frames", part)] for folder, part in used]
        return digest([ids.hexdigest(), parts])[:32]

    @property
    def read_groups(self) -> np.ndarray:
        """(C,) the row group of each clip's frames, numbered in the order of the clips."""
        place_C3 = self._place_C4[:, :3]
        is_new = np.any(place_C3[1:] != place_C3[:-1], axis=1)
        return np.concatenate([[0], np.cumsum(is_new)])[: self.num_clips]

    @property
    def shuffle_window(self) -> int:
        """Number of clips whose frames fit into the memory for them, by the sizes of the files."""
        used = np.unique(self._place_C4[:, :2], axis=0).tolist()
        sizes = [part_bytes(self._view.folders[folder], "frames", part) for folder, part in used]
        num_bytes, rows = (sum(column) for column in zip(*sizes, strict=True))
        return max(1, int(HELD_BYTES * rows / max(num_bytes, 1)))

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        rows = self.tables.texts[slice(int(self._first_C1[clip]), int(self._first_C1[clip + 1]))].to_pylist()
        return [(self._view.langs[row["lang"]], row["text"], ORIGINS[row["origin"]]) for row in rows]

    def text_columns(self) -> TextColumns:
        texts = self.tables.texts
        clip_N, lang_N, origin_N = (texts[name].to_numpy() for name in ("clip", "lang", "origin"))
        strings = (Strings(texts["text"]), Strings(texts["raw_id"]))
        return TextColumns(clip_N, lang_N, origin_N, *strings, self._view.langs, ORIGINS)

    @property
    def num_frames_C(self) -> np.ndarray:
        return self.tables.clips["num_frames"].to_numpy()

    def caption_columns(self) -> CaptionColumns:
        """As `frame_captions` of every clip: in the first language of the view that has one, there the last of a frame."""
        texts = self.tables.texts
        texts = texts.filter(pc.equal(texts["origin"], ORIGINS.index("aux")))
        clip_M, lang_M = texts["clip"].to_numpy(), texts["lang"].to_numpy()
        frame_M = pc.fill_null(texts["frame_index"], 0).to_numpy()
        is_stored = (frame_M >= 0) & (frame_M < self.num_frames_C[clip_M])
        number_M = np.flatnonzero(is_stored)
        order = number_M[np.lexsort((-number_M, lang_M[number_M], frame_M[number_M], clip_M[number_M]))]
        same = (clip_M[order][1:] == clip_M[order][:-1]) & (frame_M[order][1:] == frame_M[order][:-1])
        first = order[np.concatenate([[True], ~same])[: len(order)]]
        return CaptionColumns(clip_M[first], frame_M[first], Strings(texts["text"].take(first)))

    def frames(self, clip: int) -> list[bytes]:
        folder, part, group, row = self._place_C4[clip].tolist()
        return self._frames.at(FramePlace(self._view.folders[folder], part, group, row))

    @property
    def read_bytes(self) -> int:
        """Bytes of key-frames that were read from files so far."""
        return self._frames.read_bytes

    def video(self, clip: int) -> ClipFile:
        video, start_s, end_s = (self.tables.clips[name][clip].as_py() for name in ("video", "start_s", "end_s"))
        if is_url(video):
            raise M2raapError(
                f"clip '{self.clip_ids[clip]}': its video is an address, but adapt.input=video reads files of this machine in "
                "every epoch; download the videos, or train on stored frames (adapt.input=keyframes)"
            )
        try:
            path = resolve_video(self._view.corpus.video_root, video)
        except Refused as refused:
            raise M2raapError(
                f"clip '{self.clip_ids[clip]}': adapt.input=video needs its file, which can no longer be read: {refused}"
            ) from None
        return ClipFile(path, start_s or 0.0, end_s)

    def video_digest(self, clip: int) -> str:
        video = self.tables.clips["video"][clip].as_py()
        return self._digests.of(video, self.video(clip).path, self.limits.max_bytes)


def drawn(tables: SplitTables, count: int, seed: int) -> SplitTables:
    """The `count` clips whose ids come first by a seeded hash, in their previous order; all where there are not more."""
    if len(tables.clips) <= count:
        return tables
    hashes = [hashlib.blake2b(f"{seed}:{clip_id}".encode()).digest() for clip_id in Strings(tables.clips["clip_id"])]
    kept = sorted(range(len(hashes)), key=hashes.__getitem__)[:count]
    return tables.take(np.array(sorted(kept), np.int64))


def frame_captions(texts: list[Text], num_frames: int, langs: tuple[str, ...]) -> list[str | None]:
    """The auxiliary caption of every key-frame of a clip, in the first language of `langs` that has one, else None."""
    return _first_of(frame_captions_by_lang(texts, num_frames, langs))


def frame_captions_by_lang(texts: list[Text], num_frames: int, langs: tuple[str, ...]) -> CaptionsByLang:
    """lang -> the auxiliary caption of every key-frame of a clip in this language, None where it has none."""
    captions: CaptionsByLang = {lang: [None] * num_frames for lang in langs}
    for row in texts:
        if row["origin"] == "aux" and row["lang"] in captions and 0 <= (frame := row["frame_index"] or 0) < num_frames:
            captions[row["lang"]][frame] = row["text"]
    return captions


def _first_of(captions: CaptionsByLang) -> list[str | None]:
    """Of each frame the caption in the first language that has one."""
    return [next((text for text in texts if text is not None), None) for texts in zip(*captions.values(), strict=True)]
