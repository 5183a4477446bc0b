"""Who may ask: the Host that was named (against DNS rebinding), the page that asks (against other sites), the token."""

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
    """`host`: what the server is bound to. `token` None: nobody needs one.

    `public`: other hosts, as `parse_host` gives them, that a proxy in front serves; without a port on every port.
    """

    host: str
    token: str | None
    public: tuple[tuple[str, str | None], ...] = ()

    def host_ok(self, headers: Message) -> bool:
        """A name that an attacker chose can resolve to this machine; an address, or a name of ours, was chosen by the user.

        On loopback only loopback's own names, and the public ones. The port is free: it may have been forwarded.
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
        """False for requests that a page of another site made. Browsers say so; other programs say nothing.

        A page of a public host is ours, too where the proxy gave us another Host.
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
        """Whether a request brings the token, in a header or a cookie."""
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
