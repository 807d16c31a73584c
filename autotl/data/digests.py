"""Digests of image files' bytes, under which everything about an image is kept."""

import hashlib
import os
from pathlib import Path

from autotl.data.members import is_member, read_image

__all__ = ["DIGEST_BYTES", "digest_bytes", "digest_file"]

DIGEST_BYTES = 16


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b of a file's bytes: 32 hex digits. Raises OSError."""
    if is_member(os.fspath(path)):
        return digest_bytes(read_image(Path(path)))
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_bytes(content: bytes) -> str:
    """The digest of a file with this content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
