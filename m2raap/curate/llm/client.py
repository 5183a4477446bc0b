"""Chat completions over HTTP from any OpenAI-compatible server. The standard library's client is used because it does nothing
unasked: it uses no proxy, follows no redirect, looks for no key, and sends no header about this machine.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from m2raap.core.errors import M2raapError
from m2raap.curate.llm.budget import Budget
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.endpoint import MAX_NEW_TOKENS, EndpointConfig
from m2raap.curate.llm.redact import Redactor
from m2raap.curate.llm.schema import Completion, Request, invalid, is_endless, well_formed

_TOO_LARGE = 64 * 1024  # most bytes of an answer, besides 64 for every token
# A larger number in an answer is no number of tokens, and sums of such numbers would not fit into the cache.
_MOST_TOKENS = 1 << 31
_MOST_MESSAGE = 200  # characters of a server's message that are shown


class _Retryable(Exception):
    """A failure after which another try may succeed, after `wait_s` seconds if the server named a time."""

    def __init__(self, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class _Permanent(Exception):
    """A failure that another try would repeat."""


class HttpBackend:
    """Sends requests and stores the completions. It stops if all requests would fail."""

    def __init__(self, cfg: EndpointConfig) -> None:
        self.cfg = cfg
        self.server = cfg.server
        self._key = os.environ.get(cfg.api_key_env, "").strip() if cfg.api_key_env else ""
        if cfg.api_key_env and not self._key:
            raise M2raapError(f"the environment variable {cfg.api_key_env} is empty; export the endpoint's key in it")
        if any(ord(char) <= 32 or ord(char) > 126 for char in self._key):
            raise M2raapError(
                f"the environment variable {cfg.api_key_env} holds blanks or characters outside ASCII; export the key alone"
            )
        self._redactor = Redactor(self._key)
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def run(self, requests: list[Request], cache: Cache, budget: Budget) -> dict[str, str]:
        """See Backend. Each answer is stored as soon as it arrives.

        Raises M2raapError if all requests would fail alike (no server, key refused, redirect), or if too many failed.
        """
        failed: dict[str, str] = {}
        faults, allowed = 0, max(3, int(self.cfg.allow_errors * len(requests)))
        waiting = iter(requests)
        in_flight: dict[Future[str | None], Request] = {}
        pool = ThreadPoolExecutor(self.cfg.concurrency, thread_name_prefix="ask")
        try:
            while True:
                while len(in_flight) < self.cfg.concurrency and (request := next(waiting, None)) is not None:
                    in_flight[pool.submit(self._one, request, cache, budget)] = request
                if not in_flight:
                    return failed
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    request, fault = in_flight.pop(future), future.result()
                    if fault is None:
                        continue
                    failed[request.key] = fault
                    faults += bool(fault)
                    if faults > allowed:
                        raise M2raapError(
                            f"{self.server}: {faults} requests failed in all their tries, the last one with: {fault}. The "
                            "answers are kept: run the same command again when the server works, or raise allow_errors"
                        )
        finally:
            self._stop.set()
            with self._lock:
                for sock in self._open:
                    _cut(sock)
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()

    def _one(self, request: Request, cache: Cache, budget: Budget) -> str | None:
        detail = ""
        for attempt in range(self.cfg.attempts):
            if self._stop.is_set():
                return detail
            if not budget.reserve(request):
                return ""
            try:
                completion = self.complete(request)
            except (_Retryable, _Permanent) as error:
                budget.settle(request, None)
                detail = self._redactor.mask(str(error))
                if isinstance(error, _Permanent):
                    return detail
                if attempt + 1 < self.cfg.attempts:
                    self._stop.wait(self._wait_s(request, attempt, error.wait_s))
                continue
            cache.put(request, completion)
            budget.settle(request, completion)
            return None
        return f"{detail} ({self.cfg.attempts} tries)"

    def _wait_s(self, request: Request, attempt: int, asked_s: float | None) -> float:
        backoff = self.cfg.first_wait_s * 2**attempt * random.Random(f"{request.key}{attempt}").uniform(1.0, 1.5)
        return min(max(backoff, asked_s or 0.0), self.cfg.max_wait_s)

    def complete(self, request: Request) -> Completion:
        """One try. Raises _Retryable, _Permanent, or M2raapError where the configuration is wrong."""
        status, headers, body, endless = self._post(json.dumps(request.body, ensure_ascii=False).encode())
        if endless and status == 200:  # a long error page is no answer of the model
            return Completion("", "endless", None, 0, request.max_tokens, self.server)
        if status == 200:
            return self._without_key(completion_of(body, self.server))
        message = self._redactor.mask(_error_text(body))[:_MOST_MESSAGE]
        if 300 <= status < 400:
            raise M2raapError(
                f"{self.server}: answers with a redirect ({status}), which is not followed; set base_url to the new address"
            )
        if status in (401, 403):
            where = f"the key in ${self.cfg.api_key_env}" if self.cfg.api_key_env else "api_key_env (none is set)"
            raise M2raapError(f"{self.server}: refuses access ({status}: {message}); check {where}")
        if status in (404, 405):
            raise M2raapError(f"{self.server}: {status}: {message}; check base_url (…/v1) and model '{self.cfg.model}'")
        if status in (408, 409, 425, 429) or status >= 500:
            raise _Retryable(f"HTTP {status}: {message}", _retry_after_s(headers))
        raise _Permanent(f"HTTP {status}: {message}")

    def _post(self, data: bytes) -> tuple[int, http.client.HTTPMessage, bytes, bool]:
        url = urlsplit(self.cfg.base_url)
        host = url.hostname or ""
        deadline = time.monotonic() + self.cfg.timeout_s
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, url.port, timeout=self.cfg.timeout_s, context=context)
        else:
            connection = http.client.HTTPConnection(host, url.port, timeout=self.cfg.timeout_s)
        sock: socket.socket | None = None
        timer: threading.Timer | None = None
        try:
            connection.connect()
            sock = connection.sock  # kept here, because http.client forgets it when it has read the headers
            assert sock is not None
            # A socket's own time-out starts again with every byte; this one does not.
            timer = threading.Timer(deadline - time.monotonic(), _cut, (sock,))
            timer.daemon = True
            timer.start()
            with self._lock:
                self._open.add(sock)
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
            headers |= {"User-Agent": "m2raap", "Accept-Encoding": "identity"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request("POST", url.path.rstrip("/") + "/chat/completions", data, headers)
            response = connection.getresponse()
            body, endless = self._body(response)
            if time.monotonic() >= deadline:
                raise _Retryable(f"no whole answer within {self.cfg.timeout_s:g} s")
            return response.status, response.headers, body, endless
        except ConnectionRefusedError:
            raise _Retryable(f"nothing listens at {self.server}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: http.client reads from a socket that was closed under it.
            if time.monotonic() >= deadline - 0.01:
                raise _Retryable(f"no whole answer within {self.cfg.timeout_s:g} s") from None
            raise _Retryable(f"the connection broke ({type(error).__name__}: {str(error)[:100]})") from None
        finally:
            if timer is not None:
                timer.cancel()
            if sock is not None:
                with self._lock:
                    self._open.discard(sock)
            connection.close()

    def _body(self, response: http.client.HTTPResponse) -> tuple[bytes, bool]:
        """(body, False), or (the part that was read, True) if it is endless white space or repetition."""
        body = bytearray()
        checked_bytes = 0
        while chunk := response.read1(65_536):
            body += chunk
            if len(body) > _TOO_LARGE + 64 * MAX_NEW_TOKENS:
                return bytes(body), True
            if len(body) - checked_bytes > 8192:  # few answers are as long: check whether the text repeats itself
                checked_bytes = len(body)
                tail = bytes(body[-4096:]).decode("utf-8", "ignore").replace("\\n", "\n").replace("\\t", "\t")
                if is_endless(tail):
                    return bytes(body), True
        if response.length:  # the server promised more
            raise http.client.IncompleteRead(bytes(body), response.length)
        return bytes(body), False

    def _without_key(self, completion: Completion) -> Completion:
        """The completion, or an invalid one in place of one that repeats the key."""
        if any(map(self._redactor.is_in, (completion.content, completion.refusal or "", completion.finish))):
            return invalid("the answer repeats the key that was sent to the server", self.server)
        return completion


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        sock.close()  # the other side was faster


def _retry_after_s(headers: http.client.HTTPMessage) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,6}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _error_text(body: bytes) -> str:
    text = body[:4000].decode("utf-8", "replace")
    try:
        tree = json.loads(text)
        inner = tree.get("error", tree.get("detail", tree)) if isinstance(tree, dict) else tree
        text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
    except (ValueError, RecursionError):
        pass  # the body is not JSON: its text is shown as it is
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "no reason given"


class InvalidCompletion(_Retryable):
    """The answer is not a chat-completion object."""


def completion_of(body: bytes | dict[str, Any], server: str) -> Completion:
    """A chat-completion object as a Completion, which is an invalid one where no table could hold its values.

    Raises InvalidCompletion for anything else.
    """
    try:
        tree = json.loads(body) if isinstance(body, bytes) else body
        choice = tree["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content") or "", message.get("refusal")
        usage = tree.get("usage") or {}
        tokens = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        finish = choice.get("finish_reason") or "stop"
        good = isinstance(content, str) and isinstance(finish, str) and isinstance(refusal, str | None)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise InvalidCompletion("the answer is no chat completion") from None
    if not good or not all(isinstance(value, int) and value >= 0 for value in tokens):
        raise InvalidCompletion("the answer is no chat completion")
    if max(tokens) > _MOST_TOKENS:
        return invalid("the answer states an impossible number of tokens", server)
    if well_formed(finish) != finish:
        return invalid("the finish_reason of the answer is no text", server)
    return Completion(well_formed(content), finish, refusal and well_formed(refusal), *tokens, server)
