"""Ends the workers of a coordinator that is gone, however it went: a program of its own, and nothing but Python.

Workers notice by themselves that their coordinator is gone; one that hangs, or has started processes of its own, may
not. Standard input says which process groups there are, a number a line (negative: it is over), and ends with the
coordinator.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress

__all__ = ["Reaper", "end_group"]


def end_group(leader: int) -> None:
    """Kill a process and all that it has started."""
    with suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


class Reaper:
    """The coordinator's end of it. Where there are no process groups (Windows) workers have only themselves."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if os.name == "posix":
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def watch(self, leader: int) -> None:
        self._say(leader)

    def forget(self, leader: int) -> None:
        self._say(-leader)

    def _say(self, number: int) -> None:
        if self._process and self._process.stdin:
            with suppress(OSError):
                self._process.stdin.write(b"%d\n" % number)
                self._process.stdin.flush()

    def close(self) -> None:
        if self._process and self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
            self._process.wait()


def main() -> None:
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        groups.add(number) if number > 0 else groups.discard(-number)
    for leader in groups:
        end_group(leader)


if __name__ == "__main__":
    main()
