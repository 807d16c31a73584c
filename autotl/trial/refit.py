"""Refit: the members of the model are trained again on the training and validation images together.

After the selection the validation images are of no other use, and more images make a better classifier: a quarter more
by default, half as many again in data sets with a large validation subset. What was chosen on the validation images is
kept: the recipe, the number of epochs, the temperature. The members that an earlier search of the study has refitted
are taken from its model. Heads that predict folds by themselves were fitted on all images from the beginning.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autotl.atomic_io import as_disk_full
from autotl.errors import AutotlError
from autotl.model.manifest import read_member_manifest, read_model_manifest
from autotl.model.member import Member, load_member
from autotl.study.study import TrialAttribute
from autotl.trial.state import WorkerState
from autotl.trial.training import train
from autotl.workers.messages import Activity, Log

__all__ = ["EarlierModel", "refit"]

SAFETY_FACTOR = 1.3
"""How much longer a fit may take than the number of its images suggests."""


@dataclass(frozen=True)
class EarlierModel:
    """The model that an earlier search of the study has left: a search with less time must not replace it by a worse
    one."""

    folders: dict[int, Path] = field(default_factory=dict)
    """The members' folders by trial number."""
    refitted: Collection[int] = ()
    """The trials whose members were fitted on training and validation images."""

    @classmethod
    def of(cls, state: WorkerState) -> "EarlierModel":
        """The model in the study's folder; one without members where there is none, or where it can't be read."""
        folder = state.context.folder / "model"
        if not (folder / "model.json").is_file():
            return cls()
        try:
            manifest = read_model_manifest(folder)
            folders = [folder / "members" / str(i) for i in range(manifest.members)]
            by_trial = {read_member_manifest(member).trial: member for member in folders}
            refitted = manifest.about.get("refitted")
            return cls(by_trial, frozenset(refitted) & by_trial.keys() if isinstance(refitted, list) else ())
        except (AutotlError, OSError, TypeError) as error:
            state.send(Log(f"The model of an earlier search can't be read: {error}"))
            return cls()

    def reuse(self, state: WorkerState, members: Iterable[Member]) -> list[int]:
        """Give members the fits of the earlier model, in place. Returns the trial numbers of those that got one."""
        reused = []
        for member in members:
            if member.trial not in self.refitted:
                continue
            try:
                kept = load_member(self.folders[member.trial], state.registry)
            except AutotlError as error:
                state.send(Log(f"Trial {member.trial} is fitted again: {error}"))
                continue
            if (kept.recipe, kept.backbone_digest) == (member.recipe, member.backbone_digest):
                member.fitted = kept.fitted
                reused.append(member.trial)
        return sorted(reused)


def refit(state: WorkerState, members: list[Member], time_budget: float) -> list[int]:
    """Fit members again, in place, in the order of their expected duration, while they are expected to end in time.

    A member keeps its trial's fit if there is no time, or if fitting it again fails.

    Args:
        time_budget: seconds for all fits together; `state.deadline` (Ctrl-C) bounds them too.

    Returns:
        The trial numbers of the members that were fitted again, ascending.
    """
    larger = _with_validation_images(state, time_budget)
    num_before, num_after = len(state.context.split.train), len(larger.context.split.train)
    # the training time of a support vector machine grows with the square of the number of images
    growth = SAFETY_FACTOR * (num_after / num_before) ** 2
    trials = {trial.number: trial.user_attrs for trial in state.study.get_trials(deepcopy=False)}

    def expected_seconds(member: Member) -> float:
        attributes = trials[member.trial]
        return growth * float(attributes[TrialAttribute.FIT_SECONDS])

    refitted = []
    for member in sorted(members, key=expected_seconds):
        if expected_seconds(member) > larger.deadline.remaining():
            break
        state.send(Activity(f"fitting trial {member.trial} on training and validation images"))
        try:
            epochs = trials[member.trial].get(TrialAttribute.BEST_EPOCH)
            fitted = train(larger, member.recipe, math.inf, lambda fraction, score: None, epochs).fitted
        except Exception as error:
            if full := as_disk_full(error, state.context.folder):
                raise full from error
            state.send(Log(f"Trial {member.trial} keeps its fit on the training images alone: {error}"))
            continue
        fitted.temperature = member.fitted.temperature
        member.fitted = fitted
        refitted.append(member.trial)
    return sorted(refitted)


def _with_validation_images(state: WorkerState, time_budget: float) -> WorkerState:
    """The state with the validation images among the training images, all cores, and a deadline for the refit."""
    split = state.context.split
    split = replace(split, train=np.sort(np.concatenate([split.train, split.validation])))
    slot = replace(state.context.slot, threads=state.context.cores)
    deadline = state.deadline.within(time_budget)
    return replace(
        state,
        context=replace(state.context, split=split, slot=slot),
        extractor=replace(state.extractor, split=split, deadline=deadline),
        deadline=deadline,
    )
