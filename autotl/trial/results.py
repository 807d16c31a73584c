"""What a search writes about itself: `result.json`, the leaderboard, the study's note."""

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from autotl.atomic_io import write_atomically, write_json
from autotl.metrics import all_scores, majority_baseline
from autotl.model.image_model import ImageModel
from autotl.study.study import set_note
from autotl.trial.runner import Bench
from autotl.workers.messages import Finish

__all__ = ["annotate_study", "write_result"]


def write_result(
    bench: Bench, ticket: Finish, model: ImageModel, folder: Path, test: np.ndarray | None
) -> dict[str, Any]:
    """`result.json` and the leaderboard, from the probabilities of the test images, where there are any."""
    result = _result(bench, ticket, test) | {"refitted": model.about["refitted"]}
    write_json(bench.context.folder / "result.json", result)
    leaderboard = _leaderboard(bench, {m.trial for m in model.members})
    _write_leaderboard(bench, leaderboard)
    chosen = [{"trial": m.trial, "weight": m.weight, "description": m.recipe.describe()} for m in model.members]
    return result | {"leaderboard": leaderboard, "members": chosen, "model": str(folder)}


def _result(bench: Bench, ticket: Finish, test: np.ndarray | None) -> dict[str, Any]:
    context, split = bench.context, bench.context.split
    best = bench.study.best_trial
    labels = bench.labels("test")
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
        "trials": ticket.facts["trials"],
        "best": {"number": best.number, "recipe": best.user_attrs["recipe"], "validation": best.value},
        "test": None if test is None else all_scores(labels, test),
        "baseline": None
        if test is None
        else majority_baseline(bench.labels("train"), labels, len(context.dataset.classes)),
        "seconds": round(time.monotonic() - ticket.facts["began"], 1),
        "versions": ticket.facts["versions"],
    }


def _leaderboard(bench: Bench, members: set[int]) -> list[dict[str, Any]]:
    """Finished trials, best first."""
    done = [t for t in bench.study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]
    reverse = bench.study.direction == optuna.study.StudyDirection.MAXIMIZE
    done.sort(key=lambda t: t.value or 0.0, reverse=reverse)
    rows = []
    for rank, trial in enumerate(done, 1):
        recipe = trial.user_attrs["recipe"]
        rows.append(
            {
                "rank": rank,
                "trial": trial.number,
                "value": trial.value,
                "strategy": recipe["strategy"],
                "backbone": recipe["backbone"],
                "head": recipe["head"],
                "seconds": trial.user_attrs["seconds"],
                "in_model": trial.number in members,
                "description": trial.user_attrs["description"],
                "recipe": json.dumps(recipe, sort_keys=True),
            }
        )
    return rows


def _write_leaderboard(bench: Bench, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(bench.context.folder / "leaderboard.csv", text.getvalue().encode())


def annotate_study(bench: Bench, result: dict[str, Any]) -> None:
    """The study's own note in Optuna Dashboard: who won, and how it does on test images."""
    test = result["test"]
    score = f"test accuracy {test['accuracy']:.4f} on {test['n']} images" if test else "no test images"
    best = result["best"]
    set_note(
        bench.study,
        None,
        f"Best: trial {best['number']}, validation {result['metric']} {best['validation']:.4f}. The model: {score}.",
    )
