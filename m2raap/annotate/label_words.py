"""The words of a text that can be labels: English nouns and verbs as lemmas, Chinese nouns and verbs.

Whether a word can be a noun or a verb says a lexicon (lemminflect; jieba), not a parser: 'run' counts in 'a run' and in 'they
run'. A word is written with its language: en:car, zh:汽车.
"""

from __future__ import annotations

import logging
import re
import tempfile
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

from m2raap.core.errors import M2raapError, UsageError
from m2raap.curate.language import HAN, tokens, visible

_WORD = re.compile(r"[a-z]{2,}(?:'[a-z]+)?")
_EXTRA = "pip install 'm2raap[annotate]'"


def words_of(text: str, lang: str) -> set[str]:
    """The label words of a text, without the built-in stop words. Raises UsageError where the lexicon of the language is not
    installed."""
    if lang == "zh":
        words = {f"zh:{word}" for word in _chinese(visible(text))}
    else:
        words = {f"en:{lemma}" for token in tokens(visible(text)) if (lemma := english_lemma(token)) is not None}
    return words - stop_words()


@lru_cache(maxsize=100_000)
def english_lemma(word: str) -> str | None:
    """The lemma of a word that can be a noun or a verb; None for all others, and for auxiliaries."""
    if not _WORD.fullmatch(word):
        return None
    lemmas = _lemmas()(word)
    if "AUX" in lemmas or not {"NOUN", "VERB"} & set(lemmas):
        return None
    verb, noun = lemmas.get("VERB", (None,))[0], lemmas.get("NOUN", (None,))[0]
    # 'running' is rather the verb than the noun 'running', 'glasses' rather the noun than the verb 'glass'.
    return verb if noun is None or (verb not in (None, word) and word.endswith(("ing", "ed"))) else noun


@lru_cache(maxsize=1)
def _lemmas() -> Any:
    try:
        from lemminflect import getAllLemmas
    except ModuleNotFoundError:
        raise UsageError(f"annotate.labels.source captions needs the English lexicon lemminflect: {_EXTRA}") from None
    return getAllLemmas


def _chinese(text: str) -> set[str]:
    if not HAN.search(text):
        return set()
    return {
        pair.word
        for pair in _segmenter().cut(text, HMM=False)
        if pair.flag[:1] in ("n", "v") and HAN.fullmatch(pair.word[:1]) and pair.flag not in ("nr", "vshi", "vyou")
    }


@lru_cache(maxsize=1)
def _segmenter() -> ModuleType:
    try:
        import jieba
        import jieba.posseg
    except ModuleNotFoundError:
        raise UsageError(f"annotate.labels.source captions needs the Chinese lexicon jieba: {_EXTRA}") from None
    jieba.setLogLevel(logging.WARNING)
    # By default jieba keeps its lexicon in /tmp, where others could put a file for it to load.
    with tempfile.TemporaryDirectory(prefix="m2raap-jieba-") as private:
        jieba.dt.tmp_dir = private  # pyright: ignore[reportAttributeAccessIssue]  # its default is None
        jieba.initialize()
    return jieba.posseg


@lru_cache(maxsize=1)
def stop_words() -> frozenset[str]:
    """Words of captions that say nothing of a clip, with their languages."""
    lines = resources.files("m2raap").joinpath("assets/words/no_labels.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(with_lang(word) for line in lines if not line.startswith("#") for word in line.split())


def with_lang(word: str) -> str:
    """'car' -> 'en:car', by the script; a word that has a language already keeps it."""
    word = word.strip().lower()
    return word if word.startswith(("en:", "zh:")) else f"zh:{word}" if HAN.search(word) else f"en:{word}"


def read_word_list(path: Path) -> list[list[str]]:
    """The words of each line, separated by commas, with their languages. Raises M2raapError for a file that is no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise M2raapError(f"{path}: cannot be read as a UTF-8 text: {error}") from None
    rows = ([word for word in re.split("[,，]", line) if word.strip()] for line in lines if not line.startswith("#"))
    return [[with_lang(word) for word in row] for row in rows if row]
