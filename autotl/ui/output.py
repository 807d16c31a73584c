"""Standard output of a command that a program reads: JSON, a model's folder, predictions."""

import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["reserve_stdout", "write_line"]

_reserved: TextIO | None = None


def reserve_stdout() -> None:
    """Keep standard output for `write_line`: what a plugin or library prints, in Python or in C, goes to stderr."""
    global _reserved
    if _reserved is not None or sys.stdout is None:
        return
    sys.stdout.flush()
    _reserved = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    with suppress(OSError):  # stderr is closed: there is nowhere else to print to
        os.dup2(2, 1)
        # anew: the old one takes a terminal for the file that it wrote to, and fails to seek there
        sys.stdout = os.fdopen(1, "w", 1, encoding=sys.stdout.encoding, errors="backslashreplace", closefd=False)


def write_line(text: str) -> None:
    """Write a line to standard output."""
    print(text, file=_reserved or sys.stdout, flush=True)
