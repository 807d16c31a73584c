"""A worker that crashes, hangs or meets a device error costs its own trial, which is told and retried once."""

from dataclasses import dataclass, field

import optuna
import pytest
from optuna.trial import TrialState

from autotl.coordinator import supervisor as module
from autotl.coordinator.signals import Interrupts
from autotl.coordinator.supervisor import MAX_TRIALS_PER_PROCESS, Supervisor, end_trial, retry_trial
from autotl.devices import Slot
from autotl.study.needs import Recording
from autotl.study.trials import StudyTrials
from autotl.testing.scripted import ScriptedLauncher, VirtualClock
from autotl.workers.launcher import Ending
from autotl.workers.messages import Record, Stop
from autotl.workers.pool import WorkerPool

CRASH = Ending("the worker ended (killed by signal 9, SIGKILL)", -9, "worker.log")


@dataclass
class Scene:
    """A supervisor with scripted workers, a study in memory, and what it logged and told."""

    supervisor: Supervisor
    pool: WorkerPool
    study: optuna.Study
    clock: VirtualClock
    lines: list = field(default_factory=list)
    told: list = field(default_factory=list)

    @property
    def workers(self):
        return self.pool.workers

    @property
    def trials(self):
        return self.study.trials

    def begin(self, worker, **params):
        """The worker gets a trial and draws its parameters."""
        if params:
            self.study.enqueue_trial(params)
        trial = self.study.ask()
        for name in params:
            trial.suggest_float(name, 0, 1)
        worker.ready = worker.busy = True
        worker.since = worker.last_message = self.clock.now()
        worker.trial = trial.number
        return trial

    def crash(self, index=0, ending=CRASH):
        worker = self.workers[index]
        if worker.trial is None and not worker.busy:
            self.begin(worker)
        self.supervisor.ended(worker, ending)

    def end(self, worker):
        worker.idle()
        self.supervisor.job_ended(worker)


@pytest.fixture
def scene(tmp_path):
    """`scene("cpu:0", "cuda:1", …)`: one worker for each name; `deadline` in seconds from now."""

    def make(*names, deadline=float("inf"), trial_timeout=None):
        clock = VirtualClock()
        slots = [Slot(name, name.split(":")[0], "cpu", 1) for name in names]
        pool = WorkerPool(ScriptedLauncher(clock, ending=CRASH), slots, clock)
        for worker in pool.workers:
            worker.ready = True
        study, lines, told = optuna.create_study(direction="maximize"), [], []
        end = clock.now() + deadline
        supervisor = Supervisor(
            tmp_path,
            StudyTrials(study, tmp_path),
            pool,
            clock,
            Interrupts(clock),
            trial_timeout,
            lines.append,
            lambda trial: told.append(trial.number),
            lambda: end,
        )
        return Scene(supervisor, pool, study, clock, lines, told)

    return make


def names(scene):
    return [worker.slot.name for worker in scene.workers]


# crashes


def test_a_crash_fails_the_trial_with_its_cause_and_queues_the_recipe_once(scene):
    one = scene("cpu:0", "cpu:1")
    crashed = one.workers[0]
    one.begin(crashed, x=0.25)
    one.crash()
    lost, retry = one.trials
    assert (lost.state, lost.user_attrs["cause"]) == (TrialState.FAIL, CRASH.cause)
    assert (retry.state, retry.user_attrs["retry_of"]) == (TrialState.WAITING, 0)
    assert one.told == [0]
    assert names(one) == ["cpu:0", "cpu:1"]
    assert one.workers[0] is not crashed

    again = one.begin(one.workers[0])
    assert again.suggest_float("x", 0, 1) == 0.25
    one.crash()
    assert [trial.state for trial in one.trials] == [TrialState.FAIL, TrialState.FAIL]


def test_parameters_that_were_enqueued_and_not_yet_drawn_are_queued_again(scene):
    one = scene("cpu:0")
    one.study.enqueue_trial({"x": 0.125, "y": 0.5})
    one.begin(one.workers[0])
    one.crash()
    assert one.trials[1].system_attrs["fixed_params"] == {"x": 0.125, "y": 0.5}


def test_a_trial_that_was_told_before_the_crash_stays_as_it_was_told(scene):
    one = scene("cpu:0")
    one.study.tell(one.begin(one.workers[0]), 0.75)
    one.crash()
    assert [trial.value for trial in one.trials] == [0.75]
    assert one.told == [0]


def test_a_crash_while_features_are_recorded_ahead_fails_no_trial(scene):
    one = scene("cuda:0", "cpu:0")
    worker = one.workers[0]
    one.pool.give(worker, Record(Recording("resnet18")), "recording")
    one.begin(one.workers[1], x=0.5)
    one.supervisor.ended(worker, CRASH)
    assert [trial.state for trial in one.trials] == [TrialState.RUNNING]
    assert one.told == []
    assert one.supervisor.crashes["cuda:0"] == 1
    assert one.workers[0] is not worker


def test_a_device_error_while_features_are_recorded_ends_the_process(scene):
    one = scene("cuda:0")
    worker = one.workers[0]
    one.supervisor.device_error(worker, None, "CUDA error")
    assert worker.identity in one.pool.launcher.killed
    assert one.trials == []
    assert one.lines == ["cuda:0: recording features: CUDA error: its worker restarts"]


def test_a_device_that_turns_out_to_be_unusable_is_disabled_with_its_reason(scene):
    one = scene("cuda:0", "cpu:0")
    one.supervisor.unusable(one.workers[0], "its memory is full")
    assert names(one) == ["cpu:0"]
    assert one.supervisor.disabled == {"cuda:0": "its memory is full"}
    assert one.lines == ["cuda:0 is not used: its memory is full"]


def test_the_model_that_a_lost_trial_left_is_removed(scene, tmp_path):
    one = scene("cpu:0")
    trial = one.begin(one.workers[0])
    left = tmp_path / "trials" / f"{trial.number:05}"
    left.mkdir(parents=True)
    end_trial(StudyTrials(one.study, tmp_path), tmp_path, trial.number, "gone")
    assert not left.exists()


def test_a_recipe_that_a_killed_search_interrupted_is_retried_each_time(scene, tmp_path):
    one = scene("cpu:0")
    trials = StudyTrials(one.study, tmp_path)
    trial = one.begin(one.workers[0], x=0.5)
    for _ in range(3):
        end_trial(trials, tmp_path, trial.number, "interrupted")
        retry_trial(trials, one.trials[trial.number], worker_lost=False)
        trial = one.study.ask()
        assert trial.suggest_float("x", 0, 1) == 0.5


def test_a_worker_that_crashes_without_a_trial_is_logged_with_its_log(scene):
    one = scene("cpu:0")
    one.supervisor.ended(one.workers[0], CRASH)
    assert one.lines == [f"cpu:0: {CRASH.cause} (see worker.log)"]
    assert len(one.workers) == 1


# devices


def test_a_device_is_disabled_after_three_crashes_in_a_row(scene):
    one = scene("cuda:0", "cuda:1", "cuda:0#2")
    one.crash(0)
    one.crash(2)
    assert names(one) == ["cuda:0", "cuda:1", "cuda:0#2"]
    one.crash(0)
    assert names(one) == ["cuda:1"]
    assert one.lines[-1] == f"cuda:0 is disabled after 3 crashed workers, the last because {CRASH.cause}"


def test_a_trial_that_ends_well_resets_the_count(scene):
    one = scene("cuda:0")
    for _ in range(4):
        one.crash()
        one.crash()
        one.end(one.workers[0])
    assert not one.supervisor.disabled


def test_a_busy_worker_on_a_disabled_device_finishes_its_trial(scene):
    one = scene("cuda:0", "cuda:0#2")
    sibling = one.workers[1]
    one.begin(sibling)
    for _ in range(3):
        one.crash()
    assert one.workers == [sibling]
    assert not one.supervisor.usable(sibling)
    one.end(sibling)
    assert one.workers == []


def test_a_device_error_ends_the_process_and_counts_as_a_crash(scene):
    one = scene("cuda:0")
    cause = "RuntimeError: CUDA error: an illegal memory access was encountered"
    for _ in range(3):
        worker = one.workers[0]
        trial = one.begin(worker, x=0.5)
        one.study.tell(trial, state=TrialState.FAIL)
        worker.idle()
        one.supervisor.device_error(worker, one.trials[trial.number], cause)
        assert worker.identity in one.pool.launcher.killed
        assert not one.supervisor.usable(worker)
        (ending,) = [message for w, message in one.pool.poll(0) if w is worker]
        one.supervisor.ended(worker, ending)
    assert one.supervisor.disabled == {"cuda:0": cause}
    assert one.trials[1].user_attrs["retry_of"] == 0


def test_a_process_is_replaced_after_so_many_trials_and_that_is_no_crash(scene):
    one = scene("cpu:0")
    worker = one.workers[0]
    worker.num_trials = MAX_TRIALS_PER_PROCESS
    one.end(worker)
    assert one.pool.launcher.jobs(worker.identity) == [Stop()]
    assert not one.supervisor.usable(worker)
    one.supervisor.ended(worker, Ending("the worker ended (exit code 0)", 0))
    assert one.workers[0] is not worker
    assert not one.supervisor.crashes["cpu:0"]
    assert not one.lines


def test_a_worker_that_joined_is_dropped_when_it_ends(scene):
    one = scene("cpu:0", "cpu:0@4711")
    one.workers[1].joined = True
    one.crash(1)
    assert names(one) == ["cpu:0"]


# hanging


@pytest.mark.parametrize(
    ("timeout", "silent", "killed"), [(50, 40.0, False), (50, 60.0, True), (5, 25.0, False), (5, 35.0, True)]
)
def test_silence_for_the_trial_timeout_kills_a_worker_that_had_time_to_compile(timeout, silent, killed, scene):
    one = scene("cpu:0", trial_timeout=timeout)
    worker = one.workers[0]
    one.begin(worker, x=0.5)
    one.clock.sleep(100)
    worker.last_message = one.clock.now() - silent
    one.supervisor.watch()
    assert bool(worker.killed) is killed
    if killed:
        (ending,) = [message for w, message in one.pool.poll(0) if w is worker]
        one.supervisor.ended(worker, ending)
        limit = max(timeout, module.LEAST_SILENCE)
        assert one.trials[0].user_attrs["cause"] == f"it sent no sign of life for {limit:.0f} s, and was killed"
        assert one.trials[1].user_attrs["retry_of"] == 0


def test_without_a_trial_timeout_an_hour_of_silence_kills_with_a_hint(scene):
    one = scene("cpu:0")
    one.begin(one.workers[0])
    one.clock.sleep(module.SILENCE_LIMIT + 1)
    one.supervisor.watch()
    assert one.workers[0].killed.endswith("Give trials more time: --trial-timeout 3h")


def test_a_worker_that_is_never_ready_is_killed(scene):
    one = scene("cpu:0")
    worker = one.workers[0]
    worker.ready = False
    one.clock.sleep(module.START_LIMIT - 1)
    one.supervisor.watch()
    assert not worker.killed
    one.clock.sleep(2)
    one.supervisor.watch()
    assert worker.killed == "it was not ready after 300 s, and was killed"


def test_a_trial_past_the_deadline_is_killed_and_not_retried(scene):
    one = scene("cpu:0", deadline=10)
    worker = one.workers[0]
    one.begin(worker, x=0.5)
    one.clock.sleep(11)
    one.supervisor.watch()
    assert not worker.killed  # within the grace
    one.clock.sleep(2)
    one.supervisor.watch()
    (ending,) = [message for w, message in one.pool.poll(0) if w is worker]
    one.supervisor.ended(worker, ending)
    assert len(one.trials) == 1
    assert "still busy" in one.trials[0].user_attrs["cause"]
    assert one.trials[0].state == TrialState.PRUNED  # nothing about it failed


def test_after_ctrl_c_the_only_worker_is_kept_for_the_model(scene):
    one = scene("cpu:0", deadline=0)
    one.begin(one.workers[0])
    one.supervisor.interrupts.searching = True
    one.supervisor.interrupts()
    one.clock.sleep(5)
    one.supervisor.watch()
    assert not one.workers[0].killed


def test_after_ctrl_c_a_spare_takes_the_place_of_a_worker_that_cannot_be_interrupted(scene):
    one = scene("cpu:0", deadline=0)
    busy = one.workers[0]
    one.begin(busy, x=0.5)
    one.supervisor.interrupts.searching = True
    one.supervisor.interrupts()
    one.clock.sleep(module.SPARE_SECONDS + 2)
    for _ in range(2):
        one.supervisor.watch()
    _, spare = one.workers
    assert not busy.killed
    spare.ready = True
    one.supervisor.watch()
    (ending,) = [message for w, message in one.pool.poll(0) if w is busy]
    one.supervisor.ended(busy, ending)
    assert one.workers == [spare]
    assert one.trials[0].state == TrialState.PRUNED


# a plugin's hook that hangs


def test_a_hook_that_hangs_is_named_and_its_worker_ended_while_the_told_trial_stays(scene):
    one = scene("cpu:0", trial_timeout=100)
    (worker,) = one.workers
    one.study.tell(one.begin(worker), 0.75)
    worker.hook = "plugin 'x' in autotl_trial_finished"
    one.clock.sleep(11)
    one.supervisor.watch()
    one.supervisor.watch()
    assert one.lines == ["warning: cpu:0 has been waiting for plugin 'x' in autotl_trial_finished for 11 s"]
    assert not worker.killed
    one.clock.sleep(100)
    one.supervisor.watch()
    assert worker.killed
    assert "The result of trial 0 is kept" in one.lines[1]
    one.supervisor.ended(worker, CRASH)
    assert [trial.value for trial in one.trials] == [0.75]
    assert one.told == [0]
    assert one.workers[0] is not worker
    assert one.supervisor.crashes["cpu"] == 0


def test_without_a_trial_timeout_a_hook_has_ten_minutes(scene):
    one = scene("cpu:0")
    (worker,) = one.workers
    one.study.tell(one.begin(worker), 0.75)
    worker.hook = "plugin 'x' in autotl_trial_finished"
    one.clock.sleep(590)
    one.supervisor.watch()
    assert not worker.killed
    one.clock.sleep(20)
    one.supervisor.watch()
    assert worker.killed


# workers that leave


def test_a_trial_of_a_worker_that_was_taken_out_is_given_back(scene):
    one = scene("cpu:0", "cpu:1")
    joined = one.workers[1]
    joined.joined = True
    for number in range(2):  # also a second time
        trial = one.begin(joined, x=0.25) if not number else one.begin(joined)
        one.supervisor.ended(joined, Ending("the worker that joined is gone", left=True))
        assert one.trials[trial.number].state == TrialState.PRUNED
        assert one.trials[-1].state == TrialState.WAITING
        assert one.trials[-1].system_attrs["fixed_params"] == {"x": 0.25}
        assert one.lines.pop() == "cpu:1 has left the search: its trial is given back, and runs again"
        one.workers.append(joined)
    assert one.supervisor.crashes["cpu"] == 0


def test_a_worker_that_leaves_between_trials_costs_nothing(scene):
    one = scene("cpu:0", "cpu:1")
    joined = one.workers[1]
    joined.joined = True
    one.supervisor.ended(joined, Ending("the worker that joined is gone", left=True))
    assert one.lines == ["cpu:1 has left the search"]
    assert (one.trials, names(one)) == ([], ["cpu:0"])


def test_a_host_that_is_gone_costs_its_slot_and_no_crash(scene):
    scene = scene("a/cpu:0", "b/cpu:0")
    worker = scene.workers[0]
    number, place = len(scene.workers), worker.slot.place
    trial = scene.begin(worker, x=0.5)
    scene.crash(ending=Ending("its Dask worker is gone", slot_lost=True))
    assert scene.trials[trial.number].state == TrialState.FAIL
    assert scene.study.get_trials(states=(TrialState.WAITING,))[0].user_attrs["retry_of"] == trial.number
    assert len(scene.workers) == number - 1
    assert worker.slot.name not in [slot.name for slot in scene.pool.slots]
    assert scene.supervisor.crashes[place] == 0
