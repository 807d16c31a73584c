"""Downloads of a search, one after the other, each in a process of its own, while trials run on what is here."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotl.atomic_io import DiskFull, format_bytes
from autotl.backbones.base import Backbone
from autotl.clock import Clock, SystemClock
from autotl.coordinator.choose_backbones import ASSUMED_BYTES_PER_SECOND
from autotl.data.sandbox import child_environment
from autotl.errors import AutotlError
from autotl.ui.progress import WorkerLine
from autotl.workers.reaper import kill_group

__all__ = ["Fetching"]

LOG_SECONDS = 10.0
"""Between two lines about a download that the search waits for."""
POLL_SECONDS = 0.1


@dataclass
class _Download:
    """One that runs."""

    backbone: Backbone
    process: "subprocess.Popen[bytes]"
    since: float
    first: int | None = None
    """Bytes that were here when it began."""
    done: int = 0
    total: int | None = None
    buffer: bytes = b""
    outcome: dict | None = None
    """The last message: `error` is None where the weights have arrived."""


@dataclass
class Fetching:
    """The backbones whose weights are to be downloaded, the smallest first.

    Args:
        log: shows a line to the user.
        without_plugins: plugins that this search leaves out.
    """

    missing: list[Backbone] = field(default_factory=list)
    log: Callable[[str], None] = lambda line: None
    without_plugins: Sequence[str] = ()
    clock: Clock = field(default_factory=SystemClock)
    bytes_per_second: float = ASSUMED_BYTES_PER_SECOND
    """Of the last download."""
    failures: dict[str, AutotlError] = field(default_factory=dict)
    """By backbone."""
    _current: _Download | None = None

    @property
    def is_pending(self) -> bool:
        """Whether weights may still arrive."""
        return bool(self.missing) or self._current is not None

    def fetch_first(self, backbones: Sequence[Backbone], *, all_of_them: bool, required: bool) -> None:
        """Download what has to be here before the first trial.

        Args:
            backbones: all of the search.
            all_of_them: everything that is missing; otherwise one backbone, where none is here.
            required: one that can't be had is an error, also where others are here.

        Raises:
            AutotlError: nothing is here, or something that is required isn't.
            DiskFull: there is no room.
        """
        while self.missing and (all_of_them or not any(b.is_cached for b in backbones)):
            self.wait(self.missing[0])
        if self.failures and (required or not any(b.is_cached for b in backbones)):
            name, failure = next(iter(self.failures.items()))
            raise AutotlError(f"{name}: {failure}") from failure

    def wait(self, backbone: Backbone) -> None:
        """Download a backbone's weights now. A failure is in `failures`.

        Raises:
            DiskFull: there is no room for them.
        """
        logged = self.clock.now()
        self._start(backbone)
        while (current := self._current) is not None:
            if self.advance(lambda name, seconds: False):
                return
            if self._current is current and self.clock.now() - logged >= LOG_SECONDS:
                logged = self.clock.now()
                self.log(f"{backbone.name}: {_progress(current, logged)}")
            self.clock.sleep(POLL_SECONDS)
        failure = self.failures.get(backbone.name)
        if isinstance(failure, DiskFull):
            raise failure

    def advance(self, has_time_for: Callable[[str, float], bool]) -> list[str]:
        """Look after the download that runs, and begin the next; returns the names of those that have arrived.

        Args:
            has_time_for: whether a backbone is worth its download, which takes so many seconds.
        """
        arrived = []
        if self._current and self._has_ended(self._current):
            arrived = self._finish(self._current)
        if self._current is None:
            seconds = {b.name: 1e6 * (b.megabytes or 0) / self.bytes_per_second for b in self.missing}
            chosen = next((b for b in self.missing if has_time_for(b.name, seconds[b.name])), None)
            if chosen:
                self._start(chosen)
        return arrived

    def lines(self) -> tuple[WorkerLine, ...]:
        """What the display shows about the download that runs."""
        if self._current is None:
            return ()
        now = self.clock.now()
        text = _progress(self._current, now)
        return (WorkerLine("download", None, self._current.backbone.name, text, now - self._current.since),)

    def close(self) -> None:
        """End the download that runs; another search continues it. Idempotent."""
        if self._current:
            kill_group(self._current.process.pid)
            self._release(self._current)

    def _start(self, backbone: Backbone) -> None:
        self.missing.remove(backbone)
        self.log(f"{backbone.name}: downloading its weights from {backbone.download}")
        named = {"name": backbone.name, "without_plugins": list(self.without_plugins)}
        options = json.dumps({"location": backbone.location} if backbone.location else named)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "autotl.coordinator.fetch_process", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,  # keeps Ctrl-C from it: the coordinator decides
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        self._current = _Download(backbone, process, self.clock.now())

    def _has_ended(self, current: _Download) -> bool:
        has_exited = current.process.poll() is not None  # asked first, so that nothing is written after the last read
        assert current.process.stdout
        while piece := current.process.stdout.read(1 << 16):
            current.buffer += piece
        *lines, current.buffer = current.buffer.split(b"\n")
        for message in map(json.loads, lines):
            if "error" in message:
                current.outcome = message
            else:
                current.first = message["done"] if current.first is None else current.first
                current.done, current.total = message["done"], message["total"]
        return has_exited or current.outcome is not None

    def _finish(self, current: _Download) -> list[str]:
        name, seconds = current.backbone.name, self.clock.now() - current.since
        outcome = current.outcome or {"error": f"the process that downloaded it ended ({current.process.wait()})"}
        self._release(current)
        if outcome["error"] is None:
            if current.total and seconds > 1:
                self.bytes_per_second = max(1.0, (current.total - (current.first or 0)) / seconds)
            self.log(f"{name}: its weights have arrived")
            return [name]
        text = str(outcome["error"])
        self.failures[name] = DiskFull(text, Path(outcome["disk"])) if outcome.get("disk") else AutotlError(text)
        self.log(f"{name} is left out: {text}")
        if outcome.get("unreachable") and self.missing:  # nothing else would arrive either
            self.log(f"So {'is' if len(self.missing) == 1 else 'are'}: {', '.join(b.name for b in self.missing)}")
            self.missing.clear()
        return []

    def _release(self, current: _Download) -> None:
        assert current.process.stdin
        assert current.process.stdout
        current.process.stdin.close()  # it ends by itself now, if it hasn't
        current.process.wait()
        current.process.stdout.close()
        self._current = None


def _progress(current: _Download, now: float) -> str:
    """`120.0 MB of 346.0 MB, 11.2 MB/s`."""
    if current.first is None:
        return "connecting"
    of = f" of {format_bytes(current.total)}" if current.total else ""
    speed = (current.done - current.first) / max(0.1, now - current.since)
    return f"{format_bytes(current.done)}{of}, {format_bytes(speed)}/s"
