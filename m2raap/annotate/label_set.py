"""The labels of a tagger: their names, the words that name them, and how many clips have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NotRequired

import numpy as np
from typing_extensions import TypedDict

from m2raap.annotate.config import LabelsConfig
from m2raap.annotate.label_words import read_word_list, with_lang
from m2raap.core.errors import M2raapError
from m2raap.core.files import write_json
from m2raap.core.records import read_record


class _LabelJson(TypedDict):
    name: str
    words: list[str]
    clips: int
    examples: NotRequired[list[str]]


class _LabelsJson(TypedDict):
    num_clips: int
    labels: list[_LabelJson]


@dataclass(frozen=True)
class LabelSet:
    """L labels, the most frequent first. `words_L`: the words of texts that name each, with their languages."""

    names_L: tuple[str, ...]
    words_L: tuple[tuple[str, ...], ...]
    clips_L: tuple[int, ...]
    num_clips: int

    def __len__(self) -> int:
        return len(self.names_L)

    @cached_property
    def label_of(self) -> dict[str, int]:
        """Word with its language, or name -> label."""
        by_name = {name: label for label, name in enumerate(self.names_L)}
        by_word: dict[str, int] = {}
        for label, words in enumerate(self.words_L):
            for word in words:  # names that differ in their case alone share a word: the more frequent label has it
                by_word.setdefault(word, label)
        return by_word | by_name

    @cached_property
    def priors_L(self) -> np.ndarray:
        return np.array(self.clips_L) / self.num_clips

    def labels_in(self, words: Iterable[str]) -> list[int]:
        """The labels that words or names stand for, in their order."""
        return sorted({self.label_of[word] for word in words if word in self.label_of})

    def save(self, path: Path) -> None:
        rows = zip(self.names_L, self.words_L, self.clips_L, strict=True)
        labels = [{"name": name, "words": list(words), "clips": clips} for name, words, clips in rows]
        write_json(path, {"num_clips": self.num_clips, "labels": labels})

    @classmethod
    def load(cls, path: Path) -> LabelSet:
        """Raises M2raapError for a damaged file."""
        tree = read_record(_LabelsJson, path)
        rows = tree["labels"]
        if not rows or tree["num_clips"] < 1:
            raise M2raapError(f"{path}: names no labels or no clips; fit the tagger again")
        columns = zip(*((row["name"], tuple(row["words"]), row["clips"]) for row in rows), strict=True)
        names, words, clips = map(tuple, columns)
        return cls(names, words, clips, tree["num_clips"])


class Synonyms:
    """Words that count as another: those of a user's file, of which the first of a line names the label."""

    def __init__(self, path: Path | None) -> None:
        self.head_of: dict[str, str] = {}
        for row in read_word_list(path) if path else []:
            for word in row:
                if self.head_of.setdefault(word, row[0]) != row[0]:
                    raise M2raapError(f"{path}: the word '{word}' is in two lines; leave it in one")

    def heads(self, words: Iterable[str]) -> set[str]:
        return {self.head_of.get(word, word) for word in words}

    def words(self, head: str) -> list[str]:
        """All words of a label, its head first."""
        return [head, *(word for word, other in self.head_of.items() if other == head and word != head)]


def frequent(counts: Mapping[str, int], num_clips: int, cfg: LabelsConfig) -> dict[str, int]:
    """Words -> clips, of the words that can be labels, the most frequent first."""
    stop = {word for row in (read_word_list(cfg.stop_words) if cfg.stop_words else []) for word in row}
    most = cfg.max_share * num_clips
    kept = {word: n for word, n in counts.items() if cfg.min_count <= n <= most and word not in stop}
    return dict(sorted(kept.items(), key=lambda item: (-item[1], item[0])))


def companions(counts: Mapping[str, int], both: Mapping[tuple[str, str], int], least: float) -> dict[str, str]:
    """Chinese word -> English word, of those that are each other's most frequent companion.

    `both`: (en, zh) -> clips with both; `counts`: clips of each word among the clips with texts in both languages. The Dice
    coefficient 2 |both| / (|en| + |zh|) is at least `least`.
    """
    dice = {pair: 2 * n / (counts[pair[0]] + counts[pair[1]]) for pair, n in both.items()}
    best: dict[str, tuple[float, str]] = {}
    for (en, zh), value in sorted(dice.items()):
        for word, other in ((en, zh), (zh, en)):
            if value > best.get(word, (0.0, ""))[0]:
                best[word] = (value, other)
    return {
        zh: en
        for (en, zh), value in dice.items()
        if value >= least and best[en] == (value, zh) and best[zh] == (value, en)
    }


def label_set(
    counts: Mapping[str, int],
    num_clips: int,
    cfg: LabelsConfig,
    synonyms: Synonyms,
    joined: Mapping[str, str],
    both: Mapping[tuple[str, str], int],
) -> LabelSet:
    """The labels of captions, from words that `frequent` kept. `joined`: Chinese word -> English word of one label.

    Raises M2raapError where no label is left.
    """
    clips: Counter[str] = Counter()
    words: dict[str, list[str]] = {}
    for word, count in counts.items():
        head = joined.get(word, word)
        clips[head] += count - (both.get((head, word), 0) if head != word else 0)
        words.setdefault(head, []).extend(synonyms.words(word))
    names = {
        head: " / ".join(dict.fromkeys(plain(word) for word in (head, *(w for w in of if w in joined))))
        for head, of in words.items()
    }
    return _largest([(names[head], tuple(words[head]), clips[head]) for head in words], num_clips, cfg)


def stated_label_set(counts: Mapping[str, int], num_clips: int, cfg: LabelsConfig, synonyms: Synonyms) -> LabelSet:
    """The labels of a list, which are taken by their names. A name of one word is also found in texts, and so are its synonyms.

    Raises M2raapError where no label is left.
    """
    kept = {name: n for name, n in counts.items() if n >= cfg.min_count}
    rows = [(name, tuple(synonyms.words(with_lang(name))) if " " not in name else (), n) for name, n in kept.items()]
    return _largest(rows, num_clips, cfg)


def _largest(rows: Sequence[tuple[str, tuple[str, ...], int]], num_clips: int, cfg: LabelsConfig) -> LabelSet:
    chosen = sorted(rows, key=lambda row: (-row[2], row[0]))[: cfg.max_labels]
    if not chosen:
        raise M2raapError(
            f"annotate: no label has {cfg.min_count} of the {num_clips:,} clips: lower annotate.labels.min_count, or give more "
            "clips"
        )
    names, words, clips = map(tuple, zip(*chosen, strict=True))
    return LabelSet(names, words, clips, num_clips)


def plain(word: str) -> str:
    """'en:car' -> 'car'."""
    return word[3:] if word.startswith(("en:", "zh:")) else word
