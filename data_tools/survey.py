"""The ids of the clips of a table, and the files that its names mean: both depend on all rows, and not on their order."""

from __future__ import annotations

import re
from pathlib import Path

from data_tools.locate import Files, without_ending
from m2raap.video.fetch import is_url

Span = tuple[str, float, float | None]  # video, start, end


class Survey:
    """What all rows say about ids: `add` for every row, then `finish`, then `clip_id` for every row.

    `clip_id` names a clip; where one span of a video has several, the first in order counts. `id` may also number rows or
    captions: it names clips only if each clip has one id and each id one clip in the whole import. Otherwise a clip is named
    after its video, without the ending unless two videos differ in nothing else.
    """

    def __init__(self, root: Path) -> None:
        self._files = Files(root)
        self.located: dict[str, str] = {}  # name in a list -> file that is meant
        self._stated: dict[tuple[str, str, str, float, float | None], None] = {}  # column, id, name, start, end
        self._first_id: dict[Span, str] = {}
        self._shared_stems: set[str] = set()
        self._id_names_clips = True

    def add(self, name: str, span: tuple[float | None, float | None], kind: str | None, stated_id: str) -> None:
        """`name`: the video as the list names it; `kind`: the column of the stated id, clip_id or id."""
        self.located.setdefault(name, name)
        if kind:
            self._stated[kind, stated_id, name, span[0] or 0.0, span[1]] = None

    def finish(self) -> None:
        listed = {name for name in self.located if self._files.is_exact(name)}
        for name in self.located:
            if name not in listed:
                self.located[name] = self._files.locate(name, listed)
        video_of_stem: dict[str, str] = {}
        for video in self.located.values():
            if video_of_stem.setdefault(_stem(video), video) != video:
                self._shared_stems.add(_stem(video))
        id_of_span: dict[Span, str] = {}
        span_of_id: dict[str, Span] = {}
        for kind, stated_id, name, start_s, end_s in self._stated:
            span = (self.located[name], start_s, end_s)
            if kind == "clip_id":
                self._first_id[span] = min(self._first_id.get(span, stated_id), stated_id)
            elif id_of_span.setdefault(span, stated_id) != stated_id or span_of_id.setdefault(stated_id, span) != span:
                self._id_names_clips = False
        self._stated.clear()

    def names_clips(self, kind: str) -> bool:
        """Whether the ids in this column are ids of clips."""
        return kind == "clip_id" or self._id_names_clips

    def clip_id(self, video: str, start_s: float | None, end_s: float | None, kind: str | None, stated_id: str) -> str:
        """The id of a row's clip; `video`: the file that is meant."""
        if kind == "clip_id":
            return self._first_id[video, start_s or 0.0, end_s]
        stem = _stem(video)
        clip_id = video if stem in self._shared_stems else stem
        if kind and self._id_names_clips:
            clip_id = stated_id
        if start_s is None and end_s is None:
            return clip_id
        return f"{clip_id}_{_shortest(start_s or 0.0)}_{'end' if end_s is None else _shortest(end_s)}"


def _shortest(seconds: float) -> str:
    """The shortest text of a number that no other number has: '5', '2.5', '1.0000000000000002'."""
    return repr(float(seconds)).removesuffix(".0")


def _stem(video: str) -> str:
    """The path without the file ending of a video; an address also loses its query and fragment."""
    return without_ending(re.sub(r"[?#].*", "", video) if is_url(video) else video)
