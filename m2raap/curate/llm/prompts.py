"""Prompt files. They are versioned and part of the package (curate/prompts); results name them by the digest of their bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from m2raap.core.errors import M2raapError
from m2raap.curate import language

# Every change of wording is a new file, so that the prompt of an old digest can still be read.
PROMPTS: dict[str, str] = {
    "rewrite": "rewrite-v1.md",  # from a caption and captions of key-frames to one caption in each language
    "from_frames": "from_frames-v1.md",  # the same from captions of key-frames alone
    "describe": "describe-v1.md",  # from one picture to one caption in each language
    "repair": "repair-v1.md",  # asks again where an answer had the wrong form
}
# Characters of role tags, markup and chat templates. Escaped they are the same JSON, and no tag.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>|[]`&#"}


@dataclass(frozen=True)
class Prompt:
    """A prompt and the digest of its file."""

    name: str
    text: str
    digest: str


@lru_cache(maxsize=16)
def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """A prompt of PROMPTS, or the user's file of that name in `folder`. Raises M2raapError if it is missing or no text."""
    file = PROMPTS[name]
    if folder is None:
        data = resources.files("m2raap").joinpath(f"curate/prompts/{file}").read_bytes()
    else:
        path = Path(folder) / file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise M2raapError(f"{path}: the prompt cannot be read ({error.strerror or error})") from None
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise M2raapError(f"{folder or 'package'}/{file}: the prompt is not UTF-8") from None
    if not text:
        raise M2raapError(f"{folder or 'package'}/{file}: the prompt is empty")
    return Prompt(name, text, hashlib.sha256(data).hexdigest()[:32])


def digests(names: tuple[str, ...], folder: str | None) -> dict[str, str]:
    """name -> digest, for the settings of a stage: with another prompt it gives another result."""
    return {name: load_prompt(name, folder).digest for name in names}


def as_data(payload: dict[str, Any]) -> str:
    """The payload as JSON on one line between <data> and </data>; its texts hold no tag, line break or invisible character."""
    plain = json.dumps(_plain(payload), ensure_ascii=False, separators=(", ", ": "))
    return f"<data>\n{_escape_strings(plain)}\n</data>"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return language.visible(value) if isinstance(value, str) else value


def _escape_strings(text: str) -> str:
    """Escapes the characters of _ESCAPED inside JSON strings only: outside, '[' begins an array."""
    out: list[str] = []
    inside = escaped = False
    for char in text:
        if inside and not escaped and ord(char) in _ESCAPED:
            out.append(_ESCAPED[ord(char)])
            continue
        if inside and char == "\\" and not escaped:
            escaped = True
        else:
            if char == '"' and not escaped:
                inside = not inside
            escaped = False
        out.append(char)
    return "".join(out)
