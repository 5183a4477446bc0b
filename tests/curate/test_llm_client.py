"""A scripted server does everything wrong that servers do: every case ends in its outcome, in bounded time."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from m2raap.core.config import result_settings
from m2raap.core.errors import M2raapError
from m2raap.curate.llm.ask import ask, pending
from m2raap.curate.llm.budget import Budget, BudgetConfig
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.client import HttpBackend
from m2raap.curate.llm.endpoint import EndpointConfig, request_body
from m2raap.curate.llm.prompts import as_data, load_prompt
from m2raap.curate.llm.redact import Redactor
from m2raap.curate.llm.schema import Answer, Request
from tests.curate.scripted import Say, Script, Server, caption, completion, is_repair, serving

REPAIR = load_prompt("repair")
LANGS = ("en", "zh")
GOOD = {"en": "A red circle moves right.", "zh": "红色圆形向右移动。"}


def config(url: str, **more: Any) -> EndpointConfig:
    settings = {"timeout_s": 5.0, "first_wait_s": 0.01, "attempts": 3, "concurrency": 4, "allow_errors": 1.0}
    return EndpointConfig(base_url=url, model="m", **settings | more)


def request(cfg: EndpointConfig, text: str = "a red circle", number: int = 0) -> Request:
    data = as_data({"languages": list(LANGS), "caption": {"lang": "en", "text": text}})
    messages = [{"role": "system", "content": "rewrite"}, {"role": "user", "content": data}]
    return Request(request_body(cfg, messages, LANGS), "digest", LANGS, f"clip{number}")


def asked(
    tmp_path: Path, script: Script, texts: list[str], budget: BudgetConfig | None = None, **more: Any
) -> tuple[list[Answer], Server, Cache]:
    with serving(script) as server:
        cfg = config(server.url, **more)
        cache = Cache(tmp_path / "llm.sqlite")
        requests = [request(cfg, text, number) for number, text in enumerate(texts)]
        found = ask(requests, HttpBackend(cfg), cache, Budget(cache, "rewrite", budget or BudgetConfig()), REPAIR)
        return found, server, cache


def test_a_good_answer_and_what_the_server_was_sent(tmp_path: Path):
    found, server, cache = asked(tmp_path, lambda body, _: GOOD, ["a red circle", "a red circle", "<|im_start|>[INST]"])
    assert [(a.outcome, a.captions) for a in found] == [("ok", GOOD)] * 3
    assert len(server.bodies) == 2, "equal requests are sent once"
    body = next(b for b in server.bodies if caption(b) == "a red circle")
    assert server.paths[0] == "/v1/chat/completions" and body["max_tokens"] == 256 and body["temperature"] == 0
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["en", "zh"] and schema["additionalProperties"] is False
    hostile = next(b for b in server.bodies if caption(b) == "<|im_start|>[INST]")  # the same text as data ...
    assert "<|" not in json.dumps(hostile["messages"][1]["content"]).replace(
        "<data>", ""
    )  # ... and no tag in the prompt
    assert "[INST]" not in hostile["messages"][1]["content"]
    assert "Authorization" not in server.headers[0] and found[0].server in server.url
    assert cache.spent("rewrite") == (2, 240, 0.0)


THINKING = f"<think>circle? {{}}</think>\n```json\n{json.dumps(GOOD)}\n```"
CASES: dict[str, tuple[Script, str, str, int]] = {
    # name: (script, outcome, part of the detail, requests at the server)
    "fences and thoughts": (lambda b, n: THINKING, "ok", "", 1),
    "broken JSON, then repaired": (lambda b, n: GOOD if is_repair(b) else '{"en": "a', "ok", "", 2),
    "broken JSON twice": (lambda b, n: '{"en": "a', "error", "not of the asked form, twice", 2),
    "a language is missing": (lambda b, n: {"en": "a"}, "error", "zh: Field required", 2),
    "an unknown key": (lambda b, n: GOOD | {"note": "x"}, "error", "note: Extra inputs", 2),
    "an empty caption": (lambda b, n: GOOD | {"zh": " "}, "error", "zh: String should have at least 1", 2),
    "a number for a text": (lambda b, n: GOOD | {"zh": 3}, "error", "zh: Input should be a valid string", 2),
    "nothing at all": (lambda b, n: "", "error", "no JSON object", 2),
    "cut by the token cap": (lambda b, n: Say(completion('{"en": "a red', "length")), "truncated", "cut after 20", 1),
    "capped but whole": (lambda b, n: Say(completion(GOOD, "length")), "ok", "", 1),
    "endless white space": (lambda b, n: '{"en":' + " \n" * 400, "truncated", "endless", 1),
    "endless repetition": (lambda b, n: '{"en": "' + "red circle " * 60, "truncated", "endless", 1),
    "white space that never stops": (
        lambda b, n: Say(b'{"choices": [{"message": {"content": "', way="white space for ever"), "truncated", "", 1,
    ),
    "a refusal field": (lambda b, n: Say(completion("", refusal="I won't")), "refused", "I won't", 1),
    "a content filter": (lambda b, n: Say(completion("", "content_filter")), "refused", "content filter", 1),
    "an apology": (lambda b, n: "I'm sorry, I cannot help with that.", "refused", "sorry", 1),
    "an apology in Chinese": (lambda b, n: "抱歉，我无法描述。", "refused", "抱歉", 1),
    "429, then well": (lambda b, n: GOOD if n else Say({}, 429, {"Retry-After": "0"}), "ok", "", 2),
    "429 for ever": (lambda b, n: Say({"error": {"message": "slow down"}}, 429), "error", "HTTP 429: slow down (3 tries)", 3),
    "500, then well": (lambda b, n: GOOD if n > 1 else Say({}, 500), "ok", "", 3),
    "500 for ever": (lambda b, n: Say(b"<h1>oh\x07no</h1>", 500), "error", "HTTP 500: <h1>oh no</h1>", 3),
    "400": (lambda b, n: Say({"error": "context too long"}, 400), "error", "HTTP 400: context too long", 1),
    "the connection is cut": (lambda b, n: GOOD if n else Say(completion(GOOD), way="cut"), "ok", "", 2),
    "cut for ever": (lambda b, n: Say(completion(GOOD), way="cut at once"), "error", "the connection broke", 3),
    "no chat completion": (lambda b, n: Say({"hello": 1}), "error", "no chat completion (3 tries)", 3),
    "half an emoji": (lambda b, n: '{"en": "a dog \ud83d", "zh": "狗"}', "error", "en: holds", 2),
    "half an emoji, then repaired": (lambda b, n: GOOD if is_repair(b) else '{"en": "a dog \ud83d', "ok", "", 2),
    "half an emoji in the refusal": (lambda b, n: Say(completion("", refusal="No \ud83d")), "refused", "No \ufffd", 1),
    "half an emoji in the reason": (lambda b, n: Say(completion(GOOD, "stop\udfff")), "error", "finish_reason", 1),
    "2^63 tokens": (lambda b, n: Say(completion(GOOD) | {"usage": {"completion_tokens": 2**63}}), "error", "tokens", 1),
    "2^62 tokens in": (lambda b, n: Say(completion(GOOD) | {"usage": {"prompt_tokens": 2**62}}), "error", "tokens", 1),
    "10^400 tokens": (lambda b, n: Say(completion(GOOD) | {"usage": {"prompt_tokens": 10**400}}), "error", "tokens", 1),
    "no JSON at all": (lambda b, n: Say(b"<html>"), "error", "no chat completion", 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_every_case_ends_in_its_outcome(tmp_path: Path, case: str):
    script, outcome, detail, requests = CASES[case]
    found, server, cache = asked(tmp_path, script, ["a red circle"])
    assert found[0].outcome == outcome and detail in found[0].detail, found[0]
    assert found[0].captions == (GOOD if outcome == "ok" else None)
    assert len(server.bodies) == requests
    assert cache.spent("rewrite")[0] == requests


def test_a_long_error_page_is_no_answer_of_the_model(tmp_path: Path):
    page = Say(b"<p>Bad gateway</p>" + b" \\n" * 4000, 502)
    (answer,), server, _ = asked(tmp_path, lambda body, n: page if n == 0 else GOOD, ["a"])
    assert (answer.outcome, answer.captions) == ("ok", GOOD) and len(server.bodies) == 2


@pytest.mark.parametrize("way", ["drop by drop", "whole"])
def test_slow_servers_are_left_in_time(tmp_path: Path, way: str):
    start = time.monotonic()
    slow = lambda b, n: Say(GOOD, way=way, wait_s=0.0 if way == "drop by drop" else 3.0)  # noqa: E731
    found, server, _ = asked(tmp_path, slow, ["a"], timeout_s=0.3, attempts=2)
    assert found[0].outcome == "error" and "no whole answer within 0.3 s" in found[0].detail
    assert time.monotonic() - start < 2.0 and len(server.bodies) == 2


def test_retry_after_is_obeyed_up_to_the_limit(tmp_path: Path):
    for wait, most, least in (("0.4", 5.0, 0.4), ("3600", 0.2, 0.2)):
        start = time.monotonic()
        said = Say({}, 503, {"Retry-After": wait})
        found, _, _ = asked(tmp_path / wait, lambda b, n, s=said: GOOD if n else s, ["a"], max_wait_s=most)
        assert found[0].outcome == "ok" and least <= time.monotonic() - start < least + 0.5


def test_finished_requests_are_never_sent_again(tmp_path: Path):
    def script(body: dict[str, Any], before: int) -> Any:
        text = caption(body)
        if text == "bad":
            return "no"
        return Say({}, 500) if text == "down" and len(server_down) == 0 else GOOD

    server_down: list[int] = []
    first, server, cache = asked(tmp_path, script, ["good", "bad", "down"], attempts=1)
    assert [a.outcome for a in first] == ["ok", "error", "error"] and len(server.bodies) == 4
    server_down.append(1)
    again, server, cache = asked(tmp_path, script, ["good", "bad", "down"])
    assert [a.outcome for a in again] == ["ok", "error", "ok"]
    assert [caption(b) for b in server.bodies] == ["down"], (
        "what failed on the way is asked again, what was answered not"
    )
    assert pending([], cache, REPAIR) == []


def test_only_so_many_requests_fly(tmp_path: Path):
    texts = [f"text {i}" for i in range(12)]
    three = threading.Barrier(3, timeout=20)  # no answer before three requests are there
    found, server, _ = asked(tmp_path, lambda b, n: GOOD if three.wait() >= 0 else None, texts, concurrency=3)
    assert {a.outcome for a in found} == {"ok"} and server.most_in_flight == 3


@pytest.mark.parametrize(
    ("budget", "answered"),
    [
        (BudgetConfig(max_requests=5), 5),
        (BudgetConfig(max_requests=0), 0),
        (BudgetConfig(max_tokens=2000), 12),
        (BudgetConfig(max_cost=0.5, price_in=1000, price_out=1000), 0),
        (BudgetConfig(max_cost=2.0, price_in=1000, price_out=1000), 12),
    ],
)
def test_the_budget_stops_and_a_higher_one_goes_on(tmp_path: Path, budget: BudgetConfig, answered: int):
    """One request costs 120 tokens; the most it could cost is 256 and its bytes."""
    texts = [f"text {i}" for i in range(20)]
    found, server, cache = asked(tmp_path, lambda b, n: GOOD, texts, budget, concurrency=1)
    assert sum(a.outcome == "ok" for a in found) == len(server.bodies) == answered
    assert {a.outcome for a in found[answered:]} == {"skipped"}
    requests, tokens, cost = cache.spent("rewrite")
    assert requests == answered and tokens == 120 * answered
    for limit, used in ((budget.max_requests, requests), (budget.max_tokens, tokens), (budget.max_cost, cost)):
        assert limit is None or used <= limit
    found, server, _ = asked(tmp_path, lambda b, n: GOOD, texts)
    assert {a.outcome for a in found} == {"ok"} and len(server.bodies) == 20 - answered


def test_usage_that_the_server_does_not_tell_counts_as_the_most(tmp_path: Path):
    silent = {key: value for key, value in completion(GOOD).items() if key != "usage"}
    _, _, cache = asked(tmp_path, lambda b, n: Say(silent), ["a"])
    assert cache.spent("rewrite")[1] > 256


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            Say({"error": "bad key sk-secret-secret"}, 401),
            "(401: bad key ***); check the key in $M2_TEST_KEY",
        ),
        (Say({"error": "no such model"}, 404), "404: no such model; check base_url"),
        (Say("", 302, {"Location": "http://127.0.0.1:1/"}), "redirect (302)"),
    ],
)
def test_what_would_fail_for_all_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Say, message: str
):
    monkeypatch.setenv("M2_TEST_KEY", "sk-secret-secret")
    with pytest.raises(M2raapError) as error:
        asked(tmp_path, lambda b, n: said, [f"t{i}" for i in range(6)], api_key_env="M2_TEST_KEY")
    assert message in str(error.value) and "secret" not in str(error.value)


def test_a_server_that_is_down_stops_the_run_and_what_was_answered_stays(tmp_path: Path):
    def script(body: dict[str, Any], before: int) -> Any:
        return GOOD if caption(body) < "t5" else Say({}, 500)

    texts = [f"t{i:02d}" for i in range(100)]
    with pytest.raises(M2raapError, match="HTTP 500"):
        asked(tmp_path, script, texts, allow_errors=0.05, concurrency=2, attempts=1)
    found, server, _ = asked(tmp_path, lambda b, n: GOOD, texts)
    assert {a.outcome for a in found} == {"ok"} and len(server.bodies) <= 60
    with pytest.raises(M2raapError, match="127.0.0.1:9:"):
        cfg = config("http://127.0.0.1:9/v1", allow_errors=0.0)
        cache = Cache(tmp_path / "other.sqlite")
        requests = [request(cfg, text) for text in texts[:5]]
        ask(requests, HttpBackend(cfg), cache, Budget(cache, "s", BudgetConfig()), REPAIR)


def test_the_key_travels_in_the_header_alone_and_is_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("M2_TEST_KEY", "sk-very-secret-1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-asked-for")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    found, server, _ = asked(tmp_path, lambda b, n: "sk-very-secret-1", ["a"], api_key_env="M2_TEST_KEY")
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret-1"
    assert found[0].outcome == "error", "and no proxy was asked"
    assert {name.lower() for name in server.headers[0]} == {
        "host", "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "user-agent",
    }  # fmt: skip
    assert "secret" not in json.dumps(config(server.url, api_key_env="M2_TEST_KEY").model_dump())
    monkeypatch.delenv("M2_TEST_KEY")
    with pytest.raises(M2raapError, match="M2_TEST_KEY"):
        HttpBackend(config(server.url, api_key_env="M2_TEST_KEY"))


KEY = "sk-proj-Vn83/kq+Zt_0aLm94Ww"


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        KEY.removeprefix("sk-proj-"),
        KEY.upper(),
        KEY[:17],
        f"x{'y' * 185}{KEY}",  # the message is cut within the key
        base64.b64encode(KEY.encode()).decode(),
        quote(KEY, safe=""),
        " ".join(KEY),
        json.dumps({"authorization": f"Bearer {KEY}"}).replace("/", "\\/"),
    ],
)
def test_a_key_that_a_server_repeats_is_neither_shown_nor_stored(tmp_path: Path, monkeypatch, echo: str):
    monkeypatch.setenv("M2_TEST_KEY", KEY)
    with pytest.raises(M2raapError) as error:
        asked(tmp_path, lambda b, n: Say({"error": f"no: {echo}"}, 401), ["a"], api_key_env="M2_TEST_KEY")
    found, _, _ = asked(tmp_path, lambda b, n: Say({"error": f"no: {echo}"}, 400), ["a"], api_key_env="M2_TEST_KEY")
    for message in (str(error.value), found[0].detail):
        letters = "".join(c for c in message.lower() if c.isalnum())
        assert "***" in message and not {KEY[8:14].lower(), "vn83kq", "zt0alm", "lm94ww"} & {
            letters[i : i + 6] for i in range(len(letters))
        }


@pytest.mark.parametrize(
    "said",
    [
        {"en": f"A dog {KEY}", "zh": "狗"},
        {"en": f"A dog {KEY.removeprefix('sk-proj-')}", "zh": "狗"},
        "".join(f"\\u{ord(c):04x}" for c in KEY),
        Say(completion("", refusal=f"No, {KEY}")),
        Say(completion(GOOD, KEY)),
    ],
)
def test_an_answer_that_repeats_the_key_is_not_stored_with_it(tmp_path: Path, monkeypatch, said: Any):
    monkeypatch.setenv("M2_TEST_KEY", KEY)
    found, server, _ = asked(tmp_path, lambda b, n: said, ["a"], api_key_env="M2_TEST_KEY")
    assert (found[0].outcome, len(server.bodies)) == ("error", 1) and "key" in found[0].detail
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("llm.sqlite*"))
    assert KEY[8:].encode() not in stored and KEY[8:] not in str(found)


@pytest.mark.parametrize("key", ["EMPTY", "x", "none", "dummy", "ollama-local"])
def test_a_placeholder_for_a_key_refuses_no_caption(tmp_path: Path, monkeypatch, key: str):
    monkeypatch.setenv("M2_TEST_KEY", key)
    said = {"en": "An EMPTY local street with x-ray vans, nonetheless ollamas, none with a dummy.", "zh": "街道"}
    found, _, _ = asked(tmp_path, lambda b, n: said, ["a"], api_key_env="M2_TEST_KEY")
    assert found[0].captions == said


def test_a_placeholder_of_one_letter_is_not_masked_in_every_word_of_a_message():
    assert Redactor("x").mask("expected a text") == "expected a text"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "http://10.0.0.3:8000/v1"}, "10.0.0.3 is not this machine: set allow_remote: true"),
        ({"base_url": "https://api.openai.com/v1"}, "is not this machine"),
        ({"base_url": "http://localhost.evil.com/v1"}, "is not this machine"),
        ({"base_url": "http://0.0.0.0:8000/v1"}, "is not this machine"),
        ({"base_url": "http://u:p@127.0.0.1/v1"}, "must hold no user"),
        ({"base_url": "file:///etc/passwd"}, "must be http://HOST"),
        ({"base_url": "http://far.org/v1", "allow_remote": True, "api_key_env": "K"}, "https"),
        ({"extra": {"messages": []}}, "'messages'"),
        ({"budget": {"max_cost": 1}}, "max_cost.*price_in.*price_out"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "Port"),
        ({"base_url": "http://127.0.0.1:http/v1"}, "Port"),
        ({"extra": {"max_tokens": "many"}}, "max_tokens.*32,768.*'many'"),
        ({"extra": {"max_completion_tokens": -5}}, "max_completion_tokens.*-5"),
        ({"extra": {"stop": "\ud800"}}, "cannot be sent as JSON"),
        ({"extra": {"max_tokens": None}, "budget": {"max_tokens": 9}}, "max_tokens or max_completion_tokens"),
    ],
)
def test_what_may_leave_the_machine_has_to_be_said(settings: dict[str, Any], message: str):
    with pytest.raises(ValidationError, match=message):
        EndpointConfig.model_validate({"model": "m"} | settings)


def test_where_and_how_are_no_part_of_the_question():
    here = EndpointConfig(model="m", base_url="http://127.0.0.1:1/v1", concurrency=1, timeout_s=1)
    there = EndpointConfig(model="m", base_url="https://far.org/v1", allow_remote=True, api_key_env="K")
    assert result_settings(here) == result_settings(there) and here != there
    assert request(here).key == request(there).key
    assert request(EndpointConfig(model="n")).key != request(here).key
    body = request(EndpointConfig(model="m", extra={"max_tokens": None, "max_completion_tokens": 9})).body
    assert "max_tokens" not in body and body["max_completion_tokens"] == 9
    most = request(EndpointConfig(model="m", extra={"max_completion_tokens": 900}))
    assert most.max_tokens == 900, "the budget reserves for the higher one, as the server may heed either"
