"""The trials of a study as a coordinator uses them."""

import optuna
import pytest
from optuna.trial import TrialState

from autotl.study.storage import open_storage
from autotl.study.study import StudyDeleted, load_study, open_study, take_trial
from autotl.study.trials import StudyTrials


@pytest.fixture
def trials(tmp_path):
    return StudyTrials(open_study(tmp_path, "cells", "maximize", 0), tmp_path)


def test_an_enqueued_trial_waits_until_a_worker_gets_it(trials, tmp_path):
    trials.enqueue({"x": 0.25})
    trials.enqueue({"x": 0.75}, {"retry_of": 7})
    assert [trial.number for trial in trials.waiting()] == [0, 1]
    trials.begin(1)
    assert [trial.number for trial in trials.waiting()] == [0]
    worker = open_study(tmp_path, "cells", "maximize", 0)  # another process
    trial = take_trial(worker, 1)
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (1, 0.75)
    worker.tell(trial, 0.5)
    assert trials.get(1).value == 0.5
    assert trials.get(0).state == TrialState.WAITING


def test_an_enqueued_trial_waits_for_the_next_ask(trials):
    assert trials.next_number() == 0
    trials.enqueue({"x": 0.25}, {"retry_of": 7})
    assert (len(trials.waiting()), trials.next_number()) == (1, 1)
    trial = trials.study.ask()
    assert (trial.number, trial.suggest_float("x", 0, 1)) == (0, 0.25)
    assert trials.waiting() == []
    assert trials.get(0).user_attrs == {"retry_of": 7}


def test_running_trials(trials):
    first, second = trials.study.ask(), trials.study.ask()
    trials.study.tell(first, 0.5)
    assert [trial.number for trial in trials.running()] == [second.number]
    assert [trial.number for trial in trials.all()] == [0, 1]


def test_trials_of_other_processes_are_seen(trials, tmp_path):
    other = open_study(tmp_path, "cells", "maximize", 0)
    other.tell(other.ask(), 0.5)
    assert trials.get(0).value == 0.5
    assert trials.next_number() == 1


def test_a_running_trial_fails_with_its_cause(trials):
    trials.study.ask()
    trials.end(0, "its worker ended")
    assert trials.get(0).state == TrialState.FAIL
    assert trials.get(0).user_attrs == {"cause": "its worker ended"}
    assert trials.running() == []


def test_a_finished_trial_does_not_fail(trials):
    trials.study.tell(trials.study.ask(), 0.5)
    with pytest.raises(RuntimeError):
        trials.end(0, "its worker ended")
    assert trials.get(0).value == 0.5


def test_trials_are_not_copied(trials):
    trials.study.ask()
    assert trials.get(0) is trials.all()[0]


def test_a_study_that_is_deleted_meanwhile_is_an_error_in_words(trials, tmp_path):
    trials.enqueue({"x": 0.5})
    running = trials.study.ask()
    optuna.delete_study(study_name="cells", storage=open_storage(tmp_path))  # by another process
    calls = (
        trials.all,
        trials.running,
        trials.waiting,
        lambda: trials.begin(0),
        trials.next_number,
        lambda: trials.get(0),
        lambda: trials.enqueue({"x": 0.5}),
        lambda: trials.end(running.number, "lost"),
    )
    for call in calls:
        with pytest.raises(StudyDeleted, match="was deleted from its journal"):
            call()


def test_a_copy_needs_no_storage(tmp_path):
    study = open_study(tmp_path, "s", "maximize", 0)
    study.set_user_attr("choices", {"backbones": ["a"]})
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"log_loss": 0.1}))
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
    study.enqueue_trial({"c": 1.0})
    running = study.ask()
    trials = StudyTrials(study, tmp_path)
    study._storage = None  # the database is gone
    copy = trials.copy_to(tmp_path / "copy")
    assert [t.state.name for t in copy.all()] == ["COMPLETE", "FAIL", "RUNNING"]
    assert (copy.get(0).value, copy.get(0).user_attrs) == (0.5, {"log_loss": 0.1})
    opened = load_study(tmp_path, storage=open_storage(tmp_path, copy=tmp_path / "copy"))
    assert (opened.direction.name, opened.user_attrs["choices"]) == ("MAXIMIZE", {"backbones": ["a"]})
    copy.end(running.number, "its worker is gone")
