"""What a search does with the answers of its accelerators before its first trial."""

import pytest

from autotl.config import StudyConfig
from autotl.coordinator.probing import MIN_SECONDS, await_probes
from autotl.devices import parse_devices
from autotl.engines.probe import ProbeResult
from autotl.errors import AutotlError
from autotl.hardware import GIB, Gpu, Machine
from autotl.testing.scripted import ScriptedLauncher, VirtualClock
from autotl.workers.launcher import Ending
from autotl.workers.messages import Hello, Probed
from autotl.workers.pool import WorkerPool

MACHINE = Machine(16, 128 * GIB, (Gpu("T4", "0"), Gpu("T4", "1")))
FULL = "its memory is full"


class Scene:
    """A pool of workers that start, and the lines that a user sees."""

    def __init__(self, devices="auto", machine=MACHINE, **config):
        self.clock, self.machine, self.lines = VirtualClock(), machine, []
        self.launcher = ScriptedLauncher(self.clock, ending=Ending("killed by signal 11, SIGSEGV", -11, "worker.log"))
        self.pool = WorkerPool(self.launcher, parse_devices(devices, machine), self.clock)
        self.config = StudyConfig(data="cells", devices=devices, **config)

    def answer(self, place, reason=""):
        for worker in self.pool.workers:
            if worker.slot.place == place:
                probe = ProbeResult("cuda:0", usable=not reason, reason=reason)
                self.launcher.deliver(worker.identity, [Hello(worker.identity, worker.slot), Probed(probe)])

    def wait(self):
        slots = await_probes(self.pool, self.config, self.clock, self.lines.append, self.machine)
        assert slots == self.pool.slots
        assert [worker.slot for worker in self.pool.workers if not worker.joined] == slots
        return [slot.name for slot in slots]


def test_without_an_accelerator_nothing_is_waited_for():
    one = Scene("cpu*2")
    assert one.wait() == ["cpu:0", "cpu:1"]
    assert one.clock.now() == 1000.0


def test_accelerators_that_work_are_used():
    one = Scene()
    one.answer("cuda:0")
    one.answer("cuda:1")
    before = list(one.pool.workers)
    assert one.wait()[:2] == ["cuda:0", "cuda:1"]
    assert one.pool.workers == before
    assert one.lines == []


def test_cpu_workers_take_the_place_of_one_that_does_not():
    one = Scene()
    kept = one.pool.workers[1:]
    one.answer("cuda:0", FULL)
    one.answer("cuda:1")
    assert one.wait() == ["cuda:1", *(f"cpu:{i}" for i in range(8))]
    assert one.pool.workers == kept  # they go on, with another share of the cores
    assert one.lines == [f"cuda:0 is not used: {FULL}"]
    assert sum(slot.threads for slot in one.pool.slots) == 16


def test_where_none_works_there_are_the_workers_of_a_machine_without_a_gpu():
    one = Scene(machine=Machine(4, 32 * GIB, MACHINE.gpus[:1]))
    assert [slot.name for slot in one.pool.slots] == ["cuda:0", "cpu:0", "cpu:1"]
    one.answer("cuda:0", FULL)
    assert one.wait() == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert [slot.threads for slot in one.pool.slots] == [1] * 4


def test_a_worker_that_dies_of_its_driver_counts_as_an_answer():
    one = Scene()
    one.answer("cuda:1")
    one.launcher.dead.add(one.pool.workers[0].identity)
    assert one.wait()[0] == "cuda:1"
    assert one.lines == ["cuda:0 is not used: killed by signal 11, SIGSEGV (see worker.log)"]


def test_a_driver_that_hangs_is_waited_for_as_long_as_the_time_allows():
    one = Scene(time=30)
    one.answer("cuda:1")
    hangs = one.pool.workers[0]
    assert one.wait()[0] == "cuda:1"
    assert one.lines == ["cuda:0 is not used: it didn't answer within 20 s"]
    assert MIN_SECONDS <= one.clock.now() - 1000.0 < MIN_SECONDS + 1
    assert hangs.identity in one.launcher.killed


def test_a_device_that_was_typed_and_does_not_work_is_an_error():
    one = Scene("cuda:0,cpu*2")
    one.answer("cuda:0", FULL)
    with pytest.raises(
        AutotlError, match=r"'cuda:0,cpu\*2': cuda:0 is not used: its memory is full. Type --devices auto"
    ):
        one.wait()
