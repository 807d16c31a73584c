"""What a search records about its outcome: `result.json`, the leaderboard, and the study's note."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from autotl.alignment.outcome import outcomes, read_alignment
from autotl.atomic_io import write_json
from autotl.config import how_to_test
from autotl.data.digests import digest_bytes
from autotl.escaping import escape_markdown
from autotl.features.latency import MEASURED
from autotl.metrics import all_scores, confidence_intervals, majority_baseline
from autotl.model.costs import total_costs
from autotl.model.image_model import ImageModel
from autotl.model.prediction_table import write_predictions
from autotl.study.comparison import HoldoutLine
from autotl.study.study import set_note
from autotl.trial.costs import networks_of, part_of
from autotl.trial.folds import predicted
from autotl.trial.gain import gain
from autotl.trial.leaderboard import frontier, leaderboard, write_leaderboard
from autotl.trial.state import WorkerState
from autotl.trial.tried import never_tried, tried
from autotl.workers.messages import SearchFacts

SUBSETS = ("train", "validation", "test")

__all__ = ["SearchResults", "TestPredictions", "annotate_study"]


@dataclass(frozen=True)
class TestPredictions:
    """Probabilities of test images: of all, or of as many as there was time for."""

    rows: np.ndarray
    """Their positions in the test subset, [n]."""
    probabilities: np.ndarray
    """[n, num_classes]."""
    features: np.ndarray | None = None
    """A frozen backbone's output for the first of them, [m, num_features]."""
    backbone: str = ""
    """The digest of that backbone."""

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
        self.metric = state.registry.metric(state.context.config.metric)
        self.trials = state.study.get_trials(deepcopy=False)
        self._validation: dict[str, Any] = {"scores": None, "intervals": {}}
        self._gain: dict[str, float] | None = None

    def selected(self, out_of_fold: np.ndarray) -> None:
        """Score the selected model on the images that selected it.

        Args:
            out_of_fold: the probabilities of the development images by its members, none of which has seen the image
                that it predicts, [n, num_classes]; NaN for images that a member hasn't predicted.
        """
        self._validation = self._scored(*predicted(self.state, out_of_fold))
        self._gain = gain(self.state, out_of_fold, self.facts.elapsed / 2)

    def write(self, model: ImageModel, tested: TestPredictions | None) -> dict[str, Any]:
        """Write `result.json` and `leaderboard.csv`; returns the result with the leaderboard, without NaN.

        Args:
            model: saved in the study's folder.
            tested: the predicted test images; None where none was predicted.
        """
        state, limits = self.state, self.state.context.config.limits
        rows = leaderboard(state.study, state.registry.metrics, limits, {member.trial for member in model.members})
        costs = self.costs(model)
        scores, maximize = self._validation["scores"] or {}, self.metric.greater_is_better
        score, on_validation = scores.get(self.metric.name), scores.get("n", 0) <= len(state.context.split.validation)
        cheaper = frontier(rows, score, costs["milliseconds"], maximize=maximize, on_validation=on_validation)
        result = _without_nan(
            self._result(rows[0], tested)
            | {"costs": costs, "frontier": cheaper}
            | {"refitted": model.about["refitted"]}
        )
        write_json(state.context.folder / "result.json", result)
        write_leaderboard(state.context.folder / "leaderboard.csv", rows)
        state.publish("result.json", "leaderboard.csv")
        members = [{"trial": m.trial, "weight": m.weight, "description": m.recipe.describe()} for m in model.members]
        saved = str(state.study_folder / "model")
        return result | {"leaderboard": _without_nan(rows), "members": members, "model": saved}

    def costs(self, model: ImageModel) -> dict[str, Any]:
        """What a model that is saved in the study's folder costs (see `autotl.model.costs`)."""
        folder = self.state.context.folder / "model"
        backbones = {name for member in model.members for name in member.recipe.backbones}
        parts = [part_of(folder / "members" / str(i), member) for i, member in enumerate(model.members)]
        return total_costs(parts, networks_of(self.trials, backbones, self.state.registry))

    def about(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's folder says of its search, as `autotl.model.card.add_results` takes it."""
        context = self.state.context
        digests = {subset: [context.dataset.digests[i] for i in getattr(context.split, subset)] for subset in SUBSETS}
        return {
            **{key: result[key] for key in ("test", "baseline", "images", "seconds")},
            "intervals": result.get("intervals", {}).get("test", {}),
            "date": datetime.now(UTC).date().isoformat(),
            "data": context.dataset.name,
            "split": {subset: digest_bytes("".join(sorted(listed)).encode()) for subset, listed in digests.items()},
        }

    def write_test_images(self, tested: TestPredictions | None) -> None:
        """Write `test_images.csv`: what was predicted for each test image, the worst first."""
        file = self.state.context.folder / "test_images.csv"
        if tested is None:  # that of an earlier search is of another model
            file.unlink(missing_ok=True)
            self.state.publish(file.name)
            return
        context = self.state.context
        labels = self.state.labels("test")[tested.rows]
        paths = [context.dataset.paths[i] for i in context.split.test[tested.rows]]
        write_predictions(file, paths, labels, tested.probabilities, context.dataset.classes)
        self.state.publish(file.name)

    def _scored(self, labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
        intervals = confidence_intervals(labels, probabilities, self.metric)
        return {
            "scores": all_scores(labels, probabilities, self.metric),
            "intervals": {name: asdict(interval) for name, interval in intervals.items()},
        }

    def _result(self, best: Mapping[str, Any], tested: TestPredictions | None) -> dict[str, Any]:
        context, split, registry = self.state.context, self.state.context.split, self.state.registry
        test: dict[str, Any] = {"scores": None, "intervals": {}}
        baseline = None
        if tested is not None:
            labels = self.state.labels("test")[tested.rows]
            test = self._scored(labels, tested.probabilities)
            baseline = majority_baseline(self.state.labels("train"), labels, len(context.dataset.classes), self.metric)
        strategies = context.choices.strategies
        heads_of = {name: context.choices.heads_for(name, registry) for name in strategies}
        backbones_of = {name: context.choices.backbones_for(name, registry) for name in strategies}
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
            "best": {"number": best["trial"], "recipe": json.loads(best["recipe"]), "validation": best["value"]},
            "validation": self._validation["scores"],
            "test": test["scores"],
            "baseline": baseline,
            "intervals": {"validation": self._validation["intervals"], "test": test["intervals"]},
            "seconds": round(self.clock.now() - self.began, 1),
            "versions": dict(self.facts.versions),
            "remedy": how_to_test(context.config) if not len(split.test) else None,
            "limits": context.config.limits.describe(),
            "latency": f"{MEASURED}, on {context.slot.device}",
            "gain": self._gain,
            "tried": tried(self.trials, maximize=self.metric.greater_is_better),
            "never_tried": never_tried(self.trials, context.choices, heads_of, backbones_of),
            "alignment": self._alignment(),
        }

    def _alignment(self) -> dict[str, Any] | None:
        """What the alignment said, and each backbone's predicted and true rank; None where none was measured."""
        alignment = read_alignment(self.state.context.folder)
        if alignment is None:
            return None
        scores: dict[str, list[float]] = {}
        complete = [trial for trial in self.trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        line = HoldoutLine.of(complete)
        for trial in complete:
            if "backbone" in trial.params:
                scores.setdefault(trial.params["backbone"], []).append(line.comparable(trial))
        found = outcomes(alignment.cards, scores, maximize=self.metric.greater_is_better)
        return {
            "verdict": alignment.verdict,
            "sentences": list(alignment.sentences),
            "backbones": [asdict(outcome) for outcome in found],
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


def annotate_study(study: optuna.Study, result: Mapping[str, Any]) -> None:
    """Set the note that Optuna Dashboard shows for the study: a summary in Markdown."""
    set_note(study, None, _note(result))


def _note(result: Mapping[str, Any]) -> str:
    """The scores on the test images beside the majority's, the model's members, and the best trial of each strategy."""
    test, baseline, best, metric = result["test"], result["baseline"] or {}, result["best"], result["metric"]
    images, trials = result["images"], result["trials"]
    score = "no test images"
    if test:
        name = metric if test.get(metric) is not None else "accuracy"
        score = f"test {name} {test[name]:.4f} on {test['n']} images"
    text = f"Best: trial {best['number']}, validation {metric} {best['validation']:.4f}. The model: {score}."
    lines = [escape_markdown(text), ""]
    if test:
        lines += _head("on untouched test images", "model", "always the most frequent class")
        for name in dict.fromkeys([metric, "accuracy", *test]):
            if name != "n" and test.get(name) is not None:
                other = baseline.get(name)
                lines.append(_row(name, f"{test[name]:.4f}", "" if other is None else f"{other:.4f}"))
        lines.append("")
    tested = f"test {test['n']:,} of {images['test']:,}" if test else "no test images"
    lines += [
        f"Images: training {images['train']:,}, validation {images['validation']:,}, {tested}. "
        f"Trials: {', '.join(f'{n:,} {state}' for state, n in trials.items())}. {result['seconds']:,.0f} s.",
        "",
        *_head("trial", "weight in the model", "recipe"),
        *(_row(m["trial"], f"{m['weight']:.3f}", m["description"]) for m in result["members"]),
        "",
        *_head("best of", "trial", "validation", "seconds", "recipe"),
    ]
    first: dict[str, Mapping[str, Any]] = {}
    for row in result["leaderboard"]:
        first.setdefault(row["strategy"], row)
    for strategy, row in first.items():
        seconds, value = f"{row['seconds']:.1f}", f"{row['value']:.4f}"
        lines.append(_row(strategy, row["trial"], value, seconds, row["description"]))
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    """The first lines of a table in Markdown."""
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: object) -> str:
    """A line of a table in Markdown, its texts escaped."""
    return f"| {' | '.join(map(escape_markdown, cells))} |"
