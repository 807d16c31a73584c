"""A plugin whose strategy does next to nothing, so that a search is all supervision and journal."""

import os
import time
from pathlib import Path

import numpy as np

import autotl
from autotl.heads.base import Head
from autotl.strategies.base import Fitted, Result, Strategy

__all__ = ["install"]


class Noop(Strategy):
    """Scores by its one parameter, after AUTOTL_NOOP_SECONDS (in steps, each a sign of life); at once where there is
    the file AUTOTL_NOOP_UNTIL. Knows no torch."""

    name = "noop"
    head_types = ("estimator",)

    def suggest(self, space, backbone, head):
        return {"x": space.float("x", 0.0, 1.0)}

    def defaults(self, head):
        return {"x": 0.5}

    def fit(self, recipe, task, device, report):
        seconds = float(os.environ.get("AUTOTL_NOOP_SECONDS", "0"))
        for step in range(1, 11):
            time.sleep(0.0 if Path(os.environ.get("AUTOTL_NOOP_UNTIL", "?")).exists() else seconds / 10)
            if task.deadline.passed():
                break
            report(step / 10, recipe.strategy_params["x"])
        right = np.random.default_rng(recipe.seed).random(len(task.validation_labels)) < recipe.strategy_params["x"]
        chosen = np.where(right, task.validation_labels, (task.validation_labels + 1) % task.num_classes)
        probabilities = np.full((len(chosen), task.num_classes), 0.1 / (task.num_classes - 1))
        probabilities[np.arange(len(chosen)), chosen] = 0.9
        width = task.features.num_features("last")
        rows = np.zeros((task.num_classes, width))
        head = task.head.build({}, width, task.num_classes, 0).fit(rows, np.arange(task.num_classes))
        return Result(recipe, probabilities, Fitted("last", head))


class Prior(Head):
    """Knows nothing of its features."""

    name, type = "prior", "estimator"

    def suggest(self, space):
        return {}

    def build(self, params, num_features, num_classes, seed):
        from sklearn.dummy import DummyClassifier

        return DummyClassifier(strategy="prior")


@autotl.hookimpl
def autotl_register_strategies(register):
    register(Noop())


@autotl.hookimpl
def autotl_register_heads(register):
    register(Prior())


def install(site):
    """Make this module a plugin of the processes that are started with the environment that comes back."""
    info = site / "noop-1.0.dist-info"
    info.mkdir(parents=True)
    # a copy: beside the original lie modules that a worker has no use for
    (site / "noop.py").write_text(Path(__file__).read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noop\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[autotl]\nnoop = noop\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
