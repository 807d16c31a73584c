"""Simulated searches: no trial is lost, none counted twice, none left RUNNING, and the deadline holds."""

import importlib.util
from pathlib import Path

import pytest

from autotl.engines.recorded import FeatureSource
from autotl.registry import load_registry
from autotl.study import needs
from autotl.study.scheduler import Scheduler
from autotl.study.space import Choices
from autotl.workers.messages import Record, RunTrial

spec = importlib.util.spec_from_file_location("simulation", Path(__file__).with_name("simulation.py"))
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_trials_on_16_workers_with_random_faults(seed, tmp_path):
    outcome = simulation.simulate(seed, tmp_path, num_trials=1000, num_workers=16)
    assert outcome.violations(1000) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "hang", "device_error", "ignores_deadline"])
def test_many_faults_of_one_sort(fault, tmp_path):
    faults = simulation.Faults(**dict.fromkeys(("crash", "hang", "device_error", "ignores_deadline"), 0.0))
    setattr(faults, fault, 0.3)
    outcome = simulation.simulate(7, tmp_path, num_trials=300, num_workers=8, faults=faults)
    assert outcome.violations(300) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_trials_on_64_workers_with_random_faults(seed, tmp_path):
    outcome = simulation.simulate(seed, tmp_path)
    assert outcome.violations(10_000) == []


# accelerators with CPU workers beside them, under the scheduler that real searches have


def seconds(slot, job, params):
    """How long a job takes: a pass over the images, a network, a head."""
    if isinstance(job, Record):
        return 0.6 * (1 + job.recording.views)
    return 8.0 if params.get("strategy") == "fine_tuning" else 0.4


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture
def mixed(registry, tmp_path):
    """`mixed(seed, …)`: a search on simulated accelerators and CPU workers."""

    def make(seed=0, *, heads=None, strategies=None, num_train=1600, timed=True, **options):
        choices = Choices(
            ("efficientnet_lite0", "efficientnet_lite2"),
            strategies or tuple(registry.strategies),
            heads or tuple(registry.heads),
            num_train,
            2,
            accelerator=True,
        )
        scheduler = Scheduler(choices, registry, [], simulation.NUM_IMAGES, {"cuda": 8, "cpu": 8}, timed=timed)
        return simulation.simulate_mixed(
            seed, tmp_path, scheduler, **{"seconds": seconds, "time_limit": 200.0} | options
        )

    return make


def trials_of(outcome):
    """(slot, parameters, features that were recorded when it was handed out, job) of each trial."""
    return [
        (slot, outcome.trials.get(job.number).params, recorded, job)
        for _, slot, job, recorded in outcome.launcher.handed_out
        if isinstance(job, RunTrial)
    ]


def busy_share(outcome, slot):
    """Share of the time from its first job to the end of the trials in which a slot had a job."""
    jobs = [(moment, job) for moment, s, job, _ in outcome.launcher.handed_out if s.name == slot]
    end = outcome.search.started + outcome.seconds
    busy = 0.0
    for moment, job in jobs:
        params = {} if isinstance(job, Record) else outcome.trials.get(job.number).params
        busy += min(seconds(None, job, params), end - moment)
    return busy / (end - jobs[0][0])


@pytest.mark.slow
@pytest.mark.parametrize(("accelerators", "helpers"), [(1, 8), (2, 4), (1, 1)])
def test_cpu_workers_fit_heads_on_what_accelerators_have_recorded_and_accelerators_never_wait(
    accelerators, helpers, mixed
):
    outcome = mixed(accelerators=accelerators, helpers=helpers)
    assert outcome.violations(10_000) == []
    recording_of = outcome.search.scheduler.needs.recording
    strategies = set()
    for slot, params, recorded, job in trials_of(outcome):
        strategies.add((slot.device_type, params["strategy"]))
        if not slot.is_accelerator:
            recording = recording_of(params)
            assert recording is not None
            assert recording.is_in(recorded), f"{params} was handed out with {recorded}"
            assert job.source == FeatureSource(Path("/cache"), "torch", "2", "bf16", "cuda")
        else:
            assert job.source is None
    assert strategies == {("cpu", "fast_extraction"), ("cpu", "extract_augment"), ("cuda", "fine_tuning")}
    for number in range(accelerators):
        assert busy_share(outcome, f"cuda:{number}") > 0.95
    assert busy_share(outcome, "cpu:0") > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_no_trial_is_lost_where_accelerators_and_cpu_workers_fail_at_random(seed, mixed):
    outcome = mixed(seed, accelerators=4, helpers=8, faults=simulation.Faults(), time_limit=400.0)
    assert outcome.violations(10_000) == []


def test_recordings_do_not_hold_the_end_of_a_search_that_has_its_trials(mixed):
    def slow(slot, job, params):
        return 100.0 if isinstance(job, Record) and job.recording.views else seconds(slot, job, params)

    outcome = mixed(num_trials=40, seconds=slow, time_limit=2000.0)
    assert outcome.violations(40) == []
    assert outcome.seconds < 60


@pytest.mark.slow
def test_without_networks_to_train_an_accelerator_takes_the_dense_heads(mixed):
    outcome = mixed(
        strategies=("fast_extraction", "extract_augment"), heads=("logistic_regression", "rbf_svm", "linear")
    )
    heads = {p[f"{p['strategy']}.head"] for slot, p, *_ in trials_of(outcome) if slot.is_accelerator}
    assert heads == {"linear"}
    assert busy_share(outcome, "cuda:0") > 0.85


@pytest.mark.slow
def test_dense_heads_of_many_samples_are_left_to_the_accelerator(mixed, monkeypatch):
    monkeypatch.setattr(needs, "MAX_CPU_DENSE_SAMPLES", 1000)
    outcome = mixed(heads=("logistic_regression", "linear"))
    heads = {(slot.device_type, p.get(f"{p['strategy']}.head", "linear")) for slot, p, *_ in trials_of(outcome)}
    assert heads == {("cpu", "logistic_regression"), ("cuda", "linear")}


def test_cpu_workers_carry_on_with_heads_where_all_accelerators_are_lost(mixed, monkeypatch):
    monkeypatch.setattr(simulation.SimulatedLauncher, "_record", lambda self, worker, job: self._die(worker))
    outcome = mixed(helpers=2)
    assert outcome.violations(10_000) == []
    assert outcome.search.supervisor.disabled.keys() == {"cuda:0"}
    assert {p["strategy"] for slot, p, *_ in trials_of(outcome)} == {"fast_extraction", "extract_augment"}
    assert outcome.search.scoreboard.counts["complete"] > 100
