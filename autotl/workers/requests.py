"""What a worker that can't read the study's folder asks its coordinator for, and the answer.

Each request has a number that its answer repeats. Paths are relative to the study's folder, with `/` between names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "CHUNK_BYTES",
    "REQUESTS",
    "Answer",
    "ClaimBucket",
    "ExchangeLogs",
    "ListFiles",
    "PlaceFiles",
    "ReadFile",
    "ReadImage",
    "Request",
    "WriteFile",
]

CHUNK_BYTES = 1 << 20
"""Bytes of a file in one message, so that no message keeps others waiting for long."""


@dataclass(frozen=True)
class ExchangeLogs:
    """Append to the study's journal; the answer is every log from number `first` on, as JSON, a line each."""

    number: int
    logs: tuple[Mapping[str, Any], ...]
    first: int


@dataclass(frozen=True)
class ListFiles:
    """The answer is the size in bytes of each file in a folder and below it, or of a file, by path."""

    number: int
    folder: str


@dataclass(frozen=True)
class ReadFile:
    """The answer is up to CHUNK_BYTES of a file, base64."""

    number: int
    path: str
    offset: int


@dataclass(frozen=True)
class WriteFile:
    """Append to a file that grows apart, until PlaceFiles moves it into the study's folder."""

    number: int
    upload: str
    """Hex digits that name the files that are placed together."""
    path: str
    content: str
    """Base64."""
    offset: int
    """Bytes that were written before."""


@dataclass(frozen=True)
class PlaceFiles:
    """Move an uploaded file or folder to its path. It replaces what is there; a file of which nothing was uploaded is
    removed."""

    number: int
    upload: str
    path: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Small files that are whole: they are uploaded with this message. Base64, by path."""


@dataclass(frozen=True)
class ReadImage:
    """The answer is the file of an image of the data set, base64."""

    number: int
    index: int


@dataclass(frozen=True)
class ClaimBucket:
    """The answer is whether this worker, and no other, is to extract a bucket of a table of features."""

    number: int
    table: str
    bucket: int
    release: bool = False
    """Give the bucket back instead: what was extracted is in the pool."""


@dataclass(frozen=True)
class Answer:
    """To the request of this number."""

    number: int
    value: Any = None
    error: str = ""
    """Why there is no value."""


Request: TypeAlias = ClaimBucket | ExchangeLogs | ListFiles | ReadFile | WriteFile | PlaceFiles | ReadImage
REQUESTS = (ClaimBucket, ExchangeLogs, ListFiles, ReadFile, WriteFile, PlaceFiles, ReadImage)
