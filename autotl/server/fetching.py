"""Images behind URLs that a client names, without a way into the server's own network (server-side request forgery).

A name is resolved once, all its addresses must be public, and the connection goes to one of these addresses: a name
that resolves to another address a moment later leads nowhere else. Each redirect is checked in the same way.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

from autotl._version import __version__
from autotl.server.refusals import Refused

__all__ = ["connect_publicly", "fetch_image"]

MAX_REDIRECTS = 3
MAX_LENGTH = 2_000
"""Of a URL."""
SECONDS = 10.0
"""For an image with all its redirects."""
PORTS = {"http": 80, "https": 443}
Connect = Callable[[str, int, float], socket.socket]
"""From a host, a port and seconds to a connection."""


def fetch_image(url: str, max_bytes: int, connect: "Connect | None" = None) -> bytes:
    """The content behind an http or https URL.

    Args:
        max_bytes: of the content.
        connect: by default `connect_publicly`.

    Raises:
        Refused: the URL, or a place that it redirects to, isn't allowed, can't be reached, or holds too much.
    """
    until = time.monotonic() + SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        place = _checked(url)
        try:
            content, location = _asked(place, max_bytes, until, connect or connect_publicly)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Refused(422, f"{_shown(place)} can't be fetched: {reason}") from None
        if content is not None:
            return content
        url = urljoin(url, location)
    raise Refused(422, f"The URL redirects more than {MAX_REDIRECTS} times.")


def connect_publicly(host: str, port: int, seconds: float) -> socket.socket:
    """Connect to a host whose addresses are all public.

    Raises:
        Refused: one of them is private, of this machine, or otherwise not of the public internet.
        OSError: it has no address, or can't be reached.
    """
    addresses = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(map(_is_public, addresses)):
        raise Refused(422, f"{host} is not on the public internet.")
    return socket.create_connection((addresses[0], port), timeout=seconds)


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # an IPv4 address in another coat leads where that address leads
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner):
            return all(part is None or _is_public(str(part)) for part in inner)
    return ip.is_global and not ip.is_multicast


NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _checked(url: str) -> SplitResult:
    """The parts of a URL. Raises Refused."""
    try:
        if len(url) > MAX_LENGTH or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError
        place = urlsplit(url)
        port = place.port
        if place.scheme not in PORTS or not place.hostname or place.username is not None:
            raise ValueError
    except ValueError:
        raise Refused(
            422, "A URL looks like https://example.org/photo.jpg: http or https, ASCII, without a password."
        ) from None
    if port not in (None, PORTS[place.scheme]):
        raise Refused(422, f"{_shown(place)}: only ports 80 and 443 are asked.")
    return place


def _shown(place: SplitResult) -> str:
    return f"{place.scheme}://{place.hostname}"


def _asked(place: SplitResult, max_bytes: int, until: float, connect: Connect) -> tuple[bytes | None, str]:
    """The content, or None and where it is. Raises Refused, OSError, HTTPException."""
    host, port = place.hostname or "", PORTS[place.scheme]
    connection = http.client.HTTPConnection(host, port)
    connection.sock = connect(host, port, _left(until))
    # a timeout of the socket starts anew with each byte that drips in
    timer = threading.Timer(_left(until), _shut, [connection.sock])
    timer.start()
    try:
        if place.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        path = (place.path or "/") + (f"?{place.query}" if place.query else "")
        headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"autotl/{__version__}"}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308):
            return None, answer.getheader("Location", "")
        if answer.status != 200:
            raise Refused(422, f"{_shown(place)} answers {answer.status}.")
        content = answer.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise Refused(413, f"The image at {_shown(place)} is larger than {max_bytes:,} bytes.")
        _left(until)
        return content, ""
    finally:
        timer.cancel()
        connection.close()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"it takes more than {SECONDS:g} s")
    return left
