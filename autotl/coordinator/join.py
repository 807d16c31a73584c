"""Attach worker processes to a running search; its coordinator schedules them like its own."""

import os
from dataclasses import replace
from pathlib import Path

from autotl.backbones.weights import no_downloads
from autotl.clock import SystemClock
from autotl.config import StudyConfig, find_study, study_config
from autotl.coordinator.setup import kept_config
from autotl.coordinator.signals import handle_signals
from autotl.devices import Slot, parse_devices
from autotl.errors import AutotlError
from autotl.locks import FileLock, NoLocks, Timeout
from autotl.ui.progress import Progress
from autotl.workers.launcher import Ending
from autotl.workers.local import LocalLauncher
from autotl.workers.pool import MAX_CRASHES, CrashCounter, WorkerPool
from autotl.workers.rendezvous import Endpoint

__all__ = ["join_search", "joined_config", "search_runs"]

STABLE_SECONDS = 60.0
"""Seconds after which a worker counts as started well, and earlier crashes on its slot are forgotten."""
POLL_SECONDS = 0.2


def search_runs(folder: Path) -> bool:
    """Whether a coordinator on this machine searches in a study's folder now. Raises AutotlError without locks."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except NoLocks as error:
        raise AutotlError(f"Whether a search runs in {folder} is unknown: {error.strerror}.") from error


def joined_config(
    study: StudyConfig | str | os.PathLike[str], output: str | os.PathLike[str] | None, devices: str | None
) -> StudyConfig:
    """The configuration of the search to join, from a study's name or folder, or from what was passed to it as data."""
    if isinstance(study, StudyConfig):
        return study
    try:
        folder = find_study(os.fspath(study), Path(output or "studies"))
    except AutotlError:  # not a study: the location of its data
        return study_config(os.fspath(study), output=output, devices=devices)
    return kept_config(folder).model_copy(update={"devices": devices or "auto"})


def join_search(config: StudyConfig, progress: Progress) -> int:
    """Start a worker for each of `config.devices` that works for the search in `config.folder` until it ends.

    Ctrl-C ends the workers: their trials are given back, and run again elsewhere. Returns the number of workers.

    Raises:
        AutotlError: no search runs there.
    """
    if not search_runs(config.folder):
        raise AutotlError(f"No search runs in {config.folder}, so there is none to join: start it without --join.")
    clock = SystemClock()
    endpoint = Endpoint.find(config.folder)
    slots = [_joined(slot) for slot in parse_devices(config.devices, force=config.force)]
    crashes = CrashCounter()
    with no_downloads(when=config.forbids_downloads), handle_signals(clock) as interrupts:
        interrupts.searching = True
        pool = WorkerPool(LocalLauncher(config.folder / "logs", endpoint), slots, clock)
        try:
            progress.log(
                f"{', '.join(slot.name for slot in slots)} joined the search in {config.folder}. Ctrl-C takes "
                f"{'it' if len(slots) == 1 else 'them'} out again."
            )
            while pool.workers and interrupts.moment is None:
                for worker, message in pool.poll(POLL_SECONDS):
                    if not isinstance(message, Ending):
                        continue
                    if message.exit_code == 0 or not search_runs(config.folder):
                        pool.drop(worker)
                        continue
                    if clock.now() - worker.since > STABLE_SECONDS:
                        crashes.succeeded(worker.slot.name)
                    if crashes.crashed(worker.slot.name):
                        progress.log(f"{worker.slot.name} is disabled after {MAX_CRASHES} crashed workers")
                        pool.drop(worker)
                    else:
                        pool.replace(worker)
            if not pool.workers and interrupts.moment is None:
                progress.log(f"No worker is left here: the search in {config.folder} has ended, or needs none.")
            elif pool.workers:
                progress.log(
                    f"{', '.join(worker.slot.name for worker in pool.workers)} left the search, which goes on: running "
                    "trials are given back to it."
                )
        finally:
            pool.close(immediately=True)
    return len(slots)


def _joined(slot: Slot) -> Slot:
    """A name that differs from those of the coordinator's own workers: `cuda:0@4711#2`."""
    return replace(slot, name=f"{slot.place}@{os.getpid()}{slot.name[len(slot.place) :]}")
