"""What a server allows, and under which names it answers."""

import ipaddress
from dataclasses import dataclass, field

from autotl.data.decoding import ImageLimits

__all__ = ["ServerSettings", "is_loopback"]


@dataclass(frozen=True)
class ServerSettings:
    """Limits of a server. Whatever passes one is answered with 4xx, or with 503 where the server itself is full."""

    max_bytes: int = 32 << 20
    """Of a request's body, and of an image behind a URL."""
    max_pixels: int = 50_000_000
    """Of an image."""
    max_images: int = 32
    """In a request."""
    body_seconds: float = 30.0
    """How long a request's body may take to arrive."""
    decode_seconds: float = 10.0
    """How long a child process may decode an image of an untrusted format."""
    max_waiting: int = 512
    """Images that may wait for their turn."""
    max_bytes_in_flight: int = 512 << 20
    """Of the bodies of all requests that are being answered."""
    batch_images: int = 32
    batch_wait: float = 0.004
    """Seconds that the first image of a batch waits for others."""
    allow_urls: bool = False
    """Whether a request may name images by URL."""
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Names of this server, beside localhost and every address in digits."""
    token: str | None = None
    """What a client must send; None lets everyone in."""

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, animations=False, memory=2 << 30)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
