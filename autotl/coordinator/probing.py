"""Wait for the answers of the accelerators before the study's choices are made."""

from collections.abc import Callable
from dataclasses import replace

from autotl.clock import Clock
from autotl.config import StudyConfig
from autotl.devices import Slot, slots_without
from autotl.errors import AutotlError
from autotl.hardware import Machine
from autotl.workers.launcher import Ending
from autotl.workers.messages import Context
from autotl.workers.pool import Worker, WorkerPool

__all__ = ["await_probes", "with_slots"]

POLL_SECONDS = 0.1
MAX_SECONDS = 90.0
"""Seconds that an accelerator has for its answer: its worker imports PyTorch, from a disk that may be slow."""
MIN_SECONDS = 20.0
MAX_SHARE = 0.33
"""The same as a share of the search's time."""


def await_probes(
    pool: WorkerPool,
    config: StudyConfig,
    clock: Clock,
    log: Callable[[str], None],
    machine: Machine | None = None,
) -> list[Slot]:
    """The slots of the search, once each accelerator's worker has said whether it works.

    Under `--devices auto` CPU workers take the place of an accelerator that doesn't, is silent for too long, or ends
    its worker, after a line that says why.

    Args:
        machine: the hardware; detected without it.

    Raises:
        AutotlError: a device that `config` names doesn't work.
    """
    limit = min(MAX_SECONDS, max(MIN_SECONDS, MAX_SHARE * config.time)) if config.time else MAX_SECONDS
    end = clock.now() + limit
    failed: dict[str, str] = {}
    while silent := [worker for worker in _accelerators(pool) if worker.slot.place not in failed and not worker.probe]:
        for worker, message in pool.poll(POLL_SECONDS):
            if isinstance(message, Ending) and worker in silent and not worker.probe:
                failed[worker.slot.place] = message.cause + (f" (see {message.log})" if message.log else "")
        if clock.now() >= end:
            failed |= {w.slot.place: f"it didn't answer within {limit:.0f} s" for w in silent if not w.probe}
    failed |= {w.slot.place: w.probe.reason for w in _accelerators(pool) if w.probe and not w.probe.usable}
    if not failed:
        return pool.slots
    lines = [f"{place} is not used: {reason}" for place, reason in failed.items()]
    if pool.launcher.serves_study and len(failed) < len({slot.place for slot in pool.slots}):
        for line in lines:
            log(line)
        for worker in [worker for worker in pool.workers if worker.slot.place in failed]:
            pool.drop(worker, slot_lost=True)
        return pool.slots
    if config.devices != "auto":
        raise AutotlError(f"--devices {config.devices!r}: {'; '.join(lines)}. Type --devices auto to do without.")
    for line in lines:
        log(line)
    _replace(pool, slots_without(pool.slots, failed, machine))
    return pool.slots


def _accelerators(pool: WorkerPool) -> list[Worker]:
    """The workers of the search's own accelerators."""
    return [worker for worker in pool.workers if worker.slot.is_accelerator and not worker.joined]


def _replace(pool: WorkerPool, slots: list[Slot]) -> None:
    """Use other slots: workers of slots that are left go on, with their new share of the cores."""
    by_name = {slot.name: slot for slot in slots}
    for worker in list(pool.workers):
        if worker.joined:
            continue
        if worker.slot.name in by_name:
            worker.slot = by_name.pop(worker.slot.name)
        else:
            pool.drop(worker)
    pool.slots = slots
    for slot in by_name.values():
        pool.add(slot)


def with_slots(context: Context, slots: list[Slot]) -> Context:
    """The context of a search on these slots."""
    has_accelerator = any(slot.is_accelerator for slot in slots)
    choices = replace(context.choices, accelerator=has_accelerator)
    return replace(context, slot=slots[0], cores=sum(slot.threads for slot in slots), choices=choices)
