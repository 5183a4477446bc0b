"""An OpenAI-compatible server that does what a test tells it: answers well or badly, slowly, never, with errors, cut off."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from m2raap.curate.llm.prompts import load_prompt

Body = dict[str, Any]
REPAIR = load_prompt("repair").text


def payload(body: Body) -> dict[str, Any]:
    """The data of a request, as a model would read it."""
    for message in body["messages"]:
        content = message["content"]
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for block in blocks:
            if message["role"] == "user" and block["type"] == "text" and block["text"].startswith("<data>"):
                return json.loads(block["text"].removeprefix("<data>\n").removesuffix("\n</data>"))
    raise AssertionError("a request without data")


def caption(body: Body) -> str:
    return payload(body).get("caption", {}).get("text", "")


def is_repair(body: Body) -> bool:
    return body["messages"][-1]["content"].startswith(REPAIR)


def completion(content: Any, finish: str = "stop", **message: Any) -> Body:
    """A chat-completion object; what is no text is sent as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


class Say:
    """What a handler does: status, headers, body, and how the bytes travel."""

    def __init__(
        self,
        body: Any = "",
        status: int = 200,
        headers: dict[str, str] | None = None,
        way: str = "whole",
        wait_s: float = 0.0,
    ) -> None:
        self.body, self.status, self.headers, self.way, self.wait_s = body, status, headers or {}, way, wait_s


Script = Callable[[Body, int], Any]  # (request, how often this very request came before) -> Say, or captions


class Server:
    """`counts`: canonical request -> how often it came; `bodies`, `headers`: in the order of arrival."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.counts: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.url = ""

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        body = json.loads(raw)
        with self.lock:
            before = self.counts[raw.decode()]
            self.counts[raw.decode()] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.paths.append(handler.path)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            said = self.script(body, before)
            with contextlib.suppress(OSError):  # the client has left
                self._say(handler, said if isinstance(said, Say) else Say(completion(said)))
        finally:
            with self.lock:
                self.in_flight -= 1

    def _say(self, handler: BaseHTTPRequestHandler, said: Say) -> None:
        self.closing.wait(said.wait_s)  # the server is as slow as the script says
        data = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
        if said.way == "cut at once":
            handler.connection.close()
            return
        handler.send_response(said.status)
        handler.send_header("Content-Type", "application/json")
        for name, value in said.headers.items():
            handler.send_header(name, value)
        if said.way in ("whole", "cut"):
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if said.way == "cut":
            handler.wfile.write(data[: len(data) // 2])
            handler.wfile.flush()
            handler.connection.close()
        elif said.way == "white space for ever":
            handler.wfile.write(data)
            while True:
                handler.wfile.write(b" \\n" * 2048)
        elif said.way == "drop by drop":
            while not self.closing.wait(0.05):
                handler.wfile.write(b" ")
                handler.wfile.flush()
        else:
            handler.wfile.write(data)


@contextlib.contextmanager
def serving(script: Script) -> Iterator[Server]:
    """A server in a thread, at `server.url`."""
    found = Server(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a connection that the script or the client has cut

    with Quiet(("127.0.0.1", 0), Handler) as http:
        found.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.closing.set()
            http.shutdown()
            thread.join()
