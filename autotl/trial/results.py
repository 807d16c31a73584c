"""What a search records about its outcome: `result.json`, the leaderboard, and the study's note."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotl.atomic_io import write_atomically, write_json
from autotl.escaping import csv_cell, escape_markdown
from autotl.metrics import all_scores, majority_baseline
from autotl.model.image_model import ImageModel
from autotl.study.study import TrialAttribute, set_note
from autotl.trial.state import WorkerState
from autotl.workers.messages import SearchFacts

__all__ = ["SearchResults", "TestPredictions", "annotate_study"]


@dataclass(frozen=True)
class TestPredictions:
    """Probabilities of test images: of all, or of as many as there was time for."""

    rows: np.ndarray
    """Their positions in the test subset, [n]."""
    probabilities: np.ndarray
    """[n, num_classes]."""

    __test__ = False  # no class of tests for pytest


class SearchResults:
    """The outcome of a search, written once without and once with scores on the test images.

    Args:
        facts: from the Finalize message, which has just arrived: `seconds` counts on from its `elapsed`.
    """

    def __init__(self, state: WorkerState, facts: SearchFacts):
        self.state, self.facts = state, facts
        self.clock = state.deadline.clock
        self.began = self.clock.now() - facts.elapsed

    def write(self, model: ImageModel, tested: TestPredictions | None) -> dict[str, Any]:
        """Write `result.json` and `leaderboard.csv`; returns the result with the leaderboard, without NaN.

        Args:
            model: saved in the study's folder.
            tested: the predicted test images; None where none was predicted.
        """
        result = _without_nan(self._result(tested) | {"refitted": model.about["refitted"]})
        write_json(self.state.context.folder / "result.json", result)
        rows = _leaderboard(self.state.study, {member.trial for member in model.members})
        _write_leaderboard(self.state.context.folder / "leaderboard.csv", rows)
        self.state.publish("result.json", "leaderboard.csv")
        members = [{"trial": m.trial, "weight": m.weight, "description": m.recipe.describe()} for m in model.members]
        return result | {"leaderboard": rows, "members": members, "model": str(self.state.study_folder / "model")}

    def _result(self, tested: TestPredictions | None) -> dict[str, Any]:
        context, split = self.state.context, self.state.context.split
        best = self.state.study.best_trial
        test, baseline = None, None
        if tested is not None:
            labels = self.state.labels("test")[tested.rows]
            metric = self.state.registry.metric(context.config.metric)
            test = all_scores(labels, tested.probabilities, metric)
            baseline = majority_baseline(self.state.labels("train"), labels, len(context.dataset.classes), metric)
        return {
            "study": context.config.name,
            "metric": context.config.metric,
            "classes": list(context.dataset.classes),
            "images": {
                "train": len(split.train),
                "validation": len(split.validation),
                "test": len(split.test),
                "skipped": len(context.dataset.skipped),
            },
            "trials": dict(self.facts.trials),
            "best": {
                "number": best.number,
                "recipe": best.user_attrs[TrialAttribute.RECIPE],
                "validation": best.value,
            },
            "test": test,
            "baseline": baseline,
            "seconds": round(self.clock.now() - self.began, 1),
            "versions": dict(self.facts.versions),
        }


def _without_nan(value: Any) -> Any:
    """The same JSON value with None for NaN and infinities, which JSON doesn't have."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _leaderboard(study: optuna.Study, members: set[int]) -> list[dict[str, Any]]:
    """A row for each complete trial, best first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    maximize = study.direction == StudyDirection.MAXIMIZE
    ranked = sorted(complete, key=lambda trial: trial.value or 0.0, reverse=maximize)
    rows = []
    for rank, trial in enumerate(ranked, 1):
        recipe = trial.user_attrs[TrialAttribute.RECIPE]
        rows.append(
            {
                "rank": rank,
                "trial": trial.number,
                "value": trial.value,
                "strategy": recipe["strategy"],
                "backbone": recipe["backbone"],
                "head": recipe["head"],
                "seconds": trial.user_attrs[TrialAttribute.SECONDS],
                "in_model": trial.number in members,
                "description": trial.user_attrs[TrialAttribute.DESCRIPTION],
                "recipe": json.dumps(recipe, sort_keys=True),
            }
        )
    return rows


def _write_leaderboard(file: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    write_atomically(file, text.getvalue().encode())


def annotate_study(study: optuna.Study, result: Mapping[str, Any]) -> None:
    """Set the note that Optuna Dashboard shows for the study: its best trial, and the model's score on test images."""
    test, best, metric = result["test"], result["best"], result["metric"]
    score = "no test images"
    if test:
        name = metric if test.get(metric) is not None else "accuracy"
        score = f"test {name} {test[name]:.4f} on {test['n']} images"
    text = f"Best: trial {best['number']}, validation {metric} {best['validation']:.4f}. The model: {score}."
    set_note(study, None, escape_markdown(text))
