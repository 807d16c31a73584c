"""ASGI middleware around all paths: who may ask, how much a body may hold, and what browsers may do with an answer.

Every page that a browser shows can send requests to loopback, some under a name of its own (DNS rebinding). So the
server answers to its own names and to addresses in digits only, and to its own pages only.
"""

import asyncio
import hmac
import ipaddress
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from autotl.cookies import cookie_value
from autotl.server.metrics import Metrics
from autotl.server.refusals import Refused
from autotl.server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

OPEN = {"/healthz"}
"""Answered without a token: whoever runs a server asks there whether it lives."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """Passes on what may be answered, counts it, and limits its body.

    Args:
        app: what answers.
        paths: those that are counted under their own name.
    """

    def __init__(self, app: "ASGIApp", settings: ServerSettings, metrics: Metrics, paths: frozenset[str]):
        self.app, self.settings, self.metrics, self.paths = app, settings, metrics, paths
        self.in_flight = 0

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, sent = time.monotonic(), _Answer(send)
        body = _Body(self, receive)
        try:
            if (answered := self._answer_of_its_own(scope)) is not None:
                await answered(sent)
            else:
                await self.app(scope, body.receive, sent)
        except Refused as error:
            if sent.status:  # part of an answer is out: the connection breaks
                raise
            await _refuse(sent, error)
        finally:
            self.in_flight -= body.received
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, sent.status or 500).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - began)

    def _answer_of_its_own(self, scope: "Scope") -> Any:
        """What answers instead of the application: a redirect that sets the cookie. Raises Refused."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._is_own(host):
            raise Refused(
                403,
                "This server has another name: use localhost, its address in digits, or `autotl serve --allow-host`.",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused(403, "The server answers its own pages, and programs, only.")
        token = self.settings.token
        if token is None or scope["path"] in OPEN:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        cookie = f"autotl-{(scope.get('server') or ('', 0))[1]}"  # browsers share cookies among the ports of a host
        if scope["method"] == "GET" and _same(dict(query).get("token", ""), token):
            left = urlencode([(key, value) for key, value in query if key != "token"])
            # one slash: an address that starts with two would lead to another host
            place = "/" + quote(scope["path"].lstrip("/")) + (f"?{left}" if left else "")
            return lambda send: _redirect(send, place, f"{cookie}={token}; Path=/; HttpOnly; SameSite=Strict")
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip(), token):
            return None
        if not _same(cookie_value(headers.get(b"cookie", ""), cookie) or "", token):
            raise Refused(401, "Send the header `Authorization: Bearer TOKEN`, or open the address that was printed.")
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name in self.settings.hosts
        return True


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


class _Body:
    """The body of a request, within the limits of bytes and time."""

    def __init__(self, guard: Guard, receive: "Receive"):
        self.guard, self.given, self.received = guard, receive, 0
        self.until = time.monotonic() + guard.settings.body_seconds
        self.is_whole = False

    async def receive(self) -> "Message":
        if self.is_whole:  # only that the client has left is still to come
            return await self.given()
        settings = self.guard.settings
        try:
            async with asyncio.timeout(max(0.0, self.until - time.monotonic())):
                message = await self.given()
        except TimeoutError:
            raise Refused(408, f"The body didn't arrive within {settings.body_seconds:g} s.") from None
        size = len(message.get("body", b""))
        self.received += size
        self.guard.in_flight += size
        self.is_whole = not message.get("more_body", False)
        if self.received > settings.max_bytes:
            raise Refused(413, f"The body is larger than {settings.max_bytes:,} bytes: send fewer or smaller images.")
        if self.guard.in_flight > settings.max_bytes_in_flight:
            raise Refused(503, "The server is busy. Try again in a second.")
        return message


class _Answer:
    """Sends an answer with the headers that all have, and keeps its status."""

    def __init__(self, send: "Send"):
        self.send, self.status = send, 0

    async def __call__(self, message: "Message") -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await self.send(message)


async def _refuse(send: "Send", error: Refused) -> None:
    content = json.dumps({"detail": error.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.status == 503:
        headers.append((b"retry-after", b"1"))
    if error.status in (408, 413):  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def _redirect(send: "Send", place: str, cookie: str) -> None:
    headers = [(b"location", place.encode()), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
