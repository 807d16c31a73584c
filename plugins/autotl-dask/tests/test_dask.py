"""The launcher on a cluster of this machine: the contract, lost hosts, and a whole search without a shared folder."""

import pytest
from autotl_dask.launcher import connect

from autotl.clusters import StudySite
from autotl.testing import launcher_checks


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


@pytest.mark.slow
@launcher_checks
def test_contract(check, launcher, slot, monkeypatch):
    monkeypatch.setattr("autotl.testing.launchers.END_SECONDS", 120.0)  # a worker imports torch before it reads Stop
    check(launcher, slot=slot)
