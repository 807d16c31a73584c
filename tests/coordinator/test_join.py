"""A study goes on in more processes, or with other choices, without losing what it has."""

import json
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

import autotl
from autotl.api import join, search
from autotl.errors import AutotlError
from autotl.study.storage import open_storage

pytestmark = pytest.mark.slow


def trials(folder):
    return optuna.load_study(study_name=folder.name, storage=open_storage(folder)).trials


def test_without_a_search_there_is_none_to_join(cells, tmp_path):
    with pytest.raises(AutotlError, match="there is none to join: start it without --join"):
        join("cells", output=tmp_path, devices="cpu")
    assert not (tmp_path / "cells").exists()


@pytest.fixture
def started(cells, patient_flags, tmp_path):
    """`started(*more)`: a process of a search of five minutes."""
    places = [str(cells), "--output", str(tmp_path), "--test", "none"]
    command = [sys.executable, "-m", "autotl", "search", *places, *patient_flags]
    processes = []

    def start(*more):
        process = subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.stdout.close()


def devices_with_trials(folder):
    ended = (TrialState.COMPLETE, TrialState.PRUNED)  # most trials of the same head are behind the first
    return {t.user_attrs.get("device", "") for t in trials(folder) if t.state in ended}


def test_joined_workers_take_tickets_and_ctrl_c_takes_some_out_or_ends_the_search_with_a_model(
    started, until, tmp_path
):
    folder = tmp_path / "cells"
    first = started("--time", "5m")
    until(lambda: list(folder.glob("trials/*/member.json")), 60)
    second, third = started("--join"), started("--join")
    until(lambda: len({name for name in devices_with_trials(folder) if name.startswith("cpu:0@")}) == 2, 120)
    assert "cpu:0" in devices_with_trials(folder)
    assert [process.poll() for process in (first, second, third)] == [None] * 3

    began = time.monotonic()
    second.send_signal(signal.SIGINT)
    output, _ = second.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert second.returncode in (0, 130), output
    assert "Traceback" not in output
    assert "left the search, which goes on" in output
    n_before = len(trials(folder))
    until(lambda: len(trials(folder)) > n_before + 1, 30)
    assert [process.poll() for process in (first, third)] == [None] * 2

    first.send_signal(signal.SIGINT)
    output, _ = third.communicate(timeout=60)
    assert third.returncode == 0, output
    assert "joined the search" in output
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert autotl.load(folder / "model", device="cpu").classes == ("defective", "functional")
    assert not {trial.state for trial in trials(folder)} & {TrialState.RUNNING, TrialState.FAIL}


def _number_before(taken) -> int:
    return int(taken.user_attrs["taken_from"].rpartition("/")[2])


def test_an_extension_takes_over_what_fits_and_leaves_the_old_study_alone(cells, small, tmp_path):
    old = search(str(cells), output=tmp_path, trials=4, test="none", **small)
    before = trials(old.folder)
    asked = small | {"test": "none", "heads": ["logistic_regression", "lda"]}
    with pytest.raises(AutotlError, match="add --extend"):
        search(str(cells), output=tmp_path, trials=5, **asked)
    assert json.loads((old.folder / "study.json").read_text())["heads"] == ["logistic_regression", "linear"]
    new = search(str(cells), output=tmp_path, trials=5, extend=True, **asked)
    assert new.folder == tmp_path / "cells-2"
    fitting = [t for t in trials(old.folder) if t.params["fast_extraction.head"] == "logistic_regression"]
    taken = [t for t in trials(new.folder) if "taken_from" in t.user_attrs]
    assert 0 < len(taken) == len(fitting) < 4
    assert [t.params for t in taken] == [t.params for t in fitting]
    assert [t.value for t in taken] == [t.value for t in fitting]
    assert len(trials(new.folder)) == 5
    assert (new.folder / "split.json").read_bytes() == (old.folder / "split.json").read_bytes()
    kept = [t for t in taken if (old.folder / "trials" / f"{_number_before(t):05}" / "member.json").exists()]
    assert kept  # of each kind the best
    for trial in kept:
        page = new.folder / "trials" / f"{trial.number:05}" / "member.json"
        assert json.loads(page.read_text())["trial"] == trial.number
    assert trials(old.folder) == before


def test_what_is_not_there_cannot_be_extended(cells, small, tmp_path):
    with pytest.raises(AutotlError, match=r"no study 'cells' .* to extend"):
        search(str(cells), output=tmp_path, trials=1, extend=True, **small)
