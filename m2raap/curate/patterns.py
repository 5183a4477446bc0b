"""Patterns of links, file names and tags in captions. The rules and the rewriter share them."""

from __future__ import annotations

import re

from m2raap.curate import language

LINK = re.compile(
    r"https?://\S+|www\.\S+|\b[\w.-]{1,80}\.(?:com|net|org|cn|io|tv|co|ru|de|be|ly)(?:/\S*)?(?![\w.])"
    r"|[\w.+-]{1,64}@[\w-]{1,63}\.\w+|[@\uff20][A-Za-z0-9_.]{2,}|[#\uff03][^\s#\uff03]+",
    re.IGNORECASE,
)
MACHINE_WORD = re.compile(
    r".*\w_\w.*"
    r"|.*\.(?:mp4|mov|avi|mkv|webm|mpe?g|wmv|flv|m4v|jpe?g|png|gif|webp|txt|srt|wav|mp3)"
    r"|(?:img|dsc|dscn|dscf|mvi|vid|gopr|gh|dji|pxl|mah|mov|clip|untitled|video|export|seq)[-_]?\d{2,}"
    r"|\w+#\w{1,4}"  # this line and the next: words with Penn or ICTCLAS parts of speech
    r"|.+/(?:NNS?|NNP|VB[DGNPZ]?|JJ|DT|IN|RB|PRP|CC|[anvdprmqucxt]|n[rstz]|v[nd]|ad|an)"
    r"|<?/?(?:unk|pad|eos|bos|sep|cls|mask|start_?of_?text|end_?of_?text)>|\[(?:unk|pad|sep|cls|mask)\]"
    r"|(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9-]{10,}|\d{6,}|[0-9a-f]{8}-[0-9a-f-]{20,}|n/?a|null|none|nan|undefined",
    re.IGNORECASE,
)
NOTHING_WORDS = ("na", "null", "none", "nan", "undefined")  # machine words that consist of letters only
LIST_SEPARATOR = re.compile("[,;|\uff0c\u3001\uff1b]+|\\s/\\s")
# Words of which every sentence has at least one and a list of tags has none.
_SENTENCE_WORDS = frozenset(
    {
        "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "he", "her", "his", "in", "into", "is",
        "it", "its", "of", "on", "she", "some", "someone", "that", "the", "their", "then", "there", "they",
        "this", "to", "was", "were", "while", "who", "with",
    }
)  # fmt: skip
_SENTENCE_HAN = re.compile("[在的着了把被向和是一有从给对用个正到与上下里中地得为让将过来去]")


def is_machine_word(word: str) -> bool:
    """True for a file name, an identifier or a tokeniser's markup; punctuation around the word is ignored."""
    return MACHINE_WORD.fullmatch(word.strip(",.;:!?\"'()\uff0c\u3002")) is not None


def is_bare(item: str, lang: str) -> bool:
    """True for a tag: at most three words (four Han characters), none of which is typical of sentences."""
    words = language.tokens(item)
    if lang == "zh" and language.HAN.search(item):
        return len(words) <= 4 and not _SENTENCE_HAN.search(item)
    if len(words) > 3:
        return False
    return not any(w in _SENTENCE_WORDS or (w.endswith("ing") and len(w) > 4) for w in words)
