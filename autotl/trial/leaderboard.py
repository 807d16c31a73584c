"""The leaderboard of a study: its complete trials with scores and costs, and those that are faster than the model."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotl.atomic_io import write_atomically
from autotl.config import Limits
from autotl.escaping import csv_cell
from autotl.model.costs import COSTS
from autotl.study.comparison import HoldoutLine, scored_on
from autotl.study.study import TrialAttribute

__all__ = ["frontier", "leaderboard", "write_leaderboard"]

MIN_SPEEDUP = 1.25
"""How many times as fast as the next slower entry of the frontier an entry is at least."""
MAX_FRONTIER = 4


def leaderboard(
    study: optuna.Study, metrics: Collection[str], limits: Limits, members: Collection[int]
) -> list[dict[str, Any]]:
    """A row for each complete trial, best first, see `autotl.study.trials.rank`.

    A trial that has predicted the validation images alone is ranked by what its score would be out of fold, see
    `autotl.study.comparison.HoldoutLine`.

    Args:
        metrics: names of the scores that get a column each.
        members: numbers of the trials that the model is made of.
    """
    maximize = study.direction == StudyDirection.MAXIMIZE
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    costs = _costs(complete)
    line = HoldoutLine.of(complete)
    ranked = sorted(complete, key=lambda trial: line.rank(trial, limits, maximize=maximize))
    return [
        _row(place, trial, line.comparable(trial), metrics, limits, members) | costs[trial.number]
        for place, trial in enumerate(ranked, 1)
    ]


def _costs(trials: Collection[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """The costs of each trial. The first trials of a backbone may have ended before its latency was measured: it is
    that of the other trials with as many passes."""
    costs = {trial.number: {name: trial.user_attrs.get(name) for name in COSTS} for trial in trials}
    known: dict[tuple[Any, Any], dict[str, Any]] = {}
    for trial in trials:
        own = costs[trial.number]
        if own["milliseconds"] is not None:
            known[trial.params["backbone"], own["passes"]] = {name: own[name] for name in COSTS[:2]}
    for trial in trials:
        if costs[trial.number]["milliseconds"] is None:
            costs[trial.number] |= known.get((trial.params.get("backbone", ""), costs[trial.number]["passes"]), {})
    return costs


def _row(
    place: int,
    trial: FrozenTrial,
    comparable: float,
    metrics: Collection[str],
    limits: Limits,
    members: Collection[int],
) -> dict[str, Any]:
    attributes = trial.user_attrs
    recipe = attributes[TrialAttribute.RECIPE]
    first = {"rank": place, "trial": trial.number, "value": trial.value}
    others = {
        "scored_on": scored_on(trial),
        "comparable": round(comparable, 6),
        "strategy": recipe["strategy"],
        "backbone": recipe["backbone"],
        "head": recipe["head"],
        "seconds": attributes[TrialAttribute.SECONDS],
        **{name: attributes.get(name) for name in COSTS},
        "folds": attributes.get(TrialAttribute.FOLDS),
        "holdout": attributes.get(TrialAttribute.HOLDOUT),
        "within_limits": limits.keeps(attributes),
        "in_model": trial.number in members,
        "description": attributes[TrialAttribute.DESCRIPTION],
        "recipe": json.dumps(recipe, sort_keys=True),
    }
    scores = {name: attributes.get(name) for name in metrics if name not in first | others}
    return first | scores | others


def write_leaderboard(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as CSV; what is None is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    write_atomically(file, text.getvalue().encode())


def frontier(
    rows: Sequence[Mapping[str, Any]],
    model_value: float | None,
    model_milliseconds: float | None,
    *,
    maximize: bool,
    on_validation: bool = False,
) -> list[dict[str, Any]]:
    """The trials that are faster than the model and than any better trial, the best first.

    Args:
        rows: of the leaderboard.
        model_value: the model's score on the images that chose it, and the trials as well.
        model_milliseconds: its latency. Without either nothing can be compared.
        on_validation: whether the model's score is of the validation images alone, as where a member has predicted no
            others: then it is compared with the trials' scores on these.

    Returns:
        For each its `trial`, `value`, costs and `description`; `loss`, by which its score is worse than the model's;
        and `speedup`, how many times as fast it is.
    """
    if model_value is None or not model_milliseconds:
        return []
    fastest, entries = model_milliseconds, []
    for row in rows:
        milliseconds = row["milliseconds"]
        score = row["holdout"] if on_validation else row["comparable"]
        if milliseconds and score is not None and row["within_limits"] and milliseconds * MIN_SPEEDUP <= fastest:
            fastest = milliseconds
            kept = {name: row[name] for name in ("trial", "value", *COSTS, "description")}
            loss = (model_value - score) * (1 if maximize else -1)
            entries.append(kept | {"loss": loss, "speedup": model_milliseconds / milliseconds})
    return entries[:MAX_FRONTIER]
