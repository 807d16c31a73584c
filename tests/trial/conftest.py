"""Worker states on the patches of `tests/conftest.py` and a tiny backbone."""

import math
import shutil

import pytest

from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.devices import Slot
from autotl.strategies.base import Fitted, Result, Strategy
from autotl.study.space import Choices
from autotl.study.study import open_study
from autotl.trial.runner import run_trial
from autotl.trial.state import WorkerState
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_WORKER, Context


@pytest.fixture(scope="session")
def backbone(tiny):
    return tiny("test_resnet")


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """A cache of features for all tests of this folder."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def make_context(patches, backbone, features):
    """`make_context(output, slot="cpu:0", …)`: the context of a worker, with more options of the search."""
    dataset, split = patches

    def make(output, slot="cpu:0", **options):
        defaults = {"cache": features, "engine": "torch", "trials": 9, "name": "study", "data": "patches"}
        config = StudyConfig(output=output, **(defaults | options))
        config.folder.mkdir(exist_ok=True, parents=True)
        open_study(config.folder, config.name, "maximize", config.seed)
        choices = Choices(
            (backbone.name,),
            ("fast_extraction", "fine_tuning"),
            ("linear", "knn", "logistic_regression"),
            len(split.train),
            len(dataset.classes),
        )
        return Context(config, config.folder, dataset, split, choices, Slot(slot, "cpu", "cpu", 1), cores=1)

    return make


@pytest.fixture
def messages():
    """What the worker has sent."""
    return []


@pytest.fixture
def make_state(make_context, messages):
    """`make_state(output, …)`: a worker's state. Its messages pass through the protocol's encoding."""

    def make(output, **options):
        def send(message):
            messages.append(decode(encode(message), FROM_WORKER))

        return WorkerState.set_up(make_context(output, **options), send, Deadline())

    return make


@pytest.fixture
def state(make_state, tmp_path):
    """The state of a worker in a new study."""
    return make_state(tmp_path)


def run_next(state, time_budget=math.inf, source=None):
    """Run the trial that waits the longest, or a new one, as a coordinator would have it run."""
    return run_trial(state, state.study.ask().number, time_budget, source)


def enqueue(state, strategy, head):
    """Enqueue the default recipe of a strategy and a head."""
    strategy, head = state.registry.strategy(strategy), state.registry.head(head)
    params = {"strategy": strategy.name, "backbone": state.context.choices.backbones[0]}
    params |= {f"{strategy.name}.head": head.name}
    params |= {f"{strategy.name}.{name}": value for name, value in strategy.defaults(head).items()}
    params |= {f"{head.name}.{name}": value for name, value in head.defaults().items()}
    state.study.enqueue_trial(params)


@pytest.fixture(scope="session")
def finished_study(make_context, tmp_path_factory):
    """Folder of a study with a nearest-neighbour trial, a linear one, and a fine-tuned one."""
    output = tmp_path_factory.mktemp("studies")
    state = WorkerState.set_up(make_context(output), lambda message: None, Deadline())
    for strategy, head in (("fast_extraction", "knn"), ("fast_extraction", "linear"), ("fine_tuning", "linear")):
        enqueue(state, strategy, head)
        assert run_next(state)
    assert [trial.state.name for trial in state.study.trials] == ["COMPLETE"] * 3
    return state.context.folder


@pytest.fixture
def finished(finished_study, make_state, tmp_path):
    """The state of a worker in a copy of the finished study."""
    shutil.copytree(finished_study, tmp_path / finished_study.name)
    return make_state(tmp_path)


class Scripted(Strategy):
    """A strategy whose `fit` is a function; features and head of its result are a linear classifier's."""

    name = "scripted"
    head_types = ("estimator",)

    def __init__(self, fit):
        self._fit = fit

    def suggest(self, space, backbone, head):
        return {}

    def fit(self, recipe, task, device, report):
        return self._fit(recipe, task, report)


def fitted_result(recipe, task, probabilities=None):
    """A result with a real head, fitted in a moment."""
    from sklearn.neighbors import KNeighborsClassifier

    features = {subset: task.features.levels(subset, "last") for subset in ("train", "validation")}
    head = KNeighborsClassifier(3).fit(features["train"], task.train_labels)
    if probabilities is None:
        probabilities = head.predict_proba(features["validation"])
    return Result(recipe, probabilities, Fitted("last", head))


@pytest.fixture
def scripted(state):
    """`scripted(fit)`: the state of a worker whose only strategy calls `fit(recipe, task, report)`."""
    from dataclasses import replace

    def make(fit):
        state.registry.strategies["scripted"] = Scripted(fit)
        choices = replace(state.context.choices, strategies=("scripted",), heads=("knn",))
        return replace(state, context=replace(state.context, choices=choices))

    return make
