"""How many clips have each tag, by the signals of `annotate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from m2raap.stages.tag_signals import probable_tags


@dataclass
class TagCounts:
    """Number of clips that have each tag with p >= LEAST_P, and of clips of which a text names it."""

    num_clips: int = 0
    num_with_tags: int = 0  # clips with at least one such tag
    clips: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)

    def add(self, signals: Mapping[str, Any], of_texts: Iterable[Mapping[str, Any]] = ()) -> None:
        """Counts a clip by its signals and those of its texts."""
        tags = set(probable_tags(signals))
        self.num_clips += 1
        self.num_with_tags += bool(tags)
        self.clips.update(tags)
        self.named.update({tag for row in of_texts for tag in row.get("tags_named") or ()})

    def ordered(self) -> list[str]:
        """The tags that a clip has or a text names, those of the most clips first."""
        return sorted({*self.clips, *self.named}, key=lambda tag: (-self.clips[tag], -self.named[tag], tag))
