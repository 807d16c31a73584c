"""Decode images of untrusted formats in child processes, so that a file that crashes its decoder ends only a child.

A child is `python -P -m autotl.data.sandbox`, with its limits as arguments. It receives messages of one or several
paths, and answers each path with a digest, and a thumbnail or a reason. A message is its length in four bytes and that
many bytes. A child ends when its parent closes the pipe or dies.
"""

import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from autotl.data.decoding import (
    ImageLimits,
    TooManyPixels,
    UndecodableImage,
    UntrustedFormat,
    inspect,
    verify,
)
from autotl.data.digests import DIGEST_BYTES, digest_and_content
from autotl.data.members import is_image_file
from autotl.hardware import brief_waits

__all__ = ["DECODE_TIMEOUT", "SandboxedDecoder", "child_environment"]

DECODE_TIMEOUT = 30.0
"""Seconds after which decoding of one file counts as hung."""
JPEG_START, START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xda"
MAX_SCANS = 50
"""Progressive JPEGs have about ten. Each scan of some bytes costs a pass over all pixels: thousands take hours."""
CRASH_SIGNALS = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"}
"""Signals that a faulty decoder causes. Others, such as SIGKILL when memory runs out, may not be the file's fault."""
OK, UNDECODABLE, UNKNOWN_FORMAT, TRANSIENT, LARGE = b"o", b"d", b"u", b"t", b"l"
"""First byte of an answer. The file's digest follows, zeros where it can't be read; then a thumbnail after OK, else a
reason."""
SEPARATOR = b"\0"
"""Between paths, in which it can't occur."""


def child_environment() -> dict[str, str]:
    """The environment for Python processes, whose threads wait briefly. Without the empty entries that
    `PYTHONPATH=$PYTHONPATH:…` leaves: they mean the current folder, in spite of `-P`."""
    path = os.pathsep.join(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    return {**os.environ, **brief_waits(os.environ), "PYTHONPATH": path}


class SandboxedDecoder:
    """Decodes images of untrusted formats in child processes: one for each thread that is decoding, started on demand.

    Args:
        timeout: seconds after which decoding of one file counts as hung.
        limits: what an image may be.
    """

    def __init__(self, timeout: float = DECODE_TIMEOUT, limits: ImageLimits | None = None):
        self.timeout, self.limits = timeout, limits or ImageLimits()
        self._idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
        weakref.finalize(self, _end_children, self._idle)

    def verify(self, path: str | os.PathLike[str] | bytes) -> bytes:
        """Decode a file of any format, or its bytes, as `autotl.data.decoding.verify` does.

        Raises:
            UndecodableImage: also if the file crashes its decoder, or decoding it takes longer than `timeout`.
        """
        try:
            return verify(path, self.limits, trusted_only=True)
        except UntrustedFormat:
            if not isinstance(path, bytes):
                return self._verify_in_child(Path(path))
        with tempfile.NamedTemporaryFile(prefix="autotl-") as file:
            file.write(path)
            file.flush()
            return self._verify_in_child(Path(file.name))

    def screen(self, content: bytes) -> None:
        """Check an image from anywhere, so that it may be decoded in this process: the header of a trusted format,
        every pixel of another one, in a child.

        Raises:
            TooManyPixels: it has more pixels than the limits allow.
            UndecodableImage: as `verify`; what is broken behind the header of a trusted format is found by `decode`.
        """
        if content.startswith(JPEG_START) and content.count(START_OF_SCAN) > MAX_SCANS:
            raise UndecodableImage(f"it is a JPEG of more than {MAX_SCANS} scans: save it anew")
        try:
            inspect(content, self.limits, trusted_only=True)
        except UntrustedFormat:
            self.verify(content)

    def verify_many(self, paths: Sequence[Path]) -> "list[tuple[str, bytes | UndecodableImage]]":
        """The digest of each file, "" where it can't be read, and its thumbnail or why it can't be decoded; all from
        one child. Ends before the first file that crashes or hangs its decoder, or whose format may be known to this
        process alone: `verify` says what is wrong with it."""
        child = self._take_child()
        timer = threading.Timer(self.timeout, child.kill)
        timer.start()
        answers: list[tuple[str, bytes | UndecodableImage]] = []
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            _send(child.stdin, SEPARATOR.join(map(_absolute, paths)))
            received = [_receive(child.stdout) for _ in paths]
        except OSError:  # the child ended before it read the paths
            received = [None]
        finally:
            timer.cancel()
        for path, answer in zip(paths, received, strict=False):
            if answer is None or answer[:1] == UNKNOWN_FORMAT:
                break
            status, digest, content = answer[:1], answer[1 : 1 + DIGEST_BYTES], answer[1 + DIGEST_BYTES :]
            reason = UndecodableImage(_text(content), path, transient=status == TRANSIENT)
            answers.append((digest.hex() if any(digest) else "", content if status == OK else reason))
        if received[-1] is None:
            child.kill()
            child.wait()
            _close_pipes(child)
        else:
            self._idle.put(child)
        return answers

    def _verify_in_child(self, path: Path) -> bytes:
        child = self._take_child()
        timer = threading.Timer(self.timeout, child.kill)
        timer.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            _send(child.stdin, _absolute(path))
            answer = _receive(child.stdout)
        except OSError:  # the child ended before it read the path
            answer = None
        finally:
            timed_out = not timer.is_alive()
            timer.cancel()
        if answer is None:
            raise self._error_of_ended(child, path, timed_out=timed_out)
        self._idle.put(child)
        status, content = answer[:1], answer[1 + DIGEST_BYTES :]
        if status == OK:
            return content
        if status == UNKNOWN_FORMAT and _has_third_party_decoders():
            return verify(path, self.limits)  # with the decoders that plugins registered in this process
        error_type = TooManyPixels if status == LARGE else UndecodableImage
        raise error_type(_text(content), path, transient=status == TRANSIENT)

    def _take_child(self) -> "subprocess.Popen[bytes]":
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        return subprocess.Popen(
            # -P: the current folder may hold a stranger's data set, with a PIL.py that `-m` alone would import
            [sys.executable, "-P", "-m", "autotl.data.sandbox", *_arguments(self.limits)],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C reaches the parent only
        )

    def _error_of_ended(self, child: "subprocess.Popen[bytes]", path: Path, *, timed_out: bool) -> UndecodableImage:
        """Clean up after a child that ended without an answer, and return the error with the cause."""
        child.kill()
        code = child.wait()
        _close_pipes(child)
        if timed_out:
            return UndecodableImage(f"it hangs its decoder: more than {self.timeout:.0f} s", path, transient=True)
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return UndecodableImage(f"it crashes its decoder ({cause})", path, transient=cause not in CRASH_SIGNALS)

    def __enter__(self) -> "SandboxedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        """End the idle children. A child that is decoding becomes idle again and ends with this object."""
        _end_children(self._idle)


def _end_children(idle: "queue.LifoQueue[subprocess.Popen[bytes]]") -> None:
    with suppress(queue.Empty):
        while True:
            child = idle.get_nowait()
            _close_pipes(child)
            child.wait()


def _has_third_party_decoders() -> bool:
    return any(not opener[0].__module__.startswith("PIL.") for opener in Image.OPEN.values())


def _close_pipes(child: "subprocess.Popen[bytes]") -> None:
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            pipe.close() if pipe else None


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(struct.pack("<I", len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """The next message; None if the other side has ended."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    content = stream.read(length)
    return content if len(content) == length else None


def _absolute(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links


def _text(content: bytes) -> str:
    return content.decode(errors="surrogateescape")


def _arguments(limits: ImageLimits) -> list[str]:
    return [str(limits.max_pixels), str(int(limits.animations)), str(limits.memory)]


def _limits(arguments: Sequence[str]) -> ImageLimits:
    if not arguments:
        return ImageLimits()
    max_pixels, animations, memory = map(int, arguments)
    return ImageLimits(max_pixels, bool(animations), memory)


def _answer(path: Path, limits: ImageLimits) -> bytes:
    digest, content = bytes(DIGEST_BYTES), None
    with suppress(OSError, ValueError, MemoryError):
        if is_image_file(path):  # opening a pipe would wait for a writer
            digits, content = digest_and_content(path)
            digest = bytes.fromhex(digits)
    try:
        return OK + digest + verify(path, limits, content=content)
    except TooManyPixels as error:
        return LARGE + digest + str(error).encode(errors="surrogateescape")
    except UndecodableImage as error:
        is_unknown = isinstance(error.__cause__, UnidentifiedImageError)
        status = UNKNOWN_FORMAT if is_unknown else TRANSIENT if error.transient else UNDECODABLE
        return status + digest + str(error).encode(errors="surrogateescape")


def main() -> None:
    """Run a child until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = _limits(sys.argv[1:])
    _set_limits(limits.memory)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # C libraries print to file descriptor 1: keep their output out of the answers
    while (paths := _receive(sys.stdin.buffer)) is not None:
        for path in paths.split(SEPARATOR):
            _send(answers, _answer(Path(os.fsdecode(path)), limits))


def _set_limits(memory: int) -> None:
    """Write no core files, and let a huge allocation fail with MemoryError before the machine runs out of memory."""
    if sys.platform == "linux":  # macOS doesn't enforce RLIMIT_AS
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
