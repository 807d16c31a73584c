"""More workers for a search that runs: they belong to its coordinator, which hands them tickets like its own."""

import os
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import Popen
from typing import Any

from filelock import FileLock, Timeout

from autotl.config import StudyConfig
from autotl.coordinator.signals import listening
from autotl.coordinator.supervisor import LOST_IN_A_ROW
from autotl.devices import Slot, parse_devices
from autotl.errors import AutotlError
from autotl.ui.progress import Progress
from autotl.workers.pool import start_worker
from autotl.workers.reaper import Reaper, end_group
from autotl.workers.rendezvous import Rendezvous

__all__ = ["join_search", "search_runs"]

SOUND = 60.0
"""Seconds that a worker has to live for its losses to be forgotten."""


def search_runs(folder: Path) -> bool:
    """Whether a coordinator, here and now, searches in a study's folder."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def join_search(config: StudyConfig, progress: Progress) -> int:
    """Start a worker for each of `config.devices`, and have them work for the search in `config.folder` until it ends,
    or Ctrl-C takes them out again: their trials fail, and are tried once more by the others. Returns how many there
    were.

    Raises AutotlError where no search runs there.
    """
    if not search_runs(config.folder):
        raise AutotlError(f"No search runs in {config.folder}, so there is none to join: start it without --join.")
    joined = _Joined(config.folder, progress, *Rendezvous.find(config.folder))
    slots = [_named(slot) for slot in parse_devices(config.devices)]
    with listening() as interrupts:
        interrupts.searching = True
        try:
            for slot in slots:
                joined.start(slot)
            progress.say(
                f"{', '.join(slot.name for slot in slots)} joined the search in {config.folder}. Ctrl-C takes "
                f"{'it' if len(slots) == 1 else 'them'} out again."
            )
            while joined.processes and interrupts.at is None:
                time.sleep(0.2)
                joined.watch()
        finally:
            joined.close()
    return len(slots)


def _named(slot: Slot) -> Slot:
    """Told apart from the coordinator's own: `cuda:0@4711#2`."""
    return replace(slot, name=f"{slot.place}@{os.getpid()}{slot.name[len(slot.place) :]}")


@dataclass
class _Joined:
    """The processes that joined, while the search runs."""

    folder: Path
    progress: Progress
    address: str
    key: str
    processes: dict[Slot, tuple["Popen[Any]", float]] = field(default_factory=dict)
    losses: Counter[Slot] = field(default_factory=Counter)
    reaper: Reaper = field(default_factory=Reaper)

    def start(self, slot: Slot) -> None:
        log = self.folder / "logs" / f"worker-{slot.name.replace(':', '-').replace('#', '-')}.log"
        process = start_worker(slot, secrets.token_hex(8), self.address, self.key, log)
        self.reaper.watch(process.pid)
        self.processes[slot] = process, time.monotonic()

    def watch(self) -> None:
        """Replace those that died while the search goes on; those that were told to end have ended."""
        for slot, (process, began) in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[slot]
            self._end(process)
            if code == 0 or not search_runs(self.folder):
                continue
            self.losses[slot] = 1 + (self.losses[slot] if time.monotonic() - began < SOUND else 0)
            if self.losses[slot] < LOST_IN_A_ROW:
                self.start(slot)
            else:
                self.progress.say(f"{slot.name} is taken out of use: it lost {LOST_IN_A_ROW} workers in a row")

    def _end(self, process: "Popen[Any]") -> None:
        if os.name == "posix":
            end_group(process.pid)
        process.kill()
        process.wait()
        self.reaper.forget(process.pid)

    def close(self) -> None:
        for process, _ in self.processes.values():
            self._end(process)
        self.processes.clear()
        self.reaper.close()
