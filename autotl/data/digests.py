"""Digests of image files' bytes, under which everything about an image is kept."""

import hashlib
import os
from pathlib import Path

from autotl.data.members import is_member, read_image

__all__ = ["DIGEST_BYTES", "digest_and_content", "digest_bytes", "digest_file"]

DIGEST_BYTES = 16
MAX_CONTENT = 64 << 20
"""Bytes up to which `digest_and_content` keeps a file in memory."""


def digest_file(path: str | os.PathLike[str]) -> str:
    """BLAKE2b of a file's bytes: 32 hex digits. Raises OSError."""
    if is_member(os.fspath(path)):
        return digest_bytes(read_image(Path(path)))
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_and_content(path: Path) -> tuple[str, bytes | None]:
    """As `digest_file`, and the bytes themselves; None in place of those of a large file."""
    if not is_member(str(path)) and path.stat().st_size > MAX_CONTENT:
        return digest_file(path), None
    content = read_image(path)
    return digest_bytes(content), content


def digest_bytes(content: bytes) -> str:
    """The digest of a file with this content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
