"""What launchers for other hosts stand on: slots by host, and versions that have to agree."""

import asyncio
import queue
import threading
import time

import pytest

from autotl.devices import Slot
from autotl.workers import relay
from autotl.workers.codec import decode, encode
from autotl.workers.launcher import Ending
from autotl.workers.messages import FROM_WORKER, Log, SetDeadline

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


class Process:
    """A launcher of one process, whose messages are put into `says`."""

    def __init__(self, *_):
        self.says, self.got, self.killed = queue.SimpleQueue(), [], threading.Event()

    def start(self, slot):
        return "w"

    def receive(self, timeout):
        try:
            return [("w", self.says.get(timeout=timeout))]
        except queue.Empty:
            return []

    def send(self, worker, message):
        self.got.append(message)

    def alive(self, worker):
        return True

    def kill(self, worker):
        self.killed.set()

    def how_it_ended(self, worker):
        return Ending("killed")

    def close(self):
        pass


@pytest.fixture
def relayed(monkeypatch, tmp_path):
    monkeypatch.setattr(relay, "LocalLauncher", Process)
    monkeypatch.setattr(relay, "Rendezvous", lambda study: None)
    process = relay.RelayedProcess(Slot("cpu:0", "cpu", "cpu", 1), str(tmp_path), "", {})
    yield process
    process.end()
    assert process._launcher.killed.wait(10)


def test_a_message_wakes_whoever_waits_for_it(relayed):
    async def take():
        waiting = asyncio.ensure_future(relayed.take(60))
        await asyncio.sleep(0.01)
        relayed._launcher.says.put(Log("hello"))
        return await asyncio.wait_for(waiting, 10)

    (message,), ending = asyncio.run(take())
    assert decode(message, FROM_WORKER) == Log("hello")
    assert ending is None
    assert asyncio.run(relayed.take(0.01)) == ([], None)


def test_messages_that_overtake_each_other_are_put_in_order(relayed):
    messages = [SetDeadline(float(i)) for i in range(4)]
    for number in (1, 0, 3, 2):
        relayed.put(number, encode(messages[number]))
    end = time.monotonic() + 10
    while len(relayed._launcher.got) < 4 and time.monotonic() < end:
        time.sleep(0.001)
    assert relayed._launcher.got == messages


def test_many_messages_while_nobody_asks_do_not_end_the_process(relayed):
    for number in range(300):
        relayed._launcher.says.put(Log(str(number)))
    while not relayed._launcher.says.empty() and not relayed._launcher.killed.is_set():
        time.sleep(0.001)
    messages = []
    while len(messages) < 300:
        taken, ending = asyncio.run(relayed.take(10))
        assert taken
        assert ending is None
        messages += taken
