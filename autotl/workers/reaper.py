"""Reaper: kills the worker process groups once the coordinator's pipe closes. Standalone script, standard library only.

Workers end by themselves when their connection breaks; one that hangs, or has started processes of its own, may not.
Standard input lists process groups, a number a line (negative: no longer watched), and closes with the coordinator.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress

__all__ = ["Reaper", "kill_group"]


def kill_group(leader: int) -> None:
    """Kill a process and everything that it started."""
    with suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


class Reaper:
    """The coordinator's handle on the reaper process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, leader: int) -> None:
        """Kill the process group of `leader` when this process ends, however it ends."""
        self._write(leader)

    def forget(self, leader: int) -> None:
        """Stop watching a process group that has ended: its number may be used again."""
        self._write(-leader)

    def _write(self, number: int) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(b"%d\n" % number)
            self._process.stdin.flush()

    def close(self) -> None:
        """End the reaper, which kills what it still watches."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """The reaper process."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        number = int(line)
        groups.add(number) if number > 0 else groups.discard(-number)
    for leader in groups:
        kill_group(leader)


if __name__ == "__main__":
    main()
