"""Where an OpenAI-compatible server is, what is asked of it, and how patiently."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from m2raap.core.config import Config
from m2raap.curate.llm.budget import BudgetConfig
from m2raap.curate.llm.schema import AnswerFormat, response_format

MAX_NEW_TOKENS = 32_768
_HOW = (
    "base_url", "api_key_env", "allow_remote", "timeout_s", "attempts", "first_wait_s", "max_wait_s", "concurrency",
    "allow_errors",
)  # fmt: skip


class EndpointConfig(Config):
    """An OpenAI-compatible server (vLLM, llama.cpp, Ollama, SGLang, a provider) and how it is asked.

    Where it is and how patiently it is asked may change between two runs of one command; model, parameters and budget not.
    """

    base_url: str = Field(default="http://127.0.0.1:8000/v1", description="up to and with /v1")
    model: str = Field(min_length=1, description="the name that the server knows it by")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key; never the key")
    allow_remote: bool = Field(default=False, description="captions and frames may leave this machine")
    answer_format: AnswerFormat = Field(default="json_schema", description="'none' for servers that refuse the others")
    max_tokens: int = Field(default=256, ge=16, le=MAX_NEW_TOKENS)  # of one answer
    temperature: float = Field(default=0.0, ge=0, le=2)  # 0: the likeliest answer
    seed: int | None = 0  # sent to the server; null: none is sent
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="laid over the request body; null takes a key out. {chat_template_kwargs: {enable_thinking: false}}",
    )
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    timeout_s: float = Field(default=120.0, gt=0, description="of one request, from connecting to the last byte")
    attempts: int = Field(default=5, ge=1, description="tries of a request that meets 429, 5xx, a cut or a time-out")
    first_wait_s: float = Field(default=0.5, ge=0, description="before the second try; doubles from try to try")
    max_wait_s: float = Field(default=60.0, ge=0, description="also of what Retry-After asks for")
    concurrency: int = Field(default=8, ge=1, le=512, description="requests in flight, in each worker")
    allow_errors: float = Field(
        default=0.05, ge=0, le=1, description="share of a part's requests that may fail for good; more stop the run"
    )

    @field_validator("extra")
    @classmethod
    def _ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"model", "messages", "stream", "n"} & set(extra)):
            raise ValueError(f"'{taken[0]}' is not yours to set")
        return extra

    @model_validator(mode="after")
    def _safe(self) -> EndpointConfig:
        url = urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("base_url must be http://HOST[:PORT]/v1 or https://HOST/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("base_url must hold no user, password, query or fragment; name the key by api_key_env")
        if not is_local(url.hostname):
            if not self.allow_remote:
                raise ValueError(f"{url.hostname} is not this machine: set allow_remote: true if data may go there")
            if url.scheme == "http" and self.api_key_env:
                raise ValueError(f"a key must not travel to {url.hostname} in the clear: use https")
        return self

    def what(self) -> dict[str, Any]:
        """What decides answers: of the stage's digest."""
        return self.model_dump(mode="json", exclude=set(_HOW))

    def how(self) -> dict[str, Any]:
        return self.model_dump(mode="json", include=set(_HOW))

    @property
    def server(self) -> str:
        url = urlsplit(self.base_url)
        return f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"


def request_body(cfg: EndpointConfig, messages: list[dict[str, Any]], langs: Sequence[str]) -> dict[str, Any]:
    """The chat-completions body; `extra` lies over it."""
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
    """A loopback address or the name 'localhost'. No other name is looked up: it may mean another machine tomorrow."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
