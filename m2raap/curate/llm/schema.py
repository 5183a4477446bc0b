"""Requests and answers. A request is a chat-completions body; an answer is one caption for each language.

Every request has one outcome: ok, truncated (cut at max_tokens, or endless), refused (the model declined), error (no answer,
or none of the requested form), skipped (the budget was spent).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, create_model

from m2raap.core.config import digest

Outcome = Literal["ok", "truncated", "refused", "error", "skipped"]
AnswerFormat = Literal["json_schema", "json_object", "none"]
MAX_CAPTION_CHARS = 1000
TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")  # keys of a request's body that limit its answer

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n\s*```\s*$", re.DOTALL)
# A decoder in a loop ends in a run of white space, or in 16 repetitions of the same text of up to 40 characters.
_BLANK_RUN, _REPEATS, _MAX_PERIOD = 64, 16, 40
_DECLINED = re.compile(
    r"^\W{0,3}(?:i['’]?m (?:very |so )?sorry|i (?:can(?:no|['’])t|am unable|won['’]t|must decline)|sorry\b|unfortunately,? i"
    r"|as an ai\b|抱歉|很抱歉|对不起|我(?:无法|不能)|作为(?:一个|一名)?(?:ai|人工智能|语言模型))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Request:
    """One chat completion. `body`: what the server gets. `prompt`: digest of the prompt file. `langs`: keys of the answer."""

    body: dict[str, Any]
    prompt: str
    langs: tuple[str, ...]
    clip_id: str

    @cached_property
    def key(self) -> str:
        """Digest of model, prompt, payload and parameters alone: requests with equal keys are equal."""
        return digest({"prompt": self.prompt, "body": self.body})

    @property
    def max_tokens(self) -> int:
        """Most tokens of the answer; 0 if the body sets none."""
        return max(self.body.get(key) or 0 for key in TOKEN_LIMITS)


@dataclass(frozen=True)
class Completion:
    """A model's completion. `finish`: stop, length, content_filter, endless or invalid. `server`: host:port, 'batch', or '' for
    a model in this process. An invalid completion has no content, and its `refusal` says what was wrong with it."""

    content: str
    finish: str = "stop"
    refusal: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    server: str = ""


def invalid(reason: str, server: str) -> Completion:
    """In place of a completion that cannot be stored. It is an answer, so that the request is not sent again and again."""
    return Completion("", "invalid", reason, server=server)


def well_formed(text: str) -> str:
    """The text with U+FFFD in place of every single surrogate, which JSON can hold and neither UTF-8 nor a table can."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@dataclass(frozen=True)
class Answer:
    """`captions`: language -> caption if the outcome is ok. `server`: where the payload was sent; '': nowhere."""

    outcome: Outcome
    captions: dict[str, str] | None = None
    detail: str = ""
    server: str = ""


class Malformed(Exception):
    """The answer does not have the requested form. The message says why; the repair request holds it."""


@lru_cache(maxsize=8)
def answer_model(langs: tuple[str, ...]) -> type[BaseModel]:
    """The form of an answer, {lang: caption}: every language, no other key, no empty text."""
    caption = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CAPTION_CHARS, strip_whitespace=True)]
    fields: dict[str, Any] = {lang: (caption, ...) for lang in langs}
    return create_model("Captions", __config__=ConfigDict(extra="forbid", strict=True), **fields)


def response_format(langs: Sequence[str], kind: AnswerFormat) -> dict[str, Any] | None:
    """The `response_format` of a request. Its schema uses only what every guided decoder supports."""
    if kind == "none":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    properties = {lang: {"type": "string"} for lang in langs}
    schema = {"type": "object", "properties": properties, "required": list(langs), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "captions", "strict": True, "schema": schema}}


def read_answer(completion: Completion, langs: tuple[str, ...]) -> Answer:
    """The completion as an answer. Raises Malformed if a repair request may help."""
    server = completion.server
    if completion.finish == "invalid":
        return Answer("error", None, completion.refusal or "", server)
    if completion.refusal or completion.finish == "content_filter":
        return Answer("refused", None, (completion.refusal or "content filter")[:200], server)
    text = _THOUGHT.sub("", completion.content)
    try:
        captions = answer_model(langs).model_validate(_json_object(text)).model_dump()
        if broken := [lang for lang in langs if "\ufffd" in captions[lang]]:
            raise Malformed(f"{broken[0]}: holds a character that is cut off or of a wrong encoding")
        return Answer("ok", {lang: captions[lang] for lang in langs}, "", server)
    except Malformed as error:
        fault = str(error)
    except ValidationError as error:
        fault = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:4])
    if is_endless(text):
        return Answer("truncated", None, "endless white space or repetition", server)
    if completion.finish in ("length", "endless"):
        return Answer("truncated", None, f"cut after {completion.tokens_out} tokens", server)
    if _DECLINED.match(text):
        return Answer("refused", None, " ".join(text.split())[:200], server)
    raise Malformed(well_formed(fault))


def is_endless(text: str) -> bool:
    """Whether a decoder is in a loop: `text` ends with a long run of white space, or repeats a few characters."""
    tail = text[-1200:].rstrip("\\")  # a backslash at the end is half an escape
    plain = tail.rstrip()
    if len(tail) - len(plain) >= _BLANK_RUN:
        return True
    periods = range(1, min(_MAX_PERIOD, len(plain) // _REPEATS) + 1)
    return len(plain) >= 160 and any(plain.endswith(plain[-period:] * _REPEATS) for period in periods)


def _json_object(text: str) -> Any:
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise Malformed("no JSON object in it")
    try:
        return json.loads(text[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {str(error)[:120]}") from None
