"""Budgets of requests. The cache keeps the sums that were spent, so a run that is killed and resumed goes on counting."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field, model_validator

from m2raap.core.config import Config, canonical
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.schema import Completion, Request

TOKENS_A_PICTURE = 2000  # an upper estimate, which counts until the server reports the real number


class BudgetConfig(Config):
    """What a stage may spend in all its runs; null: no limit. Cached answers cost nothing.

    A stage whose budget is spent stops unfinished, with exit code 3. The same command with a higher limit goes on: no answered
    request is sent again.
    """

    max_requests: int | None = Field(default=None, ge=0, description="Most requests; every try and repair counts.")
    max_tokens: int | None = Field(default=None, ge=0, description="Most tokens of prompts and answers together.")
    max_cost: float | None = Field(default=None, ge=0, description="Highest cost, in the currency of the prices.")
    price_in: float = Field(default=0.0, ge=0, description="Price of a million prompt tokens.")
    price_out: float = Field(default=0.0, ge=0, description="Price of a million answer tokens.")

    @model_validator(mode="after")
    def _priced(self) -> BudgetConfig:
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ValueError("max_cost needs price_in or price_out (of a million tokens); set at least one")
        return self

    @property
    def limits(self) -> tuple[float, float, float]:
        """Most requests, tokens and cost; infinity where there is no limit."""
        requests, tokens, cost = (
            math.inf if limit is None else float(limit) for limit in (self.max_requests, self.max_tokens, self.max_cost)
        )
        return requests, tokens, cost

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """Cost in the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


@dataclass(frozen=True)
class Budget:
    """`reserve` counts the most that a request can cost; `settle` corrects it to what it did cost."""

    cache: Cache
    scope: str
    cfg: BudgetConfig

    def reserve(self, request: Request) -> bool:
        """Counts the most that the request can cost. False: it could exceed the budget and must not be sent."""
        tokens_in = most_tokens_in(request)
        cost = self.cfg.cost(tokens_in, request.max_tokens)
        return self.cache.spend(self.scope, 1, tokens_in + request.max_tokens, cost, self.cfg.limits)

    def settle(self, request: Request, completion: Completion | None) -> None:
        """`completion` None: the request failed; it counts as a request without tokens. If the server does not report the tokens
        it used, the most that it can have used stays counted."""
        if completion and not (completion.tokens_in or completion.tokens_out):
            return
        held_in, held_out = most_tokens_in(request), request.max_tokens
        used_in, used_out = (completion.tokens_in, completion.tokens_out) if completion else (0, 0)
        cost = self.cfg.cost(used_in, used_out) - self.cfg.cost(held_in, held_out)
        self.cache.spend(self.scope, 0, used_in + used_out - held_in - held_out, cost)


def most_tokens_in(request: Request) -> int:
    """The most prompt tokens that a request can have: a text has at most one for each byte; pictures are estimated."""
    total = 64
    for message in request.body["messages"]:
        content = message["content"]
        for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            total += TOKENS_A_PICTURE if block["type"] != "text" else len(block["text"].encode()) + 16
    schema = request.body.get("response_format")
    return total + (len(canonical(schema)) if schema else 0)
