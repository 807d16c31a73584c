"""The launcher on a cluster of this machine keeps the contract. tests/soak/clusters.py kills its processes."""

import asyncio
import os
import queue
from types import SimpleNamespace

import pytest
from autotl_dask.actor import SlotActor
from autotl_dask.launcher import connect

from autotl.clusters import StudySite
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.testing import launcher_checks
from autotl.workers.relay import describe_host


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    launcher = connect("local*2", StudySite(folder, folder / "cache", print), None)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def slot(launcher):
    slots = launcher.new_slots()
    assert len(slots) == 2
    assert len({slot.name for slot in slots}) == 2
    assert all(slot.host for slot in slots)
    return slots[0]


def test_messages_take_no_detour_by_the_scheduler_where_they_need_none(launcher, monkeypatch):
    client = launcher.client
    assert client.direct_to_workers
    monkeypatch.setattr("autotl_dask.launcher.REACH_SECONDS", 0.01)
    monkeypatch.setattr(client, "rpc", lambda address: SimpleNamespace(identity=lambda: asyncio.sleep(60)))
    for owner, name, value in ((launcher, "_is_direct", True), (client, "direct_to_workers", True)):
        monkeypatch.setattr(owner, name, value)
    monkeypatch.setattr(launcher, "_hosts", queue.SimpleQueue())
    client.sync(launcher._add, "tcp://behind-a-firewall:1", describe_host(1))
    assert not client.direct_to_workers
    assert launcher._hosts.get_nowait()[0] == "tcp://behind-a-firewall:1"


@pytest.mark.parametrize("value", ["65536", "1000000"])
def test_trials_manage_memory_as_beside_no_nanny(monkeypatch, value):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", value)
    monkeypatch.setattr("autotl_dask.actor.RelayedProcess", lambda *_: SimpleNamespace(end=lambda: None))
    SlotActor(Slot("cpu:0", "cpu", "cpu", 1))
    assert os.environ.get("MALLOC_TRIM_THRESHOLD_") == (None if value == "65536" else value)  # the user's own stays


@pytest.mark.slow
@launcher_checks
def test_contract(check, launcher, slot, monkeypatch):
    monkeypatch.setattr("autotl.testing.launchers.END_SECONDS", 120.0)  # a worker imports torch before it reads Stop
    check(launcher, slot=slot)


def test_a_public_address_without_encryption_is_refused(tmp_path):
    with pytest.raises(AutotlError, match=r"neither encrypted nor authenticated.* tls://"):
        connect("tcp://8.8.8.8:8786", StudySite(tmp_path, tmp_path, print), None)


def test_what_is_no_scheduler_is_named(tmp_path):
    site = StudySite(tmp_path, tmp_path, print)
    with pytest.raises(AutotlError, match=r"dask:tcp://HOST:8786"):
        connect("nonsense", site, None)
