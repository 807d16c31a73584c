"""Whole searches with heads that raise, and heads that kill their worker: what that costs."""

import optuna
import pytest

from autotl.api import search
from autotl.errors import NoTrialSucceeded

pytestmark = pytest.mark.slow

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

class KillsTheRefit(Head):
    name, type = "kills_the_refit", "estimator"
    def suggest(self, space): return {}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.linear_model import LogisticRegression
        fit = LogisticRegression.fit
        if not hasattr(fit, "kills"):
            def killing(self, features, *args, **kwargs):
                if len(features) == 96:  # training and validation images: no fold has as many
                    os.kill(os.getpid(), signal.SIGKILL)
                return fit(self, features, *args, **kwargs)
            killing.kills = True
            LogisticRegression.fit = killing
        return LogisticRegression()

@autotl.hookimpl
def autotl_register_heads(register):
    register(Fails())
    register(Kills())
    register(KillsTheRefit())
"""


def test_a_head_that_raises_costs_its_own_trials(cells, small, tmp_path, install_plugin):
    install_plugin("faults", FAULTS)
    found = search(str(cells), output=tmp_path, trials=4, **small | {"heads": ["fails", "logistic_regression"]})
    failed = [t for t in found.study.trials if t.state == optuna.trial.TrialState.FAIL]
    assert found.result["trials"]["complete"] >= 1
    assert failed
    assert "no such thing as this head" in failed[0].user_attrs["traceback"]


def test_when_all_trials_fail_the_causes_are_counted(cells, small, tmp_path, install_plugin):
    install_plugin("faults", FAULTS)
    with pytest.raises(NoTrialSucceeded, match="3 × RuntimeError: no such thing as this head"):
        search(str(cells), output=tmp_path, trials=3, **small | {"heads": ["fails"]})


def test_a_killed_worker_costs_its_trial_and_the_recipe_is_tried_again(
    cells, small, tmp_path, install_plugin, monkeypatch
):
    install_plugin("faults", FAULTS)
    monkeypatch.setenv("AUTOTL_TEST_MARK", str(tmp_path / "mark"))
    found = search(str(cells), output=tmp_path / "studies", trials=3, **small | {"heads": ["kills"]})
    trials = found.study.trials
    lost = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
    assert found.result["trials"] == {"complete": 2, "pruned": 0, "failed": 1}
    assert "killed by signal 9" in lost[0].user_attrs["cause"]
    retried = next(t for t in trials if t.user_attrs.get("retry_of") == lost[0].number)
    assert retried.params == lost[0].params


def test_a_worker_that_is_lost_while_it_fits_the_model_again_costs_no_model(
    cells, small, tmp_path, install_plugin, monkeypatch
):
    install_plugin("faults", FAULTS)
    monkeypatch.setenv("AUTOTL_TEST_MARK", str(tmp_path / "mark"))
    found = search(str(cells), output=tmp_path / "studies", trials=2, **small | {"heads": ["kills_the_refit"]})
    assert found.result["refitted"] == []
    assert found.result["test"]["accuracy"] > 0.5
