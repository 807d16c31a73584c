"""Plugins in a search: a stranger's parts take part and are recorded, and one that fails costs a line."""

import json
import re
import shutil

import pytest

import autotl
from autotl.api import search
from autotl.coordinator.setup import record_versions
from autotl.errors import AutotlError, BrokenPlugin
from autotl.ui.progress import Progress

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


class Listening(Progress):
    """Keeps the log lines."""

    def __init__(self):
        self.said = []

    def log(self, line):
        self.said.append(line)


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

    def run(progress=None, **overrides):
        more = {"output": tmp_path / "studies", "name": "tiny", "trials": 2, **settings, **overrides}
        return search(str(tmp_path / "patches.csv"), progress=progress, **more)

    return run


def test_without_the_built_in_heads_a_strangers_is_searched(install_plugin, tiny_search, tmp_path, monkeypatch):
    install_plugin("stranger", STRANGER)
    found = tiny_search(without_plugins=["heads.dense", "heads.sklearn", "gbdt"])
    assert {row["head"] for row in found.result["leaderboard"]} == {"naive_bayes"}
    assert found.result["versions"]["stranger"] == "1.0"
    page = json.loads((found.model_path / "model.json").read_text())
    (needed,) = page["plugins"]
    assert needed == {
        "kind": "head",
        "name": "naive_bayes",
        "plugin": "stranger",
        "distribution": "stranger",
        "version": "1.0",
    }
    assert autotl.load(found.model_path).predict([tmp_path / "coffee-00.png"]).shape == (1,)
    monkeypatch.setenv("AUTOTL_PLUGINS", "no:stranger")
    with pytest.raises(AutotlError, match=r"needs the head 'naive_bayes' of plugin 'stranger' \(stranger 1\.0\)"):
        autotl.load(found.model_path)


def test_a_plugin_that_fails_in_its_events_costs_a_line_for_each(install_plugin, tiny_search):
    install_plugin("failing_events", FAILING)
    progress = Listening()
    found = tiny_search(progress)
    assert found.result["trials"]["complete"] == 2
    about = [line for line in progress.said if "failing_events" in line]
    assert len(about) == 2
    start = r"plugin 'failing_events' of failing_events 1\.0 failed in "
    assert re.match(start + r"autotl_trial_finished: RuntimeError: no luck with trial 0", about[0])
    assert re.match(start + r"autotl_search_finished: RuntimeError: no luck with ImageModel", about[1])


def test_strict_plugins_ends_the_search_at_a_failing_event(install_plugin, tiny_search):
    install_plugin("failing_events", FAILING)
    with pytest.raises(BrokenPlugin, match=r"failed in autotl_trial_finished: .* \(--strict-plugins\)"):
        tiny_search(strict_plugins=True)


def test_a_resumed_study_says_which_plugins_have_changed(install_plugin, tiny_search, tmp_path):
    install_plugin("stranger", STRANGER)
    tiny_search(heads=["logistic_regression"], trials=1)
    metadata = tmp_path / "site" / "stranger-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    install_plugin("newcomer", STRANGER.replace("naive_bayes", "naive_bayes_2"))
    progress = Listening()
    tiny_search(progress, heads=["logistic_regression"], trials=2)
    assert [line for line in progress.said if line.startswith("Since the study last ran")] == [
        "Since the study last ran: stranger 1.0 is now 1.1; newcomer 1.0 is new. What a trial gives may change with it."
    ]


class Attributes:
    """The part of a study that versions are kept in."""

    def __init__(self):
        self.user_attrs, self.trials = {}, []

    def set_user_attr(self, name, value):
        self.user_attrs[name] = value


def test_earlier_versions_are_kept_with_the_trials_that_had_them():
    study = Attributes()
    assert record_versions(study, {"torch": "2", "elpv": "1"}) == []
    assert record_versions(study, {"torch": "2", "elpv": "1"}) == []
    study.trials = [None] * 7
    assert record_versions(study, {"torch": "3"}) == [
        "Since the study last ran: torch 2 is now 3; elpv 1 is gone. What a trial gives may change with it."
    ]
    assert study.user_attrs["versions"] == {"torch": "3"}
    assert study.user_attrs["earlier_versions"] == [{"until_trial": 7, "versions": {"torch": "2", "elpv": "1"}}]
