"""The launcher that starts an actor for each slot of a Dask cluster, and relays its messages."""

import asyncio
import concurrent.futures
import copy
import json
import logging
import queue
import re
import secrets
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from autotl.clusters import StudySite, refuse_plain
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.workers.codec import decode, encode
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.messages import FROM_WORKER, FromWorker, ToWorker
from autotl.workers.relay import HostSlots, boot_id, how_versions_differ
from autotl_dask.actor import SlotActor, report

__all__ = ["DaskLauncher", "connect"]

CONNECT_SECONDS, JOIN_SECONDS, REACH_SECONDS = 20.0, 60.0, 3.0
"""Seconds for the connection to a scheduler, for the first worker of a new cluster, and for a Dask worker's answer."""
TAKE_SECONDS, END_SECONDS = 10.0, 5.0
"""Seconds that an actor waits for a message before it answers with none, and that all processes get to end."""
REJOIN_SECONDS = 30.0
"""Seconds that a search without any worker waits for a host: Dask's nannies restart a killed worker in a few."""
QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}


def connect(where: str, site: StudySite, client: Client | None) -> "DaskLauncher":
    """The launcher for `tcp://host:8786`, `tls://…` or `local*4`. A `client` is used, and left open, where given."""
    if client is not None:
        return DaskLauncher(client, site, ExitStack())
    local = re.fullmatch(r"local(?:\*([1-9]\d{0,2}))?", where)
    if not local and not re.match(r"(tcp|tls|ws|wss|ucx)://", where):
        example = "Type dask:tcp://HOST:8786, dask:tls://HOST:8786, or dask:local*4 for four workers on this machine."
        raise AutotlError(f"--devices dask:{where}: not the address of a scheduler. {example}")
    refuse_plain(where)
    for name in ("batched", "client", "core", "nanny", "scheduler", "worker"):
        logging.getLogger(f"distributed.{name}").setLevel(logging.CRITICAL)  # the search says what a loss means
    with ExitStack() as opened:
        scheduler: Any = where
        try:
            if local:
                # in this process: trials have processes of their own, which are forked from one template then
                options = {"processes": False, "threads_per_worker": 1, "n_workers": int(local[1] or CPU_COUNT)}
                options |= {"memory_limit": None, "dashboard_address": None, "silence_logs": logging.CRITICAL}
                with dask.config.set(QUIET):  # else each Dask worker looks 150 times a second at tasks it hasn't
                    scheduler = opened.enter_context(closing(LocalCluster(**options)))
            client = opened.enter_context(closing(Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)))
        except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
            remedy = "Start one: dask scheduler; and on each host: dask worker tcp://SCHEDULER:8786"
            cause = f"{type(error).__name__}: {str(error)[:200]}"
            raise AutotlError(f"--devices dask:{where}: no scheduler answers there ({cause}). {remedy}") from error
        return DaskLauncher(client, site, opened.pop_all())


@dataclass(eq=False)
class _Remote:
    """One trial process on the cluster."""

    slot: Slot
    address: str
    """Of its Dask worker."""
    actor: Any = None
    num_sent: int = 0
    ending: Ending | None = None
    relay: "concurrent.futures.Future[None] | None" = None


class DaskLauncher(Launcher):
    """The slots are those of the cluster's hosts: each accelerator once, and for each Dask worker on a host without one
    a CPU slot."""

    serves_study = True

    def __init__(self, client: Client, site: StudySite, opened: ExitStack):
        self.client, self.site, self._opened = client, site, opened
        self._slots = HostSlots()
        self._remotes: dict[str, _Remote] = {}
        self._messages: queue.SimpleQueue[tuple[str, FromWorker] | None] = queue.SimpleQueue()
        self._hosts: queue.SimpleQueue[tuple[str, dict[str, Any] | None]] = queue.SimpleQueue()
        """Reports of Dask workers that have come, by their addresses; None for one that is gone."""
        self._lost_at = time.monotonic()
        self._is_direct = client.direct_to_workers is None  # else the user of the client has decided
        """Whether messages take no detour by the scheduler: so far, all Dask workers have answered this process."""
        opened.callback(setattr, client, "direct_to_workers", client.direct_to_workers)
        client.direct_to_workers = client.direct_to_workers or self._is_direct
        client.subscribe_topic("all", self._heard)
        opened.callback(client.unsubscribe_topic, "all")
        try:
            with suppress(TimeoutError):  # the search says that there is none
                client.wait_for_workers(1, timeout=JOIN_SECONDS)
            for address, host in client.run(report).items():
                client.sync(self._add, address, host)
        except Exception as error:  # whatever a host raises: most often an ImportError
            self.close()
            if isinstance(error, AutotlError):
                raise
            cause = f"A host of the cluster can't run trials: {type(error).__name__}: {error}"
            raise AutotlError(f"{cause}. Install there what is installed here: {how_versions_differ({})}") from error

    async def _add(self, address: str, host: dict[str, Any]) -> None:
        if differing := how_versions_differ(host["versions"]):
            raise AutotlError(f"{host['host']} ({address}) can't run trials of this search: {differing}")
        if self._is_direct:
            try:
                await asyncio.wait_for(self.client.rpc(address).identity(), REACH_SECONDS)
            except Exception:  # a firewall: messages go through the scheduler
                self._is_direct = self.client.direct_to_workers = False
        self._hosts.put((address, host))

    def _heard(self, event: Any) -> None:
        """An event of the scheduler; called on the client's event loop."""
        message = event[1]
        if message.get("action") == "add-worker":
            self.client.loop.add_callback(self._welcome, message["worker"])
        elif message.get("action") == "remove-worker":
            self._hosts.put((message["worker"], None))
            self._messages.put(None)  # wakes `receive`

    async def _welcome(self, address: str) -> None:
        with suppress(Exception):  # it has left again
            try:
                await self._add(address, (await self.client.run(report, workers=[address]))[address])
            except AutotlError as error:
                self.site.log(f"warning: {error}")

    def new_slots(self) -> list[Slot]:
        slots: list[Slot] = []
        with suppress(queue.Empty):
            while True:
                address, host = self._hosts.get_nowait()
                if host is not None:
                    slots += self._slots.add(address, host)
                    continue
                self._slots.remove(address)
                self._lost_at = time.monotonic()
                for remote in self._remotes.values():
                    if remote.address == address and not remote.ending:
                        remote.ending = Ending(f"its Dask worker, {address}, is gone", slot_lost=True)
        return slots

    def may_grow(self) -> bool:
        return self.client.status == "running" and time.monotonic() - self._lost_at < REJOIN_SECONDS

    def start(self, slot: Slot) -> str:
        token = secrets.token_hex(8)
        remote = self._remotes[token] = _Remote(slot, self._slots.address_of(slot))
        if remote.address:
            relay = self._relay(token, remote)
            remote.relay = asyncio.run_coroutine_threadsafe(relay, self.client.loop.asyncio_loop)
        else:
            remote.ending = Ending(f"the host of {slot.name} is gone", slot_lost=True)
        return token

    async def _relay(self, token: str, remote: _Remote) -> None:
        """Create the actor, and pass on what it says until it ends. Runs on the client's event loop."""
        given = (remote.slot, str(self.site.cache), boot_id(), dict(self.site.environment))
        try:
            future = self.client.submit(SlotActor, *given, actor=True, workers=[remote.address], key=f"autotl-{token}")
            actor = await future
            with self.client.as_current():  # a copy is bound to it: one of a Dask worker in this process is not
                remote.actor = copy.copy(actor)
            while not remote.ending:
                contents, ending = await remote.actor.take(TAKE_SECONDS)
                for content in contents:
                    self._messages.put((token, decode(content, FROM_WORKER)))
                if ending:
                    remote.ending = remote.ending or Ending(**json.loads(ending))
            remote.actor.end()  # it may have been killed before it was there
        except (Exception, asyncio.CancelledError) as error:  # its host is gone, or what it said is no message
            cause = f"{remote.slot.name} can't be reached any more: {type(error).__name__}: {error}"
            remote.ending = remote.ending or Ending(cause[:300], slot_lost=True)
        self._messages.put(None)
        remote.actor = None  # Dask forgets it

    def send(self, worker: str, message: ToWorker) -> None:
        remote = self._remotes[worker]
        if self.alive(worker) and remote.actor is not None:
            with suppress(Exception):  # gone since: `alive` will say so
                remote.actor.put(remote.num_sent, encode(message))
                remote.num_sent += 1

    def receive(self, timeout: float) -> list[tuple[str, FromWorker]]:
        items: list[tuple[str, FromWorker] | None] = []
        with suppress(queue.Empty):
            items.append(self._messages.get(timeout=max(timeout, 1e-6)))
            while True:
                items.append(self._messages.get_nowait())
        return [item for item in items if item]

    def alive(self, worker: str) -> bool:
        return self._remotes[worker].ending is None

    def kill(self, worker: str) -> None:
        remote = self._remotes[worker]
        if not remote.ending:
            remote.ending = Ending("the worker was killed")
            with suppress(Exception):  # gone already, or not there yet: `_relay` ends it
                remote.actor.end()

    def how_it_ended(self, worker: str) -> Ending:
        return self._remotes[worker].ending or Ending("it has not ended")

    def close(self) -> None:
        for worker in self._remotes:
            self.kill(worker)
        concurrent.futures.wait([remote.relay for remote in self._remotes.values() if remote.relay], END_SECONDS)
        with suppress(Exception):  # the scheduler is gone
            self._opened.close()
