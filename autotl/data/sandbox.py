"""Reads images of unusual formats in child processes: a file that crashes its reader takes one of those down, no more.

A child is `python -m autotl.data.sandbox`. It is sent paths and answers with a thumbnail or a reason, each as a length
of four bytes and that many bytes; it ends when its parent does.
"""

import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

from PIL import Image

from autotl.data.decoding import UndecodableImage, UnusualImage, verify

__all__ = ["SECONDS", "Readers"]

SECONDS = 30.0
"""A reader that takes longer over one file has lost its way."""
MEMORY = 8 << 30
"""Bytes that a child may ask for: several times what the largest image that is read takes."""
CRASHES = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"}
SOUND, BROKEN, UNKNOWN, PASSING = b"s", b"b", b"u", b"p"


class Readers:
    """Child processes that read images, started when they are needed, as many as threads ask at the same time."""

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self._idle: queue.LifoQueue[subprocess.Popen[bytes]] = queue.LifoQueue()
        weakref.finalize(self, _end, self._idle)

    def verify(self, path: str | os.PathLike[str]) -> bytes:
        """As `autotl.data.decoding.verify`, for any format; what crashes or hangs a reader counts as undecodable."""
        try:
            return verify(path, usual_only=True)
        except UnusualImage:
            return self._verify_apart(Path(path))

    def _verify_apart(self, path: Path) -> bytes:
        child = self._child()
        timer = threading.Timer(self.seconds, child.kill)
        timer.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            _send(child.stdin, os.fsencode(os.path.abspath(path)))  # noqa: PTH100 - links stay links
            answer = _receive(child.stdout)
        except OSError:  # it ended before it had read the path
            answer = None
        finally:
            hung = not timer.is_alive()
            timer.cancel()
        if answer is None:
            raise self._lost(child, path, hung)
        self._idle.put(child)
        kind, words = answer[:1], answer[1:]
        if kind == SOUND:
            return words
        if kind == UNKNOWN and _more_than_pillows_own():
            return verify(path)  # by a reader that a plugin brought, after Pillow's own have all refused it
        raise UndecodableImage(words.decode(errors="surrogateescape"), path, passing=kind == PASSING)

    def _child(self) -> "subprocess.Popen[bytes]":
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        return subprocess.Popen(
            [sys.executable, "-m", "autotl.data.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent
        )

    def _lost(self, child: "subprocess.Popen[bytes]", path: Path, hung: bool) -> UndecodableImage:
        child.kill()
        code = child.wait()
        _close(child)
        if hung:
            return UndecodableImage(f"its reader hung: it took more than {self.seconds:.0f} s", path, passing=True)
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return UndecodableImage(f"it crashes its reader ({name})", path, passing=name not in CRASHES)

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        """End the children that wait; a thread that still reads keeps its own."""
        _end(self._idle)


def _end(idle: "queue.LifoQueue[subprocess.Popen[bytes]]") -> None:
    with suppress(queue.Empty):
        while True:
            child = idle.get_nowait()
            _close(child)
            child.wait()


def _more_than_pillows_own() -> bool:
    return any(not reader[0].__module__.startswith("PIL.") for reader in Image.OPEN.values())


def _close(child: "subprocess.Popen[bytes]") -> None:
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            pipe.close() if pipe else None


def _send(stream: IO[bytes], content: bytes) -> None:
    stream.write(struct.pack("<I", len(content)) + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """None where the other side has ended."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    content = stream.read(length)
    return content if len(content) == length else None


def _answer(path: Path) -> bytes:
    try:
        return SOUND + verify(path)
    except UndecodableImage as error:
        unknown = type(error.__cause__).__name__ == "UnidentifiedImageError"
        kind = UNKNOWN if unknown else PASSING if error.passing else BROKEN
        return kind + str(error).encode(errors="surrogateescape")


def main() -> None:
    """The child: until its parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints is no answer
    paths = sys.stdin.buffer
    while (path := _receive(paths)) is not None:
        _send(answers, _answer(Path(os.fsdecode(path))))


def _limit() -> None:
    """No core files of hundreds of megabytes, and an error instead of the machine's last memory."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))


if __name__ == "__main__":
    main()
