"""Which job an idle worker gets, with a real scheduler, a study in memory and no process."""

import optuna
import pytest

from autotl.coordinator.dispatch import MAX_ATTEMPTS, SILENT_SECONDS, START_SECONDS, Dispatcher
from autotl.devices import Slot
from autotl.engines.recorded import FeatureSource
from autotl.registry import load_registry
from autotl.study.needs import Recording
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices
from autotl.study.trials import StudyTrials
from autotl.testing.scripted import ScriptedLauncher, VirtualClock
from autotl.workers.messages import Record, RunTrial
from autotl.workers.pool import WorkerPool

LITE0 = "efficientnet_lite0"
CUDA, CPU = Slot("cuda:0", "cuda", "cuda:0", 8), Slot("cpu:0", "cpu", "cpu", 8)
HEAD = {"strategy": "fast_extraction", "backbone": LITE0, "fast_extraction.head": "linear"}
NETWORK = {"strategy": "fine_tuning", "backbone": LITE0, "fine_tuning.head": "linear"}


@pytest.fixture(scope="module")
def registry():
    return load_registry()


class Scene:
    """A dispatcher and its workers, all ready."""

    def __init__(self, registry, folder, *slots, accelerator=True, lost=()):
        self.clock = VirtualClock()
        pool = WorkerPool(ScriptedLauncher(self.clock), list(slots), self.clock)
        choices = Choices((LITE0,), tuple(registry.strategies), ("logistic_regression", "linear"), 100, 2, accelerator)
        scheduler = Scheduler(choices, registry, [], 120, {"cuda": 8, "cpu": 8})
        self.study = optuna.create_study()
        trials = StudyTrials(self.study, folder)
        self.dispatcher = Dispatcher(trials, scheduler, pool, self.clock, lambda worker: worker.slot.name not in lost)
        self.pool, self.trials, self.workers = pool, trials, pool.workers
        for worker in self.workers:
            worker.ready = True

    def give(self, worker, job=None):
        """Choose a job and give it to the worker; returns the job."""
        job = job or self.dispatcher.choose(worker, 600.0)
        if job is not None:
            self.pool.give(worker, job, "")
        return job

    def record(self, worker, device="cuda"):
        """The worker has recorded what it was told to."""
        source = FeatureSource("/cache", "torch", "2", "bf16", device)
        self.dispatcher.ended(worker, source)
        worker.idle()
        return source

    def params(self, job):
        return self.study.trials[job.number].system_attrs["fixed_params"]


@pytest.fixture
def scene(registry, tmp_path):
    return lambda *slots, **options: Scene(registry, tmp_path, *slots, **options)


def test_a_cpu_worker_waits_for_the_first_features(scene):
    one = scene(CUDA, CPU)
    gpu, cpu = one.workers
    assert one.dispatcher.choose(cpu, 600.0) is None
    assert one.give(gpu) == Record(Recording(LITE0))
    assert one.dispatcher.choose(cpu, 600.0) is None
    assert one.study.trials == []
    source = one.record(gpu)
    job = one.give(cpu)
    assert job == RunTrial(0, None, source)
    assert one.params(job)["strategy"] == "fast_extraction"
    assert one.trials.running()[0].number == 0


def test_workers_of_one_sort_do_everything(scene):
    for slot, other in ((CPU, Slot("cpu:1", "cpu", "cpu", 8)), (CUDA, Slot("cuda:1", "cuda", "cuda:0", 8))):
        one = scene(slot, other, accelerator=slot is CUDA)
        jobs = [one.give(one.workers[0]) for _ in range(12)]
        assert all(isinstance(job, RunTrial) and job.source is None for job in jobs)
        assert {one.params(job)["strategy"] for job in jobs} >= {"fast_extraction", "fine_tuning"}


def test_waiting_trials_go_to_the_workers_that_they_suit(scene):
    one = scene(CUDA, CPU)
    gpu, cpu = one.workers
    one.give(gpu)
    one.record(gpu)
    one.trials.enqueue(NETWORK, {"retry_of": 7})
    one.trials.enqueue(HEAD, {"retry_of": 8})
    assert one.give(cpu).number == 1
    one.clock.sleep(100)
    one.dispatcher._seconds[True] = 100.0  # recording has had its time
    assert one.give(gpu).number == 0


def test_features_that_cannot_be_recorded_are_given_up(scene):
    one = scene(CUDA, CPU)
    gpu = one.workers[0]
    jobs = []
    for _ in range(30):
        jobs.append(one.give(gpu))
        one.dispatcher.ended(gpu)  # without a source
        gpu.idle()
        one.clock.sleep(1.0)
    assert jobs.count(Record(Recording(LITE0))) == MAX_ATTEMPTS
    trials = [one.params(job)["strategy"] for job in jobs if isinstance(job, RunTrial)]
    assert "fine_tuning" in trials


def test_features_that_are_given_up_leave_those_that_they_include(scene):
    one = scene(CUDA, CPU)
    gpu = one.workers[0]
    one.dispatcher._attempts[Recording(LITE0, "flip", 1)] = MAX_ATTEMPTS
    assert one.give(gpu) == Record(Recording(LITE0))
    one.record(gpu)
    jobs = [one.give(gpu) for _ in range(10)]
    assert Record(Recording(LITE0, "flip", 1)) not in jobs


def test_features_that_a_trial_did_not_find_are_recorded_again(scene):
    one = scene(CUDA, CPU)
    gpu, cpu = one.workers
    one.give(gpu)
    one.record(gpu)
    job = one.give(cpu)
    trial = one.trials.get(job.number)
    trial.params.update(one.params(job))
    one.dispatcher.forget(trial)
    cpu.idle()
    assert one.dispatcher.recorded == {}
    assert one.dispatcher.choose(cpu, 600.0) is None
    assert one.give(gpu) == Record(Recording(LITE0))


def test_two_accelerators_record_different_features(scene):
    one = scene(CUDA, Slot("cuda:1", "cuda", "cuda:0", 8), CPU)
    first, second = (one.give(worker) for worker in one.workers[:2])
    assert first == Record(Recording(LITE0))
    assert second == Record(Recording(LITE0, "flip", 1))


def test_cpu_workers_do_not_wait_for_an_accelerator_that_does_not_start(scene):
    one = scene(CUDA, CPU)
    gpu, cpu = one.workers
    gpu.ready = False
    assert one.dispatcher.choose(cpu, 600.0) is None
    one.clock.sleep(START_SECONDS)
    job = one.give(cpu)
    assert (job.source, one.params(job)["strategy"]) == (None, "fast_extraction")


def test_cpu_workers_do_not_wait_for_an_accelerator_that_hangs_over_the_first_features(scene):
    one = scene(CUDA, CPU)
    gpu, cpu = one.workers
    one.give(gpu)
    one.clock.sleep(SILENT_SECONDS - 1)
    assert one.dispatcher.choose(cpu, 600.0) is None
    one.clock.sleep(1)
    assert one.dispatcher.choose(cpu, 600.0) is not None


def test_without_the_accelerators_that_it_began_with_a_search_trains_no_networks(scene):
    one = scene(CUDA, CPU, lost=("cuda:0",))
    for _ in range(20):
        job = one.give(one.workers[1])
        assert one.params(job)["strategy"] != "fine_tuning"
        assert job.source is None


def test_a_job_carries_the_source_of_the_features_that_it_reads(scene):
    """Two sorts of accelerators record under keys of their own."""
    one = scene(CUDA, Slot("xpu:0", "xpu", "xpu:0", 8), CPU)
    gpu, xpu, cpu = one.workers
    one.give(gpu, Record(Recording(LITE0)))
    one.give(xpu, Record(Recording(LITE0, "flip", 1)))
    first, second = one.record(gpu), one.record(xpu, "xpu")
    one.trials.enqueue({**HEAD})
    flip = {"strategy": "extract_augment", "backbone": LITE0, "extract_augment.head": "linear"}
    one.trials.enqueue(flip | {"extract_augment.policy": "flip", "extract_augment.views": 1})
    assert one.give(cpu) == RunTrial(0, None, first)
    cpu.idle()
    assert one.give(cpu) == RunTrial(1, None, second)
