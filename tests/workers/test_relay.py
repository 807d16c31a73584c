"""What launchers for other hosts stand on: slots by host, and versions that have to agree."""

from autotl.devices import Slot
from autotl.workers import relay

GPU = {"name": "cuda:0", "device_type": "cuda", "device": "cuda:0", "threads": 4, "environment": {}}
CPU = {"name": "cpu:0", "device_type": "cpu", "device": "cpu", "threads": 2, "environment": {}}


def report(host, *slots):
    return {"host": host, "slots": list(slots), "versions": {}}


def test_a_gpu_that_two_workers_of_a_host_see_is_one_slot():
    slots = relay.HostSlots()
    assert [slot.name for slot in slots.add("tcp://a:1", report("a", GPU))] == ["a/cuda:0"]
    assert slots.add("tcp://a:2", report("a", GPU)) == []
    assert [slot.host for slot in slots.add("tcp://b:1", report("b", GPU))] == ["b"]


def test_each_worker_of_a_host_without_a_gpu_is_a_slot():
    slots = relay.HostSlots()
    found = [slots.add(f"tcp://a:{i}", report("a", CPU))[0] for i in range(3)]
    assert [slot.name for slot in found] == ["a/cpu:0", "a/cpu:1", "a/cpu:2"]
    assert slots.address_of(found[1]) == "tcp://a:1"
    assert slots.add("tcp://a:1", report("a", CPU)) == []  # the scheduler may name it twice
    slots.remove("tcp://a:1")
    assert slots.address_of(found[1]) == ""
    assert slots.add("tcp://a:9", report("a", CPU))[0].name == "a/cpu:1"


def test_a_host_with_other_versions_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(relay, "versions", lambda: {"autotl": "0.1.0", "torch": "2.14.1"})
    assert relay.how_versions_differ({"autotl": "0.1.0", "torch": "2.14.1", "other": "1"}) == ""
    line = relay.how_versions_differ({"torch": "2.13"})
    assert line.endswith("pip install autotl==0.1.0 torch==2.14.1")
    assert "torch 2.13 (here 2.14.1)" in line
    assert "autotl is missing" in line


def test_a_host_describes_itself():
    found = relay.describe_host(3)
    slot = Slot(**found["slots"][0])
    assert slot.threads >= 1
    assert {"autotl", "torch", "optuna"} <= found["versions"].keys()
