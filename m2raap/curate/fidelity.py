"""Did a rewrite keep what the raw caption says? Words are compared as sets, after the same normalising.

Links, stock phrases, file names and hash tags may go. Anything else that is lost, above all numbers, negations and
colours, or anything new, refuses the rewrite.
"""

from __future__ import annotations

from typing import NamedTuple

from m2raap.curate import language, phrases
from m2raap.curate.clean import normalise
from m2raap.curate.patterns import LINK, is_machine_word


class Fidelity(NamedTuple):
    """Words that a rewrite lost from its original, and words that it has and the original has not."""

    lost: tuple[str, ...]
    invented: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether nothing was lost and nothing invented."""
        return not self.lost and not self.invented


def compare(raw: str, rewrite: str, lang: str, simplified: bool = False) -> Fidelity:
    """Content words lost from `raw` and words of `rewrite` that `raw` has not, both sorted."""
    base = normalise(raw, lang, simplified)
    new_words = set(language.tokens(rewrite))
    lost = _content(base) - new_words
    return Fidelity(tuple(sorted(lost)), tuple(sorted(new_words - set(language.tokens(base)))))


def claims(text: str) -> str:
    """`text` without links, file names, stock phrases and their serial numbers: what is said of the video."""
    bare = " ".join(word for word in LINK.sub(" ", text).split() if not is_machine_word(word))
    spans = list(language.TOKEN.finditer(bare))
    words = [span.group().lower() for span in spans]
    idle = phrases.covered(words)
    kept, at = [], 0
    for i, (span, word, flag) in enumerate(zip(spans, words, idle, strict=True)):
        # A serial number right after a stock phrase is its number ("clip 00231"); "of" after one is its preposition.
        if flag or (i and idle[i - 1] and (word in phrases.JOINS or phrases.is_serial(word))):
            kept.append(bare[at : span.start()])
            at = span.end()
    return "".join([*kept, bare[at:]])


def _content(text: str) -> set[str]:
    """Words that must survive."""
    return set(language.tokens(claims(text)))
