"""A real browser, controlled over the DevTools protocol: headless Chromium and a WebSocket, without a driver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell")
KEYS = {
    "Enter": ("Enter", 13, "\r"), "ArrowRight": ("ArrowRight", 39, ""), "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowDown": ("ArrowDown", 40, ""), "ArrowUp": ("ArrowUp", 38, ""), "Escape": ("Escape", 27, ""),
    "/": ("Slash", 191, "/"), "l": ("KeyL", 76, "l"), "Tab": ("Tab", 9, ""),
}  # fmt: skip
WAIT_S = 20.0


def find_browser() -> str | None:
    """A Chromium of this machine, or what M2RAAP_CHROMIUM names."""
    return os.environ.get("M2RAAP_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One headless Chromium with a profile of its own. Use as a context manager."""

    def __init__(self, program: str, folder: Path) -> None:
        self._profile = folder / "profile"
        flags = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-proxy-server",
            "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0", "--lang=en-US",
            f"--user-data-dir={self._profile}", "about:blank",
        )  # fmt: skip
        env = os.environ | {"HOME": str(folder), "LANGUAGE": "en", "LANG": "C.UTF-8"}
        self._child = subprocess.Popen(
            [program, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def page(self) -> Page:
        port = self._port()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_S) as answer:
            return Page(json.load(answer)["webSocketDebuggerUrl"])

    def _port(self) -> int:
        path = self._profile / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and (lines := path.read_text().split()):
                return int(lines[0])
            assert self._child.poll() is None, f"the browser ended with code {self._child.returncode}"
            time.sleep(0.1)
        raise TimeoutError("the browser did not start")


class Page:
    """A tab. `faults` collects exceptions of scripts, and errors that the content security policy or the console reported."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=WAIT_S)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._source = self._socket.makefile("rb")
        assert b"101" in self._source.readline()
        while self._source.readline().strip():
            pass
        self._number = 0
        self.faults: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._write(json.dumps({"id": self._number, "method": method, "params": params}).encode())
        while True:
            message = json.loads(self._read())
            self._event(message)
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _event(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(message["params"]["exceptionDetails"])[:500])
            case "Log.entryAdded":
                self.faults.append(f"{message['params']['entry']['text']} {message['params']['entry'].get('url', '')}")
            case "Page.javascriptDialogOpening":
                self.faults.append(f"dialog: {message['params']['message']}")

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def size(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        scale = 2 if phone else 1
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def js(self, script: str) -> Any:
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (script, result["exceptionDetails"])
        return result["result"].get("value")

    def until(self, script: str) -> Any:
        """Waits until the expression is true, and gives its value."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if value := self.js(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"never true: {script}; faults: {self.faults}")

    def press(self, key: str) -> None:
        """A real key. A busy machine may swallow an event of the keyboard: one that did not arrive is sent again."""
        code, number, text = KEYS[key]
        down = {"type": "keyDown" if text else "rawKeyDown", "key": key, "code": code, "windowsVirtualKeyCode": number}
        for _ in range(3):
            self.js(
                "window.pressed = false; "
                "addEventListener('keydown', () => { window.pressed = true }, {once: true, capture: true}); 0"
            )
            self.send("Input.dispatchKeyEvent", **down, **({"text": text} if text else {}))
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=code, windowsVirtualKeyCode=number)
            if self.js("window.pressed"):
                return
        raise AssertionError(f"the key {key} did not arrive; faults: {self.faults}")

    def write(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def click(self, selector: str, place: int = 0) -> None:
        """A real click in the middle of an element, which is scrolled to first and waited for where something covers it.

        A busy machine may swallow an event of the mouse: a click that did not arrive is tried again.
        """
        node = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
        for _ in range(3):
            x, y = self.until(
                f"(() => {{ const node = {node}; node.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
                "window.clicked = false; node.addEventListener('click', () => { window.clicked = true }, {once: true}); "
                "const r = node.getBoundingClientRect(); const at = [r.x + r.width/2, r.y + r.height/2]; "
                "return node.contains(document.elementFromPoint(...at)) && at; })()"
            )
            for kind in ("mousePressed", "mouseReleased"):
                self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
            if self.js("window.clicked"):
                return
        raise AssertionError(f"no click reached {selector} [{place}]; faults: {self.faults}")

    def picture(self, path: Path, quality: int = 70) -> None:
        kind = {"format": "png"} if path.suffix == ".png" else {"format": "jpeg", "quality": quality}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **kind)["data"]))

    def close(self) -> None:
        self._source.close()
        self._socket.close()

    def _write(self, data: bytes) -> None:
        length = len(data)
        head = b"\x81" + (
            bytes([0x80 | length]) if length < 126 else b"\xfe" + struct.pack(">H", length)
            if length < 1 << 16 else b"\xff" + struct.pack(">Q", length)
        )  # fmt: skip
        mask = os.urandom(4)
        self._socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def _read(self) -> bytes:
        whole = b""
        while True:
            first, second = self._source.read(2)
            length = second & 0x7F
            if length > 125:
                length = struct.unpack(
                    *((">H", self._source.read(2)) if length == 126 else (">Q", self._source.read(8)))
                )[0]
            data = self._source.read(length)
            if first & 0x0F in (0, 1, 2):  # text, or the rest of one; Chromium sends no pings
                whole += data
                if first & 0x80:
                    return whole
