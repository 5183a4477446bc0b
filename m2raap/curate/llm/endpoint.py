"""The settings of an OpenAI-compatible server: its address, the contents of requests, their tries and time-outs."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from m2raap.core.config import HOW, Config
from m2raap.curate.llm.budget import BudgetConfig
from m2raap.curate.llm.schema import TOKEN_LIMITS, AnswerFormat, response_format

MAX_NEW_TOKENS = 32_768


class EndpointConfig(Config):
    """An OpenAI-compatible server (vLLM, llama.cpp, Ollama, SGLang, a provider) and the requests to it.

    Address, tries and time-outs may change between two runs of one command; so may the budget. Model and
    parameters may not.
    """

    base_url: str = Field(
        default="http://127.0.0.1:8000/v1",
        description="Address of the server, up to and including /v1.",
        json_schema_extra=HOW,
    )
    model: str = Field(min_length=1, description="Name by which the server knows the model.")
    api_key_env: str | None = Field(
        default=None,
        description="Name of the environment variable that holds the key; never the key itself.",
        json_schema_extra=HOW,
    )
    allow_remote: bool = Field(
        default=False, description="Whether captions and frames may leave this machine.", json_schema_extra=HOW
    )
    answer_format: AnswerFormat = Field(
        default="json_schema",
        description="How the server is made to keep the form of the answer; none: only the prompt asks for it.",
    )
    max_tokens: int = Field(
        default=256, ge=16, le=MAX_NEW_TOKENS, description="Most tokens of one answer; a longer one is cut off."
    )
    temperature: float = Field(
        default=0.0, ge=0, le=2, description="Sampling temperature; 0: always the likeliest token."
    )
    seed: int | None = Field(default=0, description="Seed that is sent to the server; null: none is sent.")
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys that are added to the request body or replace its own, for example {chat_template_kwargs: "
        "{enable_thinking: false}}; null removes a key.",
    )
    budget: BudgetConfig = Field(
        default_factory=BudgetConfig, description="What the stage may spend in all its runs.", json_schema_extra=HOW
    )
    timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds that one request may take, from connecting to the last byte.",
        json_schema_extra=HOW,
    )
    attempts: int = Field(
        default=5,
        ge=1,
        description="Tries of a request that meets status 429 or 5xx, a broken connection or a time-out.",
        json_schema_extra=HOW,
    )
    first_wait_s: float = Field(
        default=0.5,
        ge=0,
        description="Seconds before the second try of a request; they double from try to try.",
        json_schema_extra=HOW,
    )
    max_wait_s: float = Field(
        default=60.0,
        ge=0,
        description="Most seconds between two tries, even if the server's Retry-After asks for more.",
        json_schema_extra=HOW,
    )
    concurrency: int = Field(
        default=8, ge=1, le=512, description="Requests in flight at once, in each worker.", json_schema_extra=HOW
    )
    allow_errors: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the requests of a part that may fail in all their tries; more failures stop the run.",
        json_schema_extra=HOW,
    )

    @field_validator("extra")
    @classmethod
    def _free_keys(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted({"model", "messages", "stream", "n"} & set(extra)):
            raise ValueError(f"'{reserved[0]}' is set by the package and cannot be replaced; remove it from extra")
        for key in TOKEN_LIMITS:
            value = extra.get(key)
            if value is not None and (type(value) is not int or not 1 <= value <= MAX_NEW_TOKENS):
                raise ValueError(
                    f"{key}: expected a whole number from 1 to {MAX_NEW_TOKENS:,}, or null (found {value!r:.40})"
                )
        try:
            json.dumps(extra, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"cannot be sent as JSON ({str(error)[:100]})") from None
        return extra

    @model_validator(mode="after")
    def _safe(self) -> EndpointConfig:
        url = urlsplit(self.base_url)
        _ = url.port  # raises ValueError where it is none
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must be http://HOST[:PORT]/v1 or https://HOST/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url must hold no user, password, query or fragment; give the key by api_key_env")
        if not is_local(url.hostname):
            if not self.allow_remote:
                raise ValueError(f"{url.hostname} is not this machine: set allow_remote: true if data may go there")
            if url.scheme == "http" and self.api_key_env:
                raise ValueError(f"the key must not be sent to {url.hostname} without encryption: use https")
        budget = self.budget.max_tokens is not None or self.budget.max_cost is not None
        if budget and not any((vars(self) | self.extra).get(key) for key in TOKEN_LIMITS):
            raise ValueError(
                "a budget of tokens or cost needs a limit for one answer: max_tokens or max_completion_tokens"
            )
        return self

    @property
    def server(self) -> str:
        """host:port of the address."""
        url = urlsplit(self.base_url)
        return f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"


def request_body(cfg: EndpointConfig, messages: list[dict[str, Any]], langs: Sequence[str]) -> dict[str, Any]:
    """The body of a chat-completions request; the keys of `extra` are added or replace its own."""
    body = {
        "model": cfg.model,
        "messages": messages,
        "max_tokens": cfg.max_tokens,
        "temperature": cfg.temperature,
        "seed": cfg.seed,
        "response_format": response_format(langs, cfg.answer_format),
    }
    return {key: value for key, value in (body | cfg.extra).items() if value is not None}


def is_local(host: str) -> bool:
    """Whether a host is a loopback address or 'localhost'. No other name is resolved, because its address may change."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
