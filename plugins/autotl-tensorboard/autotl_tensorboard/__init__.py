"""Writes each trial of a search, and its outcome, into the folder in AUTOTL_TENSORBOARD, for TensorBoard.

The plugin does nothing unless that variable is set.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autotl

if TYPE_CHECKING:
    import optuna
    from torch.utils.tensorboard import SummaryWriter

    from autotl.strategies.base import Result

__all__ = ["autotl_search_finished", "autotl_trial_finished"]

FOLDER = "AUTOTL_TENSORBOARD"
MAX_NUMBERS = 20
"""Classes up to which the cells of a confusion matrix have numbers."""


@autotl.hookimpl
def autotl_trial_finished(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", result: "Result") -> None:
    if not os.environ.get(FOLDER):
        return
    with _written(study, f"trial-{trial.number:05}") as writer:
        for row in result.history:
            for name in row.keys() - {"epoch"}:
                writer.add_scalar(f"epoch/{name}", row[name], int(row["epoch"]))
        scores = {name: value for name, value in trial.user_attrs.items() if _is_number(value)}
        if trial.value is not None:
            scores["score"] = trial.value
        # all in the trial's own run: by default each set of hyperparameters gets a run that is named by the time
        writer.add_hparams(_hyperparameters(result.recipe.to_dict()), scores, run_name=".")
        writer.add_text("recipe", result.recipe.describe())


@autotl.hookimpl
def autotl_search_finished(study: "optuna.Study", search: "autotl.FinishedSearch") -> None:
    if not os.environ.get(FOLDER):
        return
    result = search.result
    with _written(study, "outcome") as writer:
        scores = [(f"{kind}/{name}", v) for kind in ("test", "baseline") for name, v in (result[kind] or {}).items()]
        for name, value in [*scores, ("validation", result["best"]["validation"])]:
            if value is not None:
                writer.add_scalar(name, value, len(study.get_trials(deepcopy=False)))
        members = [f"- {m['weight']:.2f} of trial {m['trial']}: {m['description']}" for m in result["members"]]
        writer.add_text("model", "\n".join(members))
        if (tested := search.tested) is None:
            return
        from sklearn.metrics import ConfusionMatrixDisplay

        # a name may hold what matplotlib reads as a formula, or the projector as the next column
        classes = [name.replace("$", r"\$") for name in search.dataset.classes]
        labels, few = search.dataset.labels[tested.images], len(classes) <= MAX_NUMBERS
        options = {"include_values": few, "xticks_rotation": "vertical", "cmap": "Blues", "colorbar": not few}
        matrix = ConfusionMatrixDisplay.from_predictions(
            labels, tested.predicted, labels=range(len(classes)), display_labels=classes, **options
        )
        writer.add_figure("test/confusion", matrix.figure_)
        if (features := tested.features) is not None:
            plain = [" ".join(name.split()) for name in search.dataset.classes]
            rows = [[plain[i], plain[j]] for i, j in zip(labels, tested.predicted, strict=True)][: len(features)]
            writer.add_embedding(features, rows, metadata_header=["label", "predicted"], tag="test images")


@contextmanager
def _written(study: "optuna.Study", run: str) -> "Iterator[SummaryWriter]":
    """A writer of one run. A study's folder has the time of its first trial in its name, so that another study of the
    same name has another folder."""
    from torch.utils.tensorboard import SummaryWriter

    began = min(trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start)
    name = re.sub(r"[^\w. ()-]", "-", study.study_name)  # a journal may be a stranger's, and its name a path
    folder = Path(os.environ[FOLDER]) / f"{name}-{began:%Y%m%d-%H%M%S}" / run
    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        writer.close()


def _hyperparameters(recipe: Mapping[str, Any]) -> dict[str, float | str]:
    """The values of a recipe, prefixed as in a study: `fine_tuning.unfrozen_blocks`."""
    values = {name: recipe[name] for name in ("backbone", "strategy", "head")}
    values |= {f"{recipe['strategy']}.{name}": value for name, value in recipe["strategy_params"].items()}
    values |= {f"{recipe['head']}.{name}": value for name, value in recipe["head_params"].items()}
    return {name: value if _is_number(value) else str(value) for name, value in values.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
