"""A view as the pairs that adaptation reads: rows of one split that have frames and texts."""

from __future__ import annotations

from collections import OrderedDict

from m2raap.core.tables import Row
from m2raap.core.view import View

HELD_BYTES = 2 * 1024**3  # of JPEGs kept in memory; parts that were not read for longest leave first


class ViewSource:
    """Implements m2raap.adapt.batches.PairSource. Clips are ordered by part, then id, so that a pass reads each part once."""

    def __init__(self, view: View, split: str) -> None:
        self._view = view
        self.clip_ids: list[str] = []
        self._part_of: list[int] = []
        self._texts: list[list[tuple[str, str, str]]] = []
        self._held: OrderedDict[int, dict[str, list[bytes]]] = OrderedDict()
        self._held_bytes = 0
        for part in view.parts(("texts", "frames")):
            for clip in part.clips:
                texts = part.texts_of[clip["clip_id"]]
                if clip["split"] == split and texts and clip["clip_id"] in part.frames:
                    self.clip_ids.append(clip["clip_id"])
                    self._part_of.append(part.index)
                    self._texts.append([(row["lang"], row["text"], row["origin"]) for row in texts])

    @property
    def num_clips(self) -> int:
        return len(self.clip_ids)

    def texts(self, clip: int) -> list[tuple[str, str, str]]:
        return self._texts[clip]

    def frames(self, clip: int) -> list[bytes]:
        index = self._part_of[clip]
        if index not in self._held:
            rows: dict[str, Row] = self._view.part(index, ("jpegs",)).frames
            self._held[index] = {clip_id: row["jpegs"] for clip_id, row in rows.items()}
            self._held_bytes += _size(self._held[index])
            while self._held_bytes > HELD_BYTES and len(self._held) > 1:
                self._held_bytes -= _size(self._held.popitem(last=False)[1])
        self._held.move_to_end(index)
        return self._held[index][self.clip_ids[clip]]


def _size(jpegs: dict[str, list[bytes]]) -> int:
    return sum(len(jpeg) for row in jpegs.values() for jpeg in row)
