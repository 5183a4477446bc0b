"""The training data in a view: the clips of one split that have frames and texts."""

from __future__ import annotations

import hashlib
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.core.frames import FrameReader
from m2raap.core.tables import Text
from m2raap.core.videos import VideoDigests
from m2raap.core.view import View
from m2raap.video.fetch import is_url
from m2raap.video.limits import Refused, VideoConfig
from m2raap.video.paths import resolve_video
from m2raap.video.sample import ClipFile

HELD_BYTES = 2 * 1024**3  # most bytes of JPEGs that are kept in memory
CaptionsByLang = dict[str, list[str | None]]  # in the order of the recipe's languages


class ViewSource:
    """Implements m2raap.adapt.raw_video.VideoSource: frames and texts of clips, and their video files for input `video`.

    Clips are ordered by part, then id, so that a pass over the frames reads each part once. `digests` caches
    the digests of video files; `limits` are those of the stage keyframes.
    """

    def __init__(self, view: View, split: str, limits: VideoConfig, digests: VideoDigests) -> None:
        self._view, self.limits, self._digests = view, limits, digests
        self.clip_ids: list[str] = []
        self._part_of: list[int] = []
        self._texts: list[list[tuple[str, str, str]]] = []
        self._captions: list[CaptionsByLang] = []
        self.videos: list[tuple[str, float, float | None]] = []
        self._frames = FrameReader(view.folders, HELD_BYTES)
        for part in view.parts(("texts", "frames")):
            for clip in part.clips:
                texts = part.texts_of[clip["clip_id"]]
                if clip["split"] == split and texts and clip["clip_id"] in part.frames:
                    self.clip_ids.append(clip["clip_id"])
                    self._part_of.append(part.index)
                    self.videos.append((clip["video"], clip["start_s"] or 0.0, clip["end_s"]))
                    self._texts.append([(row["lang"], row["text"], row["origin"]) for row in texts])
                    num_frames = len(part.frames[clip["clip_id"]]["times_s"])
                    self._captions.append(frame_captions_by_lang(texts, num_frames, view.langs))

    def draw(self, count: int, seed: int) -> None:
        """Keeps only the `count` clips whose ids come first by a seeded hash, in their previous order."""
        hashes = [hashlib.blake2b(f"{seed}:{clip_id}".encode()).digest() for clip_id in self.clip_ids]
        kept = sorted(sorted(range(self.num_clips), key=hashes.__getitem__)[:count])
        tables: list[list[Any]] = [self.clip_ids, self._part_of, self._texts, self._captions, self.videos]
        for rows in tables:
            rows[:] = [rows[place] for place in kept]

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        return self._texts[clip]

    def captions(self, clip: int) -> list[str | None]:
        return _first_of(self._captions[clip])

    def captions_by_lang(self, clip: int) -> CaptionsByLang:
        """lang -> the auxiliary caption of every key-frame in this language, None where it has none."""
        return self._captions[clip]

    def frames(self, clip: int) -> list[bytes]:
        return self._frames.jpegs(self._part_of[clip], self.clip_ids[clip])

    def video(self, clip: int) -> ClipFile:
        video, start_s, end_s = self.videos[clip]
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
        return ClipFile(path, start_s, end_s)

    def video_digest(self, clip: int) -> str:
        return self._digests.of(self.videos[clip][0], self.video(clip).path, self.limits.max_bytes)


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
