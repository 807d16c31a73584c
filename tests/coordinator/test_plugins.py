"""Plugins in a search: a stranger's parts take part and are recorded, and one that fails costs a line."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

import autotl
from autotl.api import search
from autotl.clock import SystemClock
from autotl.errors import AutotlError, BrokenPlugin, NoTrialSucceeded
from autotl.study.study import TrialAttribute
from autotl.ui.progress import Progress

pytestmark = pytest.mark.slow

STRANGER = """
import autotl

class NaiveBayes(autotl.Head):
    name, type = "naive_bayes", "estimator"
    def suggest(self, space):
        return {}
    def build(self, params, num_features, num_classes, seed):
        from sklearn.naive_bayes import GaussianNB
        return GaussianNB()

@autotl.hookimpl
def autotl_register_heads(register):
    register(NaiveBayes())
"""
FAILING = """
import autotl

@autotl.hookimpl
def autotl_trial_finished(trial):
    raise RuntimeError(f"no luck with trial {trial.number}")

@autotl.hookimpl
def autotl_search_finished(model):
    raise RuntimeError(f"no luck with {type(model).__name__}")
"""


class Recorder(Progress):
    """Keeps the log lines."""

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


class Hurried(Recorder):
    """Moves the coordinator's clock on once a trial runs, until `left` seconds of the search's time remain: a machine
    that takes long to start workers has all that time, and a quick one waits for none of it."""

    left = 26.0
    """About half of them are kept for the model (see `autotl.coordinator.search_time`)."""

    def __init__(self):
        super().__init__()
        self.skipped = 0.0
        """Seconds that the clock was moved on."""
        self.since = self.end = time.monotonic()
        """When the clock was moved on, and when the search's time is up if it isn't."""

    def update(self, snapshot):
        if not self.skipped:
            self.end = time.monotonic() + snapshot.time_left

    def on_trial_started(self, event):
        if not self.skipped:
            self.since = time.monotonic()
            self.skipped = max(0.0, self.end - self.since - self.left)


@pytest.fixture
def hurried(monkeypatch):
    progress = Hurried()
    monkeypatch.setattr(SystemClock, "now", lambda self: time.monotonic() + progress.skipped)
    return progress


@pytest.fixture
def tiny_search(tiny, patches, tmp_path):
    """`tiny_search(**overrides)`: two trials on patches of photographs, in seconds."""
    dataset, _ = patches
    lines = ["path,label"]
    for path, label in zip(dataset.paths, dataset.labels, strict=True):
        shutil.copyfile(path, tmp_path / path.name)
        lines.append(f"{path.name},{dataset.classes[label]}")
    (tmp_path / "patches.csv").write_text("\n".join(lines))
    settings = {"backbones": [tiny("test_resnet").name], "strategies": ["fast_extraction"], "devices": "cpu*1"}
    settings |= {"engine": "torch"}

    def run(progress=None, **overrides):
        more = {"output": tmp_path / "studies", "name": "tiny", "trials": 2, **settings, **overrides}
        return search(str(tmp_path / "patches.csv"), progress=progress, **more)

    return run


def test_without_the_built_in_heads_a_strangers_is_searched(install_plugin, tiny_search, tmp_path, monkeypatch):
    install_plugin("stranger", STRANGER)
    found = tiny_search(without_plugins=["heads.dense", "heads.sklearn", "heads.closed_form", "gbdt"])
    assert {row["head"] for row in found.result["leaderboard"]} == {"naive_bayes"}
    assert found.result["versions"]["stranger"] == "1.0"
    page = json.loads((found.model_path / "model.json").read_text())
    (needed,) = page["plugins"]
    assert needed == {
        "component": "head",
        "name": "naive_bayes",
        "plugin": "stranger",
        "distribution": "stranger",
        "version": "1.0",
    }
    assert autotl.load(found.model_path).predict([tmp_path / "coffee-00.png"]).shape == (1,)
    monkeypatch.setenv("AUTOTL_PLUGINS", "no:stranger")
    with pytest.raises(AutotlError, match=r"needs the head 'naive_bayes' of plugin 'stranger' \(stranger 1\.0\)"):
        autotl.load(found.model_path)


def test_strict_plugins_ends_the_search_at_a_failing_event(install_plugin, tiny_search):
    install_plugin("failing_events", FAILING)
    with pytest.raises(BrokenPlugin, match=r"failed in autotl_trial_finished: .* \(--strict-plugins\)"):
        tiny_search(strict_plugins=True)


CALLBACK = """
import os
from pathlib import Path
import autotl

class Notes(autotl.Callback):
    name = "notes"

    def on_trial_finished(self, event):
        with open(os.environ["AUTOTL_TEST_NOTES"], "a") as file:
            print(event.number, event.state, file=file)
        return event.number == 1

@autotl.hookimpl
def autotl_register_callbacks(register):
    register(Notes())
"""


def test_one_plugin_fails_in_its_events_and_another_ones_callback_hears_of_trials_and_stops_the_search(
    install_plugin, tiny_search, tmp_path, monkeypatch
):
    monkeypatch.setenv("AUTOTL_TEST_NOTES", str(tmp_path / "notes"))
    install_plugin("failing_events", FAILING)
    install_plugin("callbacks", CALLBACK)
    progress = Recorder()
    found = tiny_search(progress, trials=30)
    about = [line for line in progress.lines if "failing_events" in line]
    assert len(about) == 2  # one for each event, however many trials there are
    start = r"plugin 'failing_events' of failing_events 1\.0 failed in "
    assert re.match(start + r"autotl_trial_finished: RuntimeError: no luck with trial 0", about[0])
    assert re.match(start + r"autotl_search_finished: RuntimeError: no luck with ImageModel", about[1])
    assert found.result["trials"]["failed"] == 0
    assert (tmp_path / "notes").read_text().splitlines()[:2] == ["0 complete", "1 complete"]
    assert found.result["trials"]["complete"] < 30
    assert found.model_path.exists()


def test_a_backbone_whose_path_has_spaces_and_dots_is_searched(tiny_search, tiny, tmp_path):
    weights = Path(tiny("test_resnet").name.partition("@")[2])
    folder = tmp_path / "my weights · at home"
    folder.mkdir()
    shutil.copyfile(weights, folder / "version 2.safetensors")
    name = f"test_resnet@{folder / 'version 2.safetensors'}"
    found = tiny_search(backbones=[name], time=120, trials=6)
    assert found.result["best"]["recipe"]["backbone"] == name
    failed = [trial for trial in found.study.trials if trial.state.name == "FAIL"]
    assert [trial.user_attrs.get(TrialAttribute.CAUSE) for trial in failed] == []


NOT_A_NUMBER = """
import autotl

@autotl.hookimpl
def autotl_register_metrics(register):
    register(autotl.Metric("not_a_number", lambda labels, probabilities: float("nan")))
"""


def test_a_metric_that_is_not_a_number_fails_each_trial_with_its_name(install_plugin, tiny_search, tmp_path):
    install_plugin("nan_metric", NOT_A_NUMBER)
    with pytest.raises(NoTrialSucceeded, match=r"× MetricError: .*'not_a_number'.*nan") as failed:
        tiny_search(trials=3, metric="not_a_number")
    assert "disabled" not in str(failed.value)
    assert len(list((tmp_path / "studies" / "tiny" / "logs").iterdir())) == 1


HANGING = """
import time
import autotl

class Waits(autotl.Callback):
    name = "waits"

    def on_trial_finished(self, event):
        time.sleep(10**6)

@autotl.hookimpl
def autotl_register_callbacks(register):
    register(Waits())

@autotl.hookimpl
def autotl_trial_finished(trial):
    time.sleep(10**6)
"""


def test_hooks_and_callbacks_that_hang_are_named_and_cost_no_model(install_plugin, tiny_search, hurried, monkeypatch):
    from autotl.coordinator import callbacks, supervisor, watchdog

    monkeypatch.setattr(watchdog, "NAMED_AFTER", 1.0)
    monkeypatch.setattr(callbacks, "PLUGIN_CALL_SECONDS", 3.0)
    monkeypatch.setattr(supervisor, "HOOK_NAMED_AFTER", 1.0)
    install_plugin("hanging", HANGING)
    found = tiny_search(hurried, trials=None, time=90)
    assert time.monotonic() - hurried.since < hurried.left + 60
    assert found.result["trials"]["complete"] == 1  # its worker waits for the hook
    assert found.model_path.exists()
    text = "\n".join(hurried.lines)
    assert "callback 'waits' in on_trial_finished has been running for" in text
    assert "callback 'waits' in on_trial_finished did not return in time" in text
    assert "waiting for plugin 'hanging' in autotl_trial_finished" in text


def test_a_users_callback_that_hangs_ends_with_the_time(tiny_search, hurried, monkeypatch):
    class Waits(autotl.Callback):
        name = "mine"

        def on_trial_finished(self, event):
            time.sleep(10**6)

    monkeypatch.setattr("autotl.coordinator.watchdog.NAMED_AFTER", 1.0)
    found = tiny_search(hurried, trials=None, time=90, callbacks=[Waits()])
    assert time.monotonic() - hurried.since < hurried.left + 30
    assert found.result["trials"]["complete"]
    assert any("callback 'mine' in on_trial_finished has been running for" in line for line in hurried.lines)
