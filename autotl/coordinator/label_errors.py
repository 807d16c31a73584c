"""Label errors of a search's images: what the search's best head, trained without an image, thinks of its label."""

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotl.backbones.weights import no_downloads
from autotl.config import find_study, study_config
from autotl.coordinator.replay import given_again, open_state, require_chosen
from autotl.coordinator.setup import kept_config
from autotl.data.dataset import LabelledImage
from autotl.data.label_errors import likely_errors
from autotl.errors import AutotlError

if TYPE_CHECKING:
    import optuna

__all__ = ["find_label_errors"]

RECORDED = ("fast_extraction", "extract_augment")
"""Strategies whose heads are trained on recorded features, which takes seconds."""


def find_label_errors(
    study: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] = "studies",
    data: str | os.PathLike[str] | Sequence[LabelledImage] | None = None,
    test: str | os.PathLike[str] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """The images of a search whose labels are likely wrong, the likeliest first.

    The recipe of the best trial on recorded features is fitted on four fifths of all images, test images included, and
    predicts the others, five times. Nothing is changed.

    Args:
        study: the study's name or folder.
        output: folder of all studies.
        data: the study's images, where they have moved since the search, or were passed to it as a list.
        test: its separate test images, where they have moved.
        log: shows a line to the user.

    Returns:
        for each: `path`, `label`, `suggested` class, `label_probability`, `suggested_probability`, and the `subset`
        that the image belongs to.

    Raises:
        AutotlError: the study can't be read, has no complete trial, or its images are missing or have changed.
    """
    from autotl.recipe import Recipe
    from autotl.study.study import TrialAttribute, load_study
    from autotl.trial.out_of_fold import out_of_fold

    folder = find_study(os.fspath(study), Path(output))
    config = kept_config(folder)
    trial = _best_trial(load_study(config.folder, config.seed), config.name)
    given = given_again(folder, data, test)
    config = study_config(config, data=given["data"], test=given["test"])  # a place that was typed is trusted
    with no_downloads(when=config.forbids_downloads):
        state = open_state(config, given["images"], log)
        recipe = Recipe.from_dict(trial.user_attrs[TrialAttribute.RECIPE])
        require_chosen(recipe, state.context.choices, trial.number, config.name)
        dataset, split = state.context.dataset, state.context.split
        subsets = {"train": split.train, "validation": split.validation, "test": split.test}
        chosen = np.concatenate(list(subsets.values()))
        subset_of = np.repeat(list(subsets), [len(part) for part in subsets.values()])
        epochs = trial.user_attrs.get(TrialAttribute.BEST_EPOCH)
        probabilities = out_of_fold(state, recipe, chosen, epochs)
    return [
        {
            "path": str(dataset.paths[chosen[error.image]]),
            "label": dataset.classes[dataset.labels[chosen[error.image]]],
            "suggested": dataset.classes[error.suggested],
            "label_probability": error.score,
            "suggested_probability": float(probabilities[error.image, error.suggested]),
            "subset": str(subset_of[error.image]),
        }
        for error in likely_errors(dataset.labels[chosen], probabilities)
    ]


def _best_trial(study: "optuna.Study", name: str) -> FrozenTrial:
    """The best trial on recorded features; of all trials where none is."""
    from autotl.study.comparison import HoldoutLine
    from autotl.study.sampler import NO_LIMITS
    from autotl.study.study import TrialAttribute

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        raise AutotlError(
            f"Study {name!r} has no complete trial. Search longer: autotl search … --name {shlex.quote(name)}"
        )
    recorded = [trial for trial in trials if trial.user_attrs[TrialAttribute.RECIPE]["strategy"] in RECORDED]
    # scores of few images, of a sample or of the validation images alone, are too good by chance
    line, maximize = HoldoutLine.of(trials), study.direction == StudyDirection.MAXIMIZE
    return min(recorded or trials, key=lambda trial: line.rank(trial, NO_LIMITS, maximize=maximize))
