"""Download a weights file from the Hugging Face hub into its cache: resumed where it was interrupted, and verified.

The hub's own client starts each download anew, and compares the file's size alone with what the hub states.
"""

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from autotl.atomic_io import DiskFull, as_disk_full, format_bytes
from autotl.errors import AutotlError
from autotl.locks import FileLock

__all__ = ["HubUnreachable", "download", "explain_failure", "is_unreachable", "reporting_to"]

MAX_ATTEMPTS = 5
RETRY_SECONDS = 1.0
Report = Callable[[int, int | None], object]
"""Called with the number of bytes that are here, and of the whole file where it is known."""

_report: Report | None = None


class HubUnreachable(AutotlError):
    """There is no connection to the hub: no other download would succeed."""


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Call `report` with each piece that arrives, while the context is open."""
    global _report
    before, _report = _report, report
    try:
        yield
    finally:
        _report = before


def download(repository: str, filename: str) -> Path:
    """Download a file of a hub repository into the hub's cache, or continue an interrupted download.

    Only one process downloads a file at a time; others wait for it and find the file.

    Raises:
        AutotlError: the file isn't what the hub states: its digest differs, or it is no safetensors file.
        DiskFull: there is no room for the file.
        Exception: what the hub's client raises; `explain_failure` says it in words.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    url = hf_hub_url(repository, filename)
    stated = get_hf_file_metadata(url, library_name="autotl")
    etag = stated.etag or ""
    if re.fullmatch(r"[\w.-]+", etag):  # it becomes the name of a file
        cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repository, repo_type="model")
        blob = cache / folder / "blobs" / etag
        lock = cache / ".locks" / folder / f"{etag}.lock"
        try:
            for parent in (blob.parent, lock.parent):
                parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock):  # the hub's client takes the same lock
                if not blob.exists():
                    _complete(url, stated, blob)
        except OSError as error:
            if full := as_disk_full(error, blob, stated.size):
                raise full from error
            raise
    return Path(hf_hub_download(repository, filename, library_name="autotl"))  # finds the blob, and links to it


def _complete(url: str, stated: Any, blob: Path) -> None:
    """Download what is missing of a file, verify the file, and give it its name."""
    partial = blob.with_name(f"{blob.name}.incomplete")
    here = partial.stat().st_size if partial.exists() else 0
    if stated.size is not None:
        if here > stated.size:
            partial.unlink()
            here = 0
        free = shutil.disk_usage(partial.parent).free
        if stated.size - here > free:
            raise DiskFull(
                f"There is no room on the disk for {partial}: it needs {format_bytes(stated.size - here)} more, and "
                f"{format_bytes(free)} are free there.",
                partial,
            )
    with partial.open("ab") as file:
        _receive(url, stated, file, here)
    try:
        _verify(partial, blob.name)
    except AutotlError:
        partial.unlink()
        raise
    partial.replace(blob)


def _receive(url: str, stated: Any, file: BinaryIO, here: int) -> None:
    """Append the rest of a file of which `here` bytes are there. A connection that is cut is made again, until
    MAX_ATTEMPTS in a row bring nothing."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    # the token is for the hub alone, never for the server that it redirects to
    is_hub = urlsplit(url).netloc == urlsplit(stated.location).netloc
    headers = build_hf_headers(token=None if is_hub else False, library_name="autotl")
    headers["Accept-Encoding"] = "identity"  # compressed bytes could not be continued
    report = _report or (lambda done, total: None)
    attempts, most = 0, here
    while here != stated.size:
        report(here, stated.size)
        span = {"Range": f"bytes={here}-"} if here else {}
        try:
            with http_stream_backoff(
                "GET",
                stated.location,
                headers=headers | span,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                retry_on_exceptions=(),
                retry_on_status_codes=(408, 429),
            ) as response:
                hf_raise_for_status(response)
                if here and response.status_code == 200:  # the server sends all of it again
                    here = 0
                    file.truncate(0)
                for piece in response.iter_bytes():
                    file.write(piece)
                    here += len(piece)
                    report(here, stated.size)
        except OSError:  # the disk; or an answer of the server, which would be the same again
            raise
        except Exception as error:  # the connection: the client's HTTP library has its own types
            broken: Exception | None = error
        else:
            broken = None
            if stated.size is None:
                return
        attempts, most = (1, here) if here > most else (attempts + 1, most)
        if here != stated.size and (attempts == MAX_ATTEMPTS or here > (stated.size or here)):
            raise broken or AutotlError(f"{here:,} bytes arrived of a file of {stated.size:,}.")
        if broken:
            time.sleep(RETRY_SECONDS)


def _verify(file: Path, etag: str) -> None:
    """Raise AutotlError unless the file is what the hub states: the etag of a large file is its SHA-256."""
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as opened:
        is_torch = opened.read(2) in (b"PK", b"\x80\x02")  # a checkpoint of torch, new and old format
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if re.fullmatch(r"[0-9a-f]{64}", etag) and digest != etag:
        raise AutotlError(
            f"the file that arrived is damaged: its SHA-256 is {digest}, and the hub states {etag}. It was removed: "
            "type the same command again."
        )
    if is_torch:
        return
    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise AutotlError(f"the file that arrived holds no weights ({error}). It was removed.") from error


def explain_failure(error: Exception, repository: str) -> str:
    """What a failed download means, and what to type."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    first_line = next(iter(str(error).splitlines()), "")
    if isinstance(error, AutotlError):
        return str(error)
    if isinstance(error, GatedRepoError):
        return (
            f"its authors give it only to who accepts their terms, on {constants.ENDPOINT}/{repository}. Then type: "
            "hf auth login"
        )
    if status in (401, 403):
        return f"the hub wants to know who asks ({status}). Type: hf auth login"
    if is_unreachable(error):
        return f"{constants.ENDPOINT} can't be reached ({type(error).__name__}: {first_line}). Check the network."
    return f"{type(error).__name__}: {first_line} Check the network."


def is_unreachable(error: Exception) -> bool:
    """Whether there is no connection to the hub."""
    return type(error).__name__ in NO_CONNECTION


NO_CONNECTION = (
    *("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError", "ConnectionError"),
    "OfflineModeIsEnabled",
)
"""Names of the exceptions of the client's HTTP library, which has changed, for a server that doesn't answer."""
