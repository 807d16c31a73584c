"""The launcher on a cluster of this machine keeps the contract. tests/soak/clusters.py kills its processes."""

import pytest
from autotl_dask.launcher import connect

from autotl.clusters import StudySite
from autotl.errors import AutotlError
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


def test_a_public_address_without_encryption_is_refused(tmp_path):
    with pytest.raises(AutotlError, match=r"neither encrypted nor authenticated.* tls://"):
        connect("tcp://8.8.8.8:8786", StudySite(tmp_path, tmp_path, print), None)


def test_what_is_no_scheduler_is_named(tmp_path):
    site = StudySite(tmp_path, tmp_path, print)
    with pytest.raises(AutotlError, match=r"dask:tcp://HOST:8786"):
        connect("nonsense", site, None)
