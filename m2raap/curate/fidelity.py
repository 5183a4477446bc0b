"""Whether a rewrite keeps what the raw caption says. Both are normalised and compared as sets of words.

Links, stock phrases, file names and hash tags may be removed. A rewrite that loses any other word, or has a new one, is
refused.
"""

from __future__ import annotations

from typing import NamedTuple

from m2raap.curate import language, phrases
from m2raap.curate.clean import normalise
from m2raap.curate.patterns import LINK, is_machine_word


class Fidelity(NamedTuple):
    """Words that a rewrite lost from its original, and words that only the rewrite has."""

    lost: tuple[str, ...]
    invented: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether nothing was lost and nothing invented."""
        return not self.lost and not self.invented


def compare(raw: str, rewrite: str, lang: str, simplified: bool = False) -> Fidelity:
    """Content words of `raw` that `rewrite` lost, and words of `rewrite` that `raw` does not have, both sorted."""
    base = normalise(raw, lang, simplified)
    new_words = set(language.tokens(rewrite))
    lost = _content(base) - new_words
    return Fidelity(tuple(sorted(lost)), tuple(sorted(new_words - set(language.tokens(base)))))


def claims(text: str) -> str:
    """`text` without links, file names, stock phrases and their serial numbers: what it says about the video."""
    bare = " ".join(word for word in LINK.sub(" ", text).split() if not is_machine_word(word))
    spans = list(language.TOKEN.finditer(bare))
    words = [span.group().lower() for span in spans]
    is_stock = phrases.covered(words)
    kept, at = [], 0
    for i, (span, word, flag) in enumerate(zip(spans, words, is_stock, strict=True)):
        # A serial number right after a stock phrase belongs to it ("clip 00231"), and so does an "of".
        if flag or (i and is_stock[i - 1] and (word in phrases.JOINS or phrases.is_serial(word))):
            kept.append(bare[at : span.start()])
            at = span.end()
    return "".join([*kept, bare[at:]])


def _content(text: str) -> set[str]:
    """Words that a rewrite has to keep."""
    return set(language.tokens(claims(text)))
