"""Prompt files: versioned, in the package (curate/prompts), named by the digest of their bytes wherever they are used."""

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

# Every change of wording is a new file, so that the prompt behind an old digest can still be read.
PROMPTS: dict[str, str] = {
    "rewrite": "rewrite-v1.md",  # from a caption and captions of key-frames to one caption in each language
    "from_frames": "from_frames-v1.md",  # the same from captions of key-frames alone
    "describe": "describe-v1.md",  # from one picture to one caption in each language
    "repair": "repair-v1.md",  # asks again where an answer had the wrong form
}
# Characters that role tags, markup and chat templates are made of. Escaped, they are the same JSON and no tag.
_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>|[]`&#"}


@dataclass(frozen=True)
class Prompt:
    """A prompt and the digest of its file."""

    name: str
    text: str
    digest: str


@lru_cache(maxsize=16)
def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """A prompt of PROMPTS; with `folder`, the user's own file of that name there. Raises M2raapError if it is missing."""
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
    """name -> digest, for the settings of a stage: another prompt is another result."""
    return {name: load_prompt(name, folder).digest for name in names}


def as_data(payload: dict[str, Any]) -> str:
    """The payload as delimited JSON on one line: no visible tag, no line break, no invisible character of a stranger's."""
    plain = json.dumps(_plain(payload), ensure_ascii=False, separators=(", ", ": "))
    return f"<data>\n{_escape_strings(plain)}\n</data>"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return language.visible(value) if isinstance(value, str) else value


def _escape_strings(text: str) -> str:
    """Escapes _ESCAPED inside JSON strings only: outside, '[' is an array."""
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
