"""What a cell of a list may hold: nothing in many spellings, one text or a list of texts, a time, the name of a split.

Lists are saved by many tools, which write a missing value as nan, None or NULL, and a list as JSON, in Python's notation or as
numpy prints it.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from data_tools.strict_json import no_constant

# Spellings of nothing, in small letters, with the errors of spreadsheets: an id that begins with '-' becomes '#NAME?'.
# R's 'NA' is one, too; 'na' is a caption of MSVD.
NOTHING = frozenset(
    ["", "nan", "-nan", "none", "null", "nil", "undefined", "nat", "n/a", "n.a.", "#n/a", "#na", "<na>", "-", "--", "''",
     '""', "#name?", "#value!", "#ref!", "#num!", "#null!", "#div/0!", "[none]", "[null]", "[nan]", "['']", '[""]']
)  # fmt: skip
# The names of splits, in small letters, as Hugging Face reads those of files. Other names are refused: a test row must never
# become a training row.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
# Characters of a list: the longest videos have some hundreds of clips of a hundred characters each.
MAX_CELL = 2 * 1024**2
_LIST_STARTS = ("[", "(", "{", "array(", "np.str_(", "b'", 'b"')
MAX_DEPTH = 4  # of brackets; the lists have two levels
_EMPTY_LIST = re.compile(r"\[\s*\]|\(\s*\)|\{\s*\}")
_ARRAY = re.compile(r"array\((\[.*\])(?:, *dtype=\w+)?\)", re.DOTALL)
_ITEM = re.compile(
    r"""\s*(?:[uU]?(?P<text>[bB]?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"))|None|null|NaN|nan)(?:(?P<comma>\s*,)|(?=\s|$))""",
    re.DOTALL,
)
# How numpy 2 shows a text in a list.
_NUMPY = re.compile(r"""np\.str_\(('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\)""", re.DOTALL)
_FIRST_TEXT = re.compile(r"\[\s*[uUbB]?['\"]")
_BETWEEN_TEXTS = re.compile(r"',\s*'|\",\s*\"")
_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")
_CLOCK = re.compile(r"(?:([0-9]{1,4}):)?([0-9]{1,4}):([0-5][0-9](?:[.,][0-9]+)?)")


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, a blank text, a spelling of these (nan, NULL ...), or a list of None and such texts.

    0 and False are values.
    """
    if isinstance(value, str):
        text = value.strip()
        return len(text) < 10 and (text == "NA" or text.lower() in NOTHING or _EMPTY_LIST.fullmatch(text) is not None)
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        return all(item is None or (isinstance(item, str) and is_nothing(item)) for item in items)
    return value is None or value != value


def first_filled(row: dict[str, Any], names: tuple[str, ...]) -> tuple[str | None, Any]:
    """(name, value) of the first of these columns that is filled in this row; (None, None) if none is."""
    return next(((name, row[name]) for name in names if name in row and not is_nothing(row[name])), (None, None))


def texts_in(value: Any) -> list[str]:
    """The texts of a cell, empty ones included; a list written as text (JSON, Python, numpy) is several texts.

    "['a dog', 'a cat']" -> ['a dog', 'a cat']. Raises ValueError for anything that is neither a text nor a list of texts.
    """
    if isinstance(value, str):
        if (texts := _list_of_texts(value)) is None:
            _refuse_object(value)
            return [value]
        return texts or [""]
    if is_nothing(value):
        return []
    if isinstance(value, list | tuple) and all(isinstance(text, str) or is_nothing(text) for text in value):
        return [text if isinstance(text, str) else "" for text in value]
    raise ValueError("expected a text or a list of texts")


def _refuse_object(cell: str) -> None:
    """Raises ValueError for an object that is written as text, in JSON or Python: its keys would become words of a caption."""
    text = cell.strip()
    if not (text[:1] == "{" and text[-1:] == "}") or len(text) > MAX_CELL or _depth(text) > MAX_DEPTH:
        return
    try:
        tree = json.loads(text, strict=False)
    except (json.JSONDecodeError, RecursionError):
        try:
            tree = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return
    if isinstance(tree, dict) and tree:
        keys = ", ".join(repr(str(key)[:40]) for key in list(tree)[:3])
        raise ValueError(f"expected a text or a list of texts, found an object with the keys {keys}")


def _list_of_texts(cell: str) -> list[str] | None:
    """The texts of a list that is written as text; None for a text that is no such list."""
    text = cell.strip()
    if len(text) > MAX_CELL or not text.startswith(_LIST_STARTS):
        return None
    if match := _ARRAY.fullmatch(text):
        text = match[1]
    if "np.str_(" in text:
        text = _NUMPY.sub(r"\1", text)
    if text[0] in "bB'\"":
        return _literals(f"[{text}]") or None  # b'a dog', np.str_('a dog')
    if text[:1] == "[" and text[-1:] == "]":
        try:
            return texts_in(json.loads(text, strict=False, parse_constant=no_constant))
        except (json.JSONDecodeError, RecursionError):
            pass
    if texts := _literals(text):
        return texts
    if _is_broken_list(text):
        raise ValueError(
            "expected a text or a list of texts, found a list that is cut off or has a quote in a text without a backslash"
        )
    if text[:1] not in "[(" or text[-1:] not in "])":
        return None
    try:
        python_list(text)
    except ValueError:
        return None
    raise ValueError("expected a text or a list of texts, found a list of something else")


def _is_broken_list(text: str) -> bool:
    """Whether a text begins as a list of texts and is none: a quote in it has no backslash, or the cell was cut off."""
    if not _FIRST_TEXT.match(text):
        return False
    if "]" not in text:
        return _BETWEEN_TEXTS.search(text) is not None
    return text[-1] == "]" and text[:-1].rstrip(" \n,").endswith(("'", '"'))


def _literals(text: str) -> list[str] | None:
    """The texts between the brackets of a list, tuple or set in Python's notation or numpy's; None for anything else."""
    is_tuple = text[:1] == "("
    if (text[:1], text[-1:]) not in (("[", "]"), ("(", ")"), ("{", "}")):
        return None
    texts, position, inner = [], 0, text[1:-1].rstrip()
    commas = 0
    while match := _ITEM.match(inner, position):
        try:
            text_or_bytes = ast.literal_eval(match["text"]) if match["text"] else ""
            texts.append(text_or_bytes.decode() if isinstance(text_or_bytes, bytes) else text_or_bytes)
        except (ValueError, SyntaxError):  # also bytes that are no UTF-8
            return None
        position, commas = match.end(), commas + bool(match["comma"])
    if texts and position == len(inner):
        return texts if commas or not is_tuple else None  # ('a dog') is a text in brackets
    return None


def python_list(cell: Any) -> list[Any]:
    """The list that a cell holds in Python's notation. No call, name or operator is ever evaluated.

    Raises ValueError, which says why it is no such list.
    """
    if not isinstance(cell, str) or len(cell) > MAX_CELL:
        raise ValueError(f"expected a Python list of at most {MAX_CELL:,} characters")
    if _depth(cell) > MAX_DEPTH:
        raise ValueError(f"brackets in more than {MAX_DEPTH} levels")
    try:
        value = ast.literal_eval(cell)
        str(value)  # numbers of thousands of digits, which hexadecimal notation allows, raise a ValueError here
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a Python list ({type(error).__name__})") from None
    if not isinstance(value, list):
        raise ValueError(f"expected a list, found {type(value).__name__}")
    return value


def _depth(cell: str) -> int:
    """Levels of brackets outside of quotes; checked first, because deep nesting could overflow the parser's stack."""
    deepest = level = 0
    plain = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "", cell)
    for char in plain:
        level += (char in "([{") - (char in ")]}")
        deepest = max(deepest, level)
    return deepest


def clock_s(text: str) -> float | None:
    """Seconds of a clock time H:MM:SS, MM:SS, each perhaps with a fraction after '.' or ','; None for any other text.

    '1:00:02.5' -> 3602.5, '0:03' -> 3.0. Two parts are minutes and seconds, as players show them.
    """
    match = _CLOCK.fullmatch(text.strip().removeprefix("0 days "))  # as pandas writes a length of time
    if match is None or (match[1] and int(match[2]) > 59):
        return None
    return round(int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(match[3].replace(",", ".")), 6)


def split_of(value: Any) -> str | None:
    """train, val or test; None for an empty cell. Raises ValueError for a name of no split."""
    if is_nothing(value):
        return None
    split = SPLIT_NAMES.get(str(value).strip().lower())
    if split is None:
        raise ValueError(f"expected one of train, val, test, found '{str(value)[:40]}'")
    return split


def split_of_folder(parts: tuple[str, ...]) -> str | None:
    """The split that a path names, as a folder (`test`) or as a word of one (`val2017`, `test-1k`); None if it names none.

    Raises ValueError where it names two.
    """
    words = {word for part in parts for word in re.split(r"[^a-z]+", part.lower())}
    splits = sorted({SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES})
    if len(splits) > 1:
        raise ValueError(f"its path names the splits {' and '.join(splits)}; rename the folder")
    return splits[0] if splits else None


def sniff_lang(text: str) -> str:
    """A guess by the script: zh if more than a fifth of the letters are Han, else en. `filter` checks the language later."""
    if text.isascii():
        return "en"
    letters = sum(char.isalpha() for char in text)
    return "zh" if letters and len(_HAN.findall(text)) / letters > 0.2 else "en"
