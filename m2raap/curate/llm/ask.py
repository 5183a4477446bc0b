"""Answers to requests, from the cache or from the model; an answer of a wrong form is requested once more (the repair)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from m2raap.curate.llm.budget import Budget
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.prompts import Prompt, as_data
from m2raap.curate.llm.schema import Answer, Malformed, Request, read_answer

BUDGET_SPENT = "budget spent"  # the detail of an answer that was `skipped` because of the budget
_MAX_ECHO_CHARS = 1000  # characters of a bad answer that the repair request holds


class Backend(Protocol):
    """Puts the completions of requests (all different) into the cache. `server`: where payloads are sent; '': nowhere."""

    server: str

    def run(self, requests: list[Request], cache: Cache, budget: Budget) -> dict[str, str]:
        """key of each request that failed -> why; '' if the budget was spent."""
        ...


def ask(requests: Sequence[Request], backend: Backend, cache: Cache, budget: Budget, repair: Prompt) -> list[Answer]:
    """One answer for each request, in order. Equal requests are sent once. Raises what the backend raises."""
    failed: dict[str, str] = {}
    num_missing = len(missing := pending(requests, cache, repair))
    for _ in range(2):  # the requests, then their repairs
        if missing:
            failed |= backend.run(missing, cache, budget)
        missing = [request for request in pending(requests, cache, repair) if request.key not in failed]
    answers = {request.key: _answer(request, backend, cache, repair, failed) for request in requests}
    num_open = sum(is_open(answer.outcome, answer.detail) for answer in answers.values())
    cache.add_to_tally(budget.scope, num_missing - num_open, len(answers) - num_missing)
    return [answers[request.key] for request in requests]


def is_open(outcome: str | None, detail: str | None) -> bool:
    """Whether a request has no answer because the budget was spent."""
    return (outcome, detail) == ("skipped", BUDGET_SPENT)


def pending(requests: Sequence[Request], cache: Cache, repair: Prompt) -> list[Request]:
    """The requests that still have to be sent: those without a completion, and repairs of completions of a wrong form."""
    waiting: dict[str, Request] = {}
    for request in requests:
        question = request
        completion = cache.get(question)
        if completion is not None:
            try:
                read_answer(completion, question.langs)
                continue
            except Malformed as fault:
                question = repaired(request, completion.content, str(fault), repair)
            if cache.get(question) is not None:
                continue
        waiting.setdefault(question.key, question)
    return list(waiting.values())


def repaired(request: Request, content: str, fault: str, repair: Prompt) -> Request:
    """The request that shows the model its answer and says what was wrong with it (`fault`)."""
    messages = [
        *request.body["messages"],
        {"role": "assistant", "content": content[:_MAX_ECHO_CHARS] or "{}"},
        {"role": "user", "content": f"{repair.text}\n{as_data({'fault': fault})}"},
    ]
    return replace(request, body=request.body | {"messages": messages}, prompt=f"{request.prompt}+{repair.digest}")


def _answer(request: Request, backend: Backend, cache: Cache, repair: Prompt, failed: dict[str, str]) -> Answer:
    question = request
    for last in (False, True):
        completion = cache.get(question)
        if completion is None:
            detail = failed[question.key]
            return Answer("error", None, detail, backend.server) if detail else Answer("skipped", None, BUDGET_SPENT)
        try:
            return read_answer(completion, question.langs)
        except Malformed as fault:
            if last:
                return Answer("error", None, f"not of the asked form, twice: {fault}", completion.server)
            question = repaired(request, completion.content, str(fault), repair)
    raise AssertionError("unreachable")
