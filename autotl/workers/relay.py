"""For launchers whose workers run on other hosts: what a host has, and a process whose messages are relayed."""

import asyncio
import json
import os
import queue
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from autotl.clusters import Site
from autotl.config import default_cache
from autotl.devices import Slot, parse_devices, with_threads
from autotl.hardware import detect
from autotl.workers.codec import decode, encode
from autotl.workers.local import LocalLauncher
from autotl.workers.messages import FROM_COORDINATOR, Hello
from autotl.workers.rendezvous import Rendezvous

__all__ = ["HostSlots", "RelayedProcess", "boot_id", "describe_host", "how_versions_differ", "versions"]

LEASE_SECONDS = 60.0
"""Seconds without a coordinator that asks, after which a process is ended: for a cluster that doesn't notice itself
that the coordinator is gone."""
POLL_SECONDS = 0.5
LIBRARIES = ("autotl", "optuna", "scikit-learn", "timm", "torch")


def boot_id() -> str:
    """Tells machines apart, also those whose names are equal."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def versions() -> dict[str, str]:
    """Versions of what a trial's result and its messages depend on: libraries and plugins, by distribution."""
    found = {}
    for name in sorted({*LIBRARIES, *(entry.dist.name for entry in entry_points(group="autotl") if entry.dist)}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def how_versions_differ(theirs: Mapping[str, str]) -> str:
    """What differs on another host from this one, with the command that mends it; "" where nothing does."""
    ours = versions()
    differing = {name: number for name, number in ours.items() if theirs.get(name) != number}
    if not differing:
        return ""
    listed = ", ".join(f"{name} {theirs.get(name, 'is missing')} (here {n})" for name, n in differing.items())
    command = " ".join(f"{name}=={number}" for name, number in differing.items())
    return f"it has other versions: {listed}. Type there: pip install {command}"


def describe_host(threads: int) -> dict[str, Any]:
    """This host: its name, its versions, and a slot for each accelerator, else one CPU slot with `threads`; as JSON."""
    machine = detect()
    accelerators = list(machine.accelerators())
    slots = parse_devices(",".join(accelerators) or "cpu", machine, force=True)
    slots = slots if accelerators else [with_threads(slots[0], threads)]
    described = [{**asdict(slot), "environment": dict(slot.environment)} for slot in slots]
    return {"host": socket.gethostname(), "slots": described, "versions": versions()}


class HostSlots:
    """The slots of a cluster's hosts, each with the address that starts its processes. Several addresses of one host
    share its accelerators; on a host without one each address has a CPU slot."""

    def __init__(self) -> None:
        self._address_of: dict[str, str] = {}

    def add(self, address: str, host: Mapping[str, Any]) -> list[Slot]:
        """The new slots of an address, from `describe_host` there; none where it is known."""
        if address in self._address_of.values():
            return []
        slots = []
        for slot in (Slot(**described) for described in host["slots"]):
            name, number = f"{host['host']}/{slot.name}", 0
            while slot.device_type == "cpu" and name in self._address_of:
                number += 1
                name = f"{host['host']}/cpu:{number}"
            if name not in self._address_of:
                self._address_of[name] = address
                slots.append(replace(slot, name=name))
        return slots

    def remove(self, address: str) -> None:
        """Forget the slots of an address that is gone."""
        self._address_of = {name: there for name, there in self._address_of.items() if there != address}

    def address_of(self, slot: Slot) -> str:
        """The address that starts processes on a slot; "" where it is gone."""
        return self._address_of.get(slot.name, "")


class RelayedProcess:
    """A worker's process on this host, for a coordinator on another: messages go through two queues, as bytes.

    Args:
        slot: as the coordinator knows it.
        cache: the coordinator's, used where `boot` is that of this machine and it can be written.
        boot: `boot_id()` of the coordinator.
        environment: variables for the process, beside those of the slot.
    """

    def __init__(self, slot: Slot, cache: str, boot: str, environment: Mapping[str, str]):
        shares_cache = boot == boot_id() and os.access(cache, os.R_OK | os.W_OK | os.X_OK)
        self._folder = Path(tempfile.mkdtemp(prefix="autotl-worker-"))
        study = self._folder / "study"
        study.mkdir()
        self._slot = slot
        site = Site(str(study), cache if shares_cache else str(default_cache()))
        self._launcher = LocalLauncher(self._folder / "logs", Rendezvous(study), site)
        self._worker = self._launcher.start(replace(slot, environment={**slot.environment, **environment}))
        self._incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ending: str | None = None
        self._ended = threading.Event()
        self._silence = 0.0
        """Seconds since the coordinator asked last, without those in which this process was stopped."""
        self._early, self._next = dict[int, bytes](), 0
        self._on_arrival: Callable[[], object] = lambda: None
        """Wakes `take`."""
        threading.Thread(target=self._relay, daemon=True, name="autotl-relay").start()
        threading.Thread(target=self._deliver, daemon=True, name="autotl-deliver").start()

    def put(self, number: int, message: bytes) -> None:
        """Pass on a message of the coordinator. Returns at once. Calls may overtake each other: `number` counts from 0
        and is their order."""
        self._early[number] = message
        while self._next in self._early:
            self._outgoing.put(self._early.pop(self._next))
            self._next += 1

    async def take(self, seconds: float) -> tuple[list[bytes], str | None]:
        """The messages for the coordinator that have arrived, and an Ending as JSON once none will follow; waits up to
        `seconds` for the first. One call at a time."""
        arrived, loop = asyncio.Event(), asyncio.get_running_loop()
        self._on_arrival = partial(loop.call_soon_threadsafe, arrived.set)
        if not any(taken := self._take()):
            with suppress(TimeoutError):
                await asyncio.wait_for(arrived.wait(), seconds)
            taken = self._take()
        return taken

    def _take(self) -> tuple[list[bytes], str | None]:
        self._silence = 0.0
        ending, messages = self._ending, []  # in this order: none is put after the ending is set
        with suppress(queue.Empty):
            while True:
                messages.append(self._incoming.get_nowait())
        return messages, ending

    def end(self) -> None:
        """End the process and remove its folders, soon."""
        self._ended.set()

    def _relay(self) -> None:
        launcher, worker = self._launcher, self._worker
        while not self._ended.is_set() and self._silence < LEASE_SECONDS:
            alive, began = launcher.alive(worker), time.monotonic()
            received = launcher.receive(POLL_SECONDS if alive else 0.0)
            for _, message in received:
                # the variables of this host are none of the coordinator's slot
                told = replace(message, slot=self._slot) if isinstance(message, Hello) else message
                self._incoming.put(encode(told))
            if received:
                self._ring()
            if not alive:
                break
            self._silence += min(time.monotonic() - began, POLL_SECONDS)
        launcher.kill(worker)
        self._ending = json.dumps(asdict(launcher.how_it_ended(worker)))
        self._ring()
        self._outgoing.put(None)
        launcher.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # the event loop of whoever takes is closed
            self._on_arrival()

    def _deliver(self) -> None:
        """A process that is busy may take its time to read a message."""
        while (message := self._outgoing.get()) is not None:
            self._launcher.send(self._worker, decode(message, FROM_COORDINATOR))
