"""Which requests are answered: checks of the Host header (against DNS rebinding), the page's origin, and the token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from email.message import Message
from functools import cache
from http.cookies import CookieError, SimpleCookie

COOKIE = "m2raap_token"
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::(\d{1,5}))?")
_SCHEMES_PORT = {"http": "80", "https": "443"}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


@cache
def _own_names() -> tuple[str, str]:
    """The names of this machine, resolved once: a slow name server must not hold up every request."""
    return socket.gethostname().lower(), socket.getfqdn().lower()


def parse_host(text: str) -> tuple[str, str | None] | None:
    """'Search.example.org:8443' -> ('search.example.org', '8443'); None for a text that is no name or address of a host."""
    match = _HOST.fullmatch(text)
    return (match[1].lower(), match[2]) if match else None


@dataclass(frozen=True)
class Guard:
    """`host`: the address that the server is bound to. `token`: None where requests need none.

    `public`: hosts that a proxy in front of the server serves, as `parse_host` gives them; without a port, on any port.
    """

    host: str
    token: str | None
    public: tuple[tuple[str, str | None], ...] = ()

    def host_ok(self, headers: Message) -> bool:
        """Whether the Host header names this server. A name that an attacker registered can resolve to this machine too.

        On loopback only names of loopback and public hosts are accepted; elsewhere also addresses and this machine's names.
        The port is not checked: it may have been forwarded.
        """
        hosts = headers.get_all("Host") or []
        host = parse_host(hosts[0]) if len(hosts) == 1 else None
        if host is None:
            return False
        name, port = host
        if self._is_public(name, {port} if port else set(_SCHEMES_PORT.values())):
            return True
        if is_loopback(self.host):
            return is_loopback(name)
        return _is_address(name) or name in {"localhost", self.host.lower(), *_own_names()}

    def same_site(self, headers: Message) -> bool:
        """False for requests from a page of another site. Browsers send its origin; other programs send no such header.

        A page of a public host is accepted, even where the proxy replaced the Host header.
        """
        if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return False
        origin = headers.get("Origin")
        if origin is None:
            return True
        scheme, _, host = origin.lower().partition("://")
        if host == (headers.get("Host") or "").lower():
            return True
        parsed = parse_host(host)
        return parsed is not None and self._is_public(parsed[0], {parsed[1] or _SCHEMES_PORT.get(scheme, "")})

    def _is_public(self, name: str, ports: Collection[str]) -> bool:
        return any(name == public and (port is None or port in ports) for public, port in self.public)

    def token_ok(self, headers: Message) -> bool:
        """Whether a request has the token, in a header or a cookie, or needs none."""
        if self.token is None:
            return True
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(credentials.strip()):
            return True
        cookie: SimpleCookie = SimpleCookie()
        try:
            cookie.load(headers.get("Cookie", ""))
        except CookieError:
            return False
        return COOKIE in cookie and self.is_token(cookie[COOKIE].value)

    def is_token(self, token: str) -> bool:
        return self.token is not None and hmac.compare_digest(token.encode(), self.token.encode())
