"""Who is let in: the person who started the server, from its own page, and nobody else.

Another site may send requests from the person's own browser, and another name may lead to this machine (DNS
rebinding). So each request must name this server as it was opened, come with the cookie that was handed out for
the token of the opened address, and not be sent by another page; and what writes must be JSON of this page.
"""

from __future__ import annotations

import ipaddress
import secrets
import threading
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "is_loopback"]

_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_LONGEST = 2000  # bytes of a path and query
_READS = {"GET", "HEAD"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_STRANGER = "This page belongs to who started drmm label: open the address that it printed; it opens once."
# A link elsewhere led here, so that the browser has kept the cookie back: it sends it to what this page asks for.
_AGAIN = '<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>drmm label</title>'


class Guard:
    """Everything before the pages of a server.

    Args:
        app: they.
        port: that it listens at.
        host: address or name that it listens at.
        report: is told what nobody foresaw.

    Attributes:
        opened: whether somebody has come in by the address.
    """

    def __init__(self, app: ASGIApp, port: int, host: str, report: Callable[[Exception], None]) -> None:
        self._app, self._port, self._host, self._report = app, port, host, report
        self._cookie, self._key = f"drmm-{port}", secrets.token_urlsafe(32)
        self._token = secrets.token_urlsafe(32)
        self.opened = threading.Event()

    @property
    def address(self) -> str:
        """It opens the page, once."""
        host = "127.0.0.1" if _is_everywhere(self._host) else _bracketed(self._host)
        return f"http://{host}:{self._port}/?token={self._token}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the pages do it."""
        if scope["type"] != "http":
            return  # a WebSocket is closed so

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._answer(scope, Headers(scope=scope)) or self._app
        try:
            await answer(scope, receive, guarded)
        except Exception as error:  # noqa: BLE001  (it is answered by now, and the person is told)
            self._report(error)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """What the pages have no part in: refusals, and the way in."""
        if not self._is_us(headers.getlist("host")):
            return _refused("another server was asked for")
        if len(scope["raw_path"]) + len(scope["query_string"]) > _LONGEST:
            return PlainTextResponse("too long an address", 414)
        is_known, is_read = self._is_known(headers), scope["method"] in _READS
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if scope["path"] == "/" and is_read and tokens:
            return self._welcome(tokens, is_known=is_known)
        site = headers.get("sec-fetch-site")
        if site not in {None, "none", "same-origin"}:
            is_link = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
            return HTMLResponse(_AGAIN) if is_link else _refused("another page asked for this")
        reason = "" if is_read else self._why_not(headers, site)
        return _refused(reason or _STRANGER) if reason or not is_known else None

    def _welcome(self, tokens: list[str], *, is_known: bool) -> Response:
        """Take the token, which leaves the address bar so, for a cookie that no script and no other site sees."""
        fits = len(tokens) == 1 and secrets.compare_digest(tokens[0].encode(), self._token.encode())
        if not (fits or is_known):
            return _refused(_STRANGER)
        answer = RedirectResponse("/", 303)
        if fits:
            self.opened.set()
            self._token = secrets.token_urlsafe(32)  # which nobody knows
            answer.set_cookie(self._cookie, self._key, httponly=True, samesite="strict")
        return answer

    def _is_us(self, named: list[str]) -> bool:
        """Whether a request names this server, to the letter."""
        if len(named) != 1:
            return False
        allowed = _LOCAL if is_loopback(self._host) else (*_LOCAL, _bracketed(self._host))
        host, _, port = named[0].rpartition(":")
        return port == str(self._port) and (host in allowed or (_is_everywhere(self._host) and _is_address(host)))

    def _is_known(self, headers: Headers) -> bool:
        given = cookie_parser(headers.get("cookie", "")).get(self._cookie, "")
        return secrets.compare_digest(given.encode(), self._key.encode())

    def _why_not(self, headers: Headers, site: str | None) -> str:
        """Why something is not written, or nothing."""
        if headers.getlist("origin") != [f"http://{headers['host']}"]:
            return "only the page itself may write"
        # Browsers do not say it to an address elsewhere, without TLS.
        if site != "same-origin" and not (site is None and not is_loopback(self._host)):
            return "only the page itself may write, in a browser of today"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return "only JSON is read"
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(_bracketed(host)) and ipaddress.ip_address(host).is_loopback)


def _is_everywhere(host: str) -> bool:
    """Whether an address stands for all that the machine has."""
    return _is_address(_bracketed(host)) and ipaddress.ip_address(host).is_unspecified


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_address(host: str) -> bool:
    """Whether it is an IP address as it stands in URLs: names can be made to lead anywhere."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ipaddress.ip_address(bare).version == (4 if bare == host else 6)
    except ValueError:
        return False


def _refused(reason: str) -> Response:
    return PlainTextResponse(reason, 403)
