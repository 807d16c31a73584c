"""A whole search, on real images with a real backbone: what it leaves, how it ends, and what it survives."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

import autotl
from autotl.api import replay, search
from autotl.errors import AutotlError, NoTrialSucceeded

pytestmark = pytest.mark.slow

QUICK = {"backbones": ["efficientnet_lite0"], "heads": ["logistic_regression", "linear"], "devices": "cpu*2"}


@pytest.fixture(scope="module")
def found(cells, tmp_path_factory):
    """One search with every strategy, for the tests that look at what it left."""
    return search(str(cells), output=tmp_path_factory.mktemp("studies"), trials=8, **QUICK)


def test_every_strategy_takes_part(found):
    with (found.folder / "leaderboard.csv").open() as file:
        strategies = {row["strategy"] for row in csv.DictReader(file)}
    assert strategies == {"fast_extraction", "extract_augment", "fine_tuning"}


def test_result_json_holds_what_is_promised(found):
    result = json.loads((found.folder / "result.json").read_text())
    assert set(result) == {
        "study", "metric", "classes", "images", "trials", "best", "refitted", "test", "baseline", "seconds", "versions",
    }  # fmt: skip
    assert result["images"] == {"train": 77, "validation": 19, "test": 24, "skipped": 0}
    assert sum(result["trials"].values()) == 8
    assert set(result["test"]) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "n"}
    assert result["baseline"]["accuracy"] == 0.5
    assert {"torch", "timm", "optuna", "autotl", "autotl-efficientnet-lite"} <= set(result["versions"])


def test_the_model_beats_the_majority_on_images_it_never_saw(found):
    assert found.result["test"]["accuracy"] >= 0.7


def test_the_folder_holds_no_pickle(found):
    kinds = {path.suffix for path in (found.folder / "model").rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".skops"}


def test_the_saved_model_predicts_the_classes(found, cells):
    model = autotl.load(found.folder / "model")
    paths = [*sorted((cells / "defective").iterdir())[:5], *sorted((cells / "functional").iterdir())[:5]]
    probabilities = model.predict_proba(paths)
    assert probabilities.shape == (10, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-9)
    assert set(model.predict(paths)) == {"defective", "functional"}


def test_trials_carry_readable_attributes(found):
    study = _study(found.folder)
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        assert trial.user_attrs["recipe"]["seed"] >= 0
        assert trial.user_attrs["description"].startswith("efficientnet_lite0 · ")
        assert 0 <= trial.user_attrs["balanced_accuracy"] <= 1


def test_a_fine_tuned_trial_leaves_its_learning_curve_as_an_artifact(found):
    assert list((found.folder / "artifacts").iterdir())


@pytest.mark.parametrize("strategy", ["fast_extraction", "extract_augment", "fine_tuning"])
def test_a_replay_gives_the_same_score(found, strategy):
    trials = _study(found.folder).get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    number = next(t.number for t in trials if t.params["strategy"] == strategy)
    again = replay(found.folder, number)
    assert again["replayed"] == again["recorded"]


def test_the_same_name_resumes(cells, tmp_path):
    first = search(str(cells), output=tmp_path, trials=2, strategies=["fast_extraction"], **QUICK)
    again = search(str(cells), output=tmp_path, trials=4, strategies=["fast_extraction"], **QUICK)
    assert sum(first.result["trials"].values()) == 2
    assert sum(again.result["trials"].values()) == 4
    assert [t.number for t in _study(again.folder).get_trials()] == [0, 1, 2, 3]


def test_without_test_images_there_is_no_test_score(cells, tmp_path):
    found = search(str(cells), output=tmp_path, trials=1, strategies=["fast_extraction"], test="none", **QUICK)
    assert found.result["test"] is None
    assert found.result["images"]["test"] == 0


def test_a_search_ends_within_its_time(cells, tmp_path):
    began = time.monotonic()
    found = search(str(cells), output=tmp_path, time=40, **QUICK)
    assert time.monotonic() - began < 50
    assert found.result["test"]["n"] == 24


FAULTS = """
import os, signal
import autotl
from autotl.heads.base import Head

class Fails(Head):
    name, type = "fails", "estimator"
    def suggest(self, space): return {}
    def build(self, params, num_features, num_classes, seed): raise RuntimeError("no such thing as this head")

class Kills(Head):
    name, type = "kills", "estimator"
    def suggest(self, space): return {"C": space.float("C", 0.1, 1.0)}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        mark = os.environ["AUTOTL_TEST_MARK"]
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return LogisticRegression(C=params["C"])

class KillsTheThird(Head):
    name, type = "kills_the_third", "estimator"
    def suggest(self, space): return {}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        fit = LogisticRegression.fit
        if not hasattr(fit, "counts"):  # each fit counts; heads are also built to check saved ones
            def counted(self, *args, **kwargs):
                with open(os.environ["AUTOTL_TEST_MARK"], "a") as mark:
                    mark.write("x")
                if os.path.getsize(mark.name) > 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                return fit(self, *args, **kwargs)
            counted.counts = True
            LogisticRegression.fit = counted
        return LogisticRegression()

@autotl.hookimpl
def autotl_register_heads(register):
    register(Fails())
    register(Kills())
    register(KillsTheThird())
"""


def test_a_head_that_raises_costs_its_own_trials(cells, tmp_path, install_plugin):
    install_plugin("faults", FAULTS)
    heads = {**QUICK, "heads": ["fails", "logistic_regression"]}
    found = search(str(cells), output=tmp_path, trials=4, strategies=["fast_extraction"], **heads)
    failed = [t for t in _study(found.folder).get_trials() if t.state == optuna.trial.TrialState.FAIL]
    assert found.result["trials"]["complete"] >= 1
    assert failed
    assert "no such thing as this head" in failed[0].user_attrs["traceback"]


def test_when_all_trials_fail_the_causes_are_counted(cells, tmp_path, install_plugin):
    install_plugin("faults", FAULTS)
    heads = {**QUICK, "heads": ["fails"]}
    with pytest.raises(NoTrialSucceeded, match="3 × RuntimeError: no such thing as this head"):
        search(str(cells), output=tmp_path, trials=3, strategies=["fast_extraction"], **heads)


def test_a_killed_worker_costs_its_trial_and_the_recipe_is_tried_again(cells, tmp_path, install_plugin, monkeypatch):
    install_plugin("faults", FAULTS)
    monkeypatch.setenv("AUTOTL_TEST_MARK", str(tmp_path / "mark"))
    one = {**QUICK, "heads": ["kills"], "devices": "cpu"}
    found = search(str(cells), output=tmp_path / "studies", trials=3, strategies=["fast_extraction"], **one)
    trials = _study(found.folder).get_trials()
    lost = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
    assert found.result["trials"] == {"complete": 2, "pruned": 0, "failed": 1}
    assert "killed by signal 9" in lost[0].user_attrs["cause"]
    retried = next(t for t in trials if t.user_attrs.get("retry_of") == lost[0].number)
    assert retried.params == lost[0].params


def test_a_worker_that_is_lost_while_it_fits_the_model_again_costs_no_model(
    cells, tmp_path, install_plugin, monkeypatch
):
    install_plugin("faults", FAULTS)
    monkeypatch.setenv("AUTOTL_TEST_MARK", str(tmp_path / "mark"))
    one = {**QUICK, "heads": ["kills_the_third"], "devices": "cpu"}
    found = search(str(cells), output=tmp_path / "studies", trials=2, strategies=["fast_extraction"], **one)
    assert found.result["refitted"] == []
    assert found.result["test"]["accuracy"] > 0.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_ends_with_a_model(number, cells, until, tmp_path):
    process = _command(
        "search", str(cells), "--time", "5m", "--output", str(tmp_path), "--backbone", "efficientnet_lite0"
    )
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert (tmp_path / "cells" / "result.json").exists(), output
    assert autotl.load(tmp_path / "cells" / "model").classes == ("defective", "functional")


def test_ctrl_c_twice_ends_at_once_and_loses_nothing_that_is_finished(cells, until, tmp_path):
    process = _command(
        "search", str(cells), "--time", "5m", "--output", str(tmp_path), "--backbone", "efficientnet_lite0"
    )
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    workers = _children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    assert any(t.state == optuna.trial.TrialState.COMPLETE for t in _study(tmp_path / "cells").get_trials())


def test_a_killed_coordinator_leaves_no_process_and_a_study_that_resumes(cells, until, tmp_path):
    process = _command(
        "search", str(cells), "--time", "5m", "--output", str(tmp_path), "--backbone", "efficientnet_lite0"
    )
    until(lambda: list(tmp_path.glob("cells/trials/*/member.json")), 60)
    workers = _children(process.pid)
    process.kill()
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 10)
    before = len([t for t in _study(tmp_path / "cells").get_trials() if t.state == optuna.trial.TrialState.COMPLETE])
    found = search(str(cells), output=tmp_path, trials=before + 3, backbones=["efficientnet_lite0"])
    states = [t.state for t in _study(found.folder).get_trials()]
    assert optuna.trial.TrialState.RUNNING not in states
    assert found.result["trials"]["complete"] >= before


def test_a_second_search_on_the_same_study_is_refused(cells, tmp_path):
    from filelock import FileLock

    (tmp_path / "cells").mkdir()
    with FileLock(tmp_path / "cells" / ".lock"), pytest.raises(AutotlError, match=r"runs in .* already"):
        search(str(cells), output=tmp_path, trials=1, **QUICK)


def test_the_coordinator_imports_no_torch(cells, tmp_path):
    code = (
        "import sys; from autotl.api import search; "
        f"search({str(cells)!r}, output={str(tmp_path)!r}, trials=1, backbones=['efficientnet_lite0'], "
        "strategies=['fast_extraction'], heads=['logistic_regression'], devices='cpu'); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _study(folder: Path) -> optuna.Study:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name=folder.name, storage=storage)


def _command(*words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "autotl", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ)


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    assert found
    return found
