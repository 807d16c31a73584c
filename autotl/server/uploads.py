"""From a request to the images that it holds: one as its body, several as a form, or URLs, if those are allowed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autotl.data.decoding import TooManyPixels, UndecodableImage
from autotl.data.sandbox import SandboxedDecoder
from autotl.escaping import escape
from autotl.server.fetching import fetch_image
from autotl.server.refusals import Refused
from autotl.server.settings import ServerSettings

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Upload", "Urls", "read_uploads", "refusal_of", "screen"]

FORM, JSON = "multipart/form-data", "application/json"
RAW = ("image/", "application/octet-stream")
"""Starts of the content types of a body that is an image."""
MAX_NAME = 200
SIGNATURES = {
    "JPEG": b"\xff\xd8\xff",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "GIF": b"GIF8",
    "BMP": b"BM",
    "TIFF, little-endian": b"II*\0",
    "TIFF, big-endian": b"MM\0*",
}
"""First bytes of the formats that are taken, beside WebP and AVIF. Others that Pillow reads belong in no request."""
KNOWN = "JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF"


@dataclass(frozen=True)
class Upload:
    """An image of a request."""

    name: str
    """Of its file, as the client states it, escaped; or its URL. It is shown and never opened. May be empty."""
    content: bytes


class Urls(BaseModel):
    """The body of a request that names images by URL."""

    model_config = ConfigDict(extra="forbid")

    urls: list[str] = Field(min_length=1, description="Addresses of images, http or https.")


async def read_uploads(
    request: "Request",
    settings: ServerSettings,
    run: Callable[..., Awaitable[bytes]],
    fetch: Callable[[str, int], bytes] = fetch_image,
) -> list[Upload]:
    """The images of a request.

    Args:
        run: runs a function with arguments on a thread.
        fetch: from a URL and a number of bytes to its content.

    Raises:
        Refused: it holds none, too many, or something else.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media == FORM:
        uploads = await _of_form(request, settings)
    elif media == JSON:
        uploads = await _of_urls(request, settings, run, fetch)
    elif not media or media.startswith(RAW):
        uploads = [Upload("", await request.body())]
    else:
        raise Refused(415, f"Send an image as the body, or a form ({FORM}), not {escape(media)[:100]}.")
    if not uploads:
        raise Refused(400, "The form holds no file: send images in fields named `files`.")
    for number, upload in enumerate(uploads):
        if not upload.content:
            raise Refused(400, f"{_title(uploads, number)}: it is empty.", number)
        if not _is_known(upload.content):
            raise Refused(415, f"{_title(uploads, number)}: it is no {KNOWN} file.", number)
    return uploads


async def _of_form(request: "Request", settings: ServerSettings) -> list[Upload]:
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException

    try:
        # one more than allowed, so that it can be said; a field that is no file holds a kilobyte
        form = request.form(max_files=settings.max_images + 1, max_fields=16, max_part_size=1024)
        async with form as fields:
            files = [value for _, value in fields.multi_items() if isinstance(value, UploadFile)]
            if len(files) > settings.max_images:
                raise Refused(413, f"More than {settings.max_images} images in a request.")
            return [Upload(escape(file.filename or "")[:MAX_NAME], await file.read()) for file in files]
    except (HTTPException, MultiPartException) as error:
        reason = str(getattr(error, "detail", error))
        if reason.startswith("Too many files"):
            raise Refused(413, f"More than {settings.max_images} images in a request.") from None
        raise Refused(400, f"The form can't be read: {escape(reason)[:200]}") from None


async def _of_urls(
    request: "Request",
    settings: ServerSettings,
    run: Callable[..., Awaitable[bytes]],
    fetch: Callable[[str, int], bytes],
) -> list[Upload]:
    if not settings.allow_urls:
        raise Refused(415, "URLs are not fetched unless the server is started with --allow-urls: send the images.")
    try:
        urls = Urls.model_validate_json(await request.body()).urls
    except ValidationError:
        raise Refused(422, 'Send {"urls": ["https://example.org/photo.jpg"]}.') from None
    if len(urls) > settings.max_images:
        raise Refused(413, f"More than {settings.max_images} images in a request.")
    contents: list[bytes] = []
    for number, url in enumerate(urls):
        left = settings.max_bytes - sum(map(len, contents))
        try:
            contents.append(await run(fetch, url, left))
        except Refused as error:
            raise Refused(error.status, error.reason, number) from None
    return [Upload(escape(url)[:MAX_NAME], content) for url, content in zip(urls, contents, strict=True)]


def _is_known(content: bytes) -> bool:
    if content[:4] == b"RIFF":
        return content[8:12] == b"WEBP"
    if content[4:8] == b"ftyp":
        return content[8:12] in (b"avif", b"avis")
    return content.startswith(tuple(SIGNATURES.values()))


async def screen(uploads: list[Upload], decoder: SandboxedDecoder, run: Callable[..., Awaitable[None]]) -> None:
    """Check all images, untrusted formats in child processes.

    Raises:
        Refused: one is too large or broken.
    """
    outcomes = await asyncio.gather(
        *(run(decoder.screen, upload.content) for upload in uploads), return_exceptions=True
    )
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, UndecodableImage):
            raise refusal_of(outcome, uploads, number)
        if isinstance(outcome, BaseException):
            raise outcome


def refusal_of(error: UndecodableImage, uploads: list[Upload], number: int) -> Refused:
    """The refusal of a request because of one of its images."""
    status = 413 if isinstance(error, TooManyPixels) else 422
    return Refused(status, f"{_title(uploads, number)}: {escape(error)}.", number)


def _title(uploads: list[Upload], number: int) -> str:
    name = uploads[number].name
    if len(uploads) == 1:
        return name or "The image"
    return f"Image {number}, {name}" if name else f"Image {number}"
