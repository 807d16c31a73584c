"""The Optuna study of a search: its journal, sampler and pruner, and the attributes of its trials."""

import shlex
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autotl import events
from autotl.config import Limits
from autotl.errors import AutotlError
from autotl.study.kept_database import kept_database
from autotl.study.pruner import SameStrategyPruner
from autotl.study.sampler import NO_LIMITS, ConditionalTPESampler
from autotl.study.storage import open_storage
from autotl.study.validation import require_valid

__all__ = [
    "EARLIER_FILE",
    "FOLD_FILE",
    "FORMAT",
    "TEST_FILE",
    "StudyAttribute",
    "StudyDeleted",
    "TrialAttribute",
    "load_study",
    "open_study",
    "set_note",
    "take_trial",
    "trial_event",
]

FORMAT = 4
"""Increase when the names or the meaning of attributes or parameters change. A study of another format is refused."""

FOLD_FILE = "out_of_fold.npy"
"""The probabilities of the development images, in the folder of a trial whose model was kept."""

EARLIER_FILE = "earlier.npy"
"""The same of a trial that was the best of its strategy, backbone and head for a while; its model is gone."""

TEST_FILE = "test.npy"
"""The probabilities of the test images by a fine-tuned model, in the folder of its trial. Nothing is chosen by them."""

STATES: dict[TrialState, events.TrialState] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


class StudyAttribute:
    """User attributes of a study in its journal."""

    FORMAT = "format"
    CHOICES = "choices"
    """What the search space is made of; a study keeps its own."""
    VERSIONS = "versions"
    """Versions of libraries and plugins by distribution, of the last search."""
    EARLIER_VERSIONS = "earlier_versions"
    """Former `versions`, each with the number of the first trial that did not run with them."""
    EXTENDS = "extends"
    """Name of the study whose trials this one has taken over."""


class TrialAttribute:
    """User attributes of a trial in the journal. Scores are attributes too, by metric: out of fold, of the images that
    the trial has predicted."""

    DESCRIPTION = "description"
    """The recipe in one line."""
    RECIPE = "recipe"
    """`Recipe.to_dict()` of what was actually trained."""
    CAUSE = "cause"
    """Why the trial was pruned or failed."""
    TRACEBACK = "traceback"
    """Of the exception that failed the trial."""
    SECONDS = "seconds"
    """Wall time of the trial."""
    EXTRACTION_SECONDS = "extraction_seconds"
    """The part of it that went into extracting features, which other trials reuse."""
    DEVICE = "device"
    """The slot that the trial ran on: `cuda:0`."""
    EPOCHS = "epochs"
    """Number of epochs trained."""
    FOLDS = "folds"
    """The number of folds that were predicted; 1 for the validation images alone. The trial's value and its scores are
    of the images in these folds."""
    HOLDOUT = "holdout"
    """The score of the study's metric on the validation images, which all complete trials have predicted."""
    FIT_SECONDS = "fit_seconds"
    """Of one fit, without the extraction of features and without further folds."""
    FITTED_ON_ALL = "fitted_on_all"
    """Whether the fit that was kept has seen the validation images, too: it needs no refit."""
    SAMPLE = "sample"
    """Number of training and validation images of a trial that had only a sample of them. Any trial on more is better
    than it, whatever their scores."""
    TUNED = "tuned"
    """Whether blocks of the backbone were unfrozen: its network is its own."""
    BEST_EPOCH = "best_epoch"
    """The epoch whose weights were kept."""
    RETRY_OF = "retry_of"
    """Number of the trial with the same parameters whose worker was lost."""
    RESUMES = "resumes"
    """Number of the trial with the same parameters that was running when an earlier search ended."""
    NOT_RECORDED = "not_recorded"
    """True where a worker that only reads recorded features found them missing."""
    OUT_OF_TIME = "out_of_time"
    """True where the time of the search was up: a resumed search may try the recipe again."""
    TAKEN_FROM = "taken_from"
    """`study/number` of the trial in the study that this one extends."""


class StudyDeleted(AutotlError):
    """The study is no longer in its journal: Optuna Dashboard can delete one, also while it is searched."""

    def __init__(self, folder: Path):
        super().__init__(
            f"The study in {folder} was deleted from its journal, as Optuna Dashboard can do, and its trials with it. "
            "The same search command begins it anew."
        )


def open_study(
    folder: Path, name: str, direction: Literal["maximize", "minimize"], seed: int, limits: Limits = NO_LIMITS
) -> optuna.Study:
    """Open the study in `folder/journal.log`, or create it. Several processes may do so at once.

    Args:
        name: of a new study. An existing one keeps the name that it has in its journal, whatever its folder is called.
        seed: the study's seed, the same in every process.
        limits: what a trial may cost.

    Raises:
        AutotlError: the journal can't be read, holds several studies or values that no search writes, or has a study
            of another format.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(folder)
    study = optuna.create_study(
        study_name=_name_in_journal(storage, folder, name) or name,
        storage=storage,
        direction=direction,
        sampler=ConditionalTPESampler(seed, limits),
        pruner=SameStrategyPruner(),
        load_if_exists=True,
    )
    _require_format(study, folder)
    require_valid(study, folder)
    return study


def load_study(
    folder: Path,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    storage: BaseStorage | None = None,
    preferred: str = "",
) -> optuna.Study:
    """Open the study in `folder/journal.log`, whatever the folder is called.

    Args:
        storage: the study's, where this process can't read the folder.
        preferred: the study's name, where the storage has several.

    Raises:
        StudyDeleted: the journal holds no study.
        AutotlError: the journal can't be read, holds several studies or values that no search writes, or has a study
            of another format.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = storage or open_storage(folder)
    name = _name_in_journal(storage, folder, preferred or folder.name)
    if name is None:
        raise StudyDeleted(folder)
    study = optuna.load_study(
        study_name=name, storage=storage, sampler=ConditionalTPESampler(seed, limits), pruner=SameStrategyPruner()
    )
    _require_format(study, folder)
    require_valid(study, folder)
    return study


def take_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """The running trial with this number, which the coordinator has created for this process, to draw the parameters
    that it doesn't fix. (`Study.ask` would take whichever waiting trial is the first.)"""
    study.get_trials(deepcopy=False)  # Optuna's cache of a database knows no trial of another process before
    return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


def _name_in_journal(storage: BaseStorage, folder: Path, preferred: str) -> str | None:
    """The name of the journal's study; None where it holds none. In a database, the name that the folder keeps.

    Of several studies, the one with trials is meant, else the one called `preferred`: a search that was moved could
    once leave an empty study beside its own.
    """
    studies = storage.get_all_studies()
    if database := kept_database(folder):
        return next((study.study_name for study in studies if study.study_name == database[1]), None)
    tried = [study for study in studies if storage.get_n_trials(study._study_id)]
    names = [study.study_name for study in tried or studies]
    if len(names) < 2:
        return names[0] if names else None
    if preferred in names:
        return preferred
    raise AutotlError(
        f"{folder / 'journal.log'} holds several studies: {', '.join(sorted(names))}. Give the folder the name of the "
        f"one that is meant: mv {shlex.quote(str(folder))} {shlex.quote(str(folder.parent / sorted(names)[0]))}"
    )


def _require_format(study: optuna.Study, folder: Path) -> None:
    """Set the format of a new study; raises AutotlError where an existing one has another.

    Every process sets the format before anything else. Since the trials are read before the attributes, a study
    that another process has just created never looks like one that has trials and no format.
    """
    has_trials = bool(study.get_trials(deepcopy=False))
    attributes = study.user_attrs
    number = attributes.get(StudyAttribute.FORMAT)
    if number == FORMAT:
        return
    if number is None and not has_trials and not attributes:
        study.set_user_attr(StudyAttribute.FORMAT, FORMAT)
        return
    described = "without a format number, of an older autotl," if number is None else f"of format {number!r}"
    raise AutotlError(
        f"{folder} holds a study {described}, and this autotl reads format {FORMAT}. Give the search another --name."
    )


def trial_event(trial: FrozenTrial, *, is_best: bool = False) -> events.TrialFinished:
    """The event object of a finished trial, for callbacks and progress displays."""
    attributes = trial.user_attrs
    recipe = attributes.get(TrialAttribute.RECIPE, {})
    elapsed = trial.duration.total_seconds() if trial.duration else 0.0
    return events.TrialFinished(
        number=trial.number,
        state=STATES[trial.state],
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        strategy=recipe.get("strategy", ""),
        backbone=recipe.get("backbone", ""),
        head=recipe.get("head", ""),
        description=attributes.get(TrialAttribute.DESCRIPTION, ""),
        seconds=attributes.get(TrialAttribute.SECONDS, elapsed),
        cause=attributes.get(TrialAttribute.CAUSE, ""),
        is_best=is_best,
    )


def set_note(study: optuna.Study, trial: optuna.Trial | None, text: str) -> None:
    """Write a note on a trial, or on the study where `trial` is None, that Optuna Dashboard shows. Does nothing where
    optuna-dashboard isn't installed."""
    try:
        from optuna_dashboard import save_note
    except ImportError:
        return
    save_note(trial or study, text)
