"""Which trials the model is made of, such that it can predict the test images in the remaining time."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from optuna.trial import TrialState

from autotl.errors import AutotlError
from autotl.model.costs import Part, total_costs
from autotl.model.ensemble import select
from autotl.model.manifest import read_member_manifest
from autotl.model.member import Member, load_member
from autotl.study.study import FOLD_FILE, TrialAttribute
from autotl.trial.costs import networks_of, size_of
from autotl.trial.folds import predicted
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log, member_folder

__all__ = ["SAVING_SECONDS", "Candidate", "choose_members", "kept_candidates"]

SAVING_SECONDS = 5.0
"""Time reserved to load the members, save the model and score it."""
COMPILE_SECONDS = 6.0
"""Time to compile a fine-tuned network."""
LOAD_SECONDS = 0.5
"""Time to load a frozen network, which was compiled to extract features."""
DEFAULT_SECONDS_PER_IMAGE = 0.03
"""For a backbone whose speed was not measured."""


@dataclass(frozen=True)
class Candidate:
    """A complete trial whose fitted model was kept."""

    folder: Path
    number: int
    value: float
    """Score on the images that it has predicted."""
    backbone: str
    head: str
    tuned: bool
    """Whether blocks of the backbone were unfrozen."""
    views: tuple[str, ...]
    """Test-time augmentation."""
    out_of_fold: np.ndarray
    """Probabilities of the development images, [n, num_classes]; NaN for images that it hasn't predicted."""
    num_bytes: int = 0
    """Of its head and of unfrozen blocks, as saved."""
    fitted_on_all: bool = False
    """Whether it was fitted on all development images."""

    @property
    def network_key(self) -> str:
        """Candidates with the same key share one pass over the images for each view."""
        return f"{self.backbone}/{self.number}" if self.tuned else self.backbone

    @property
    def part(self) -> Part:
        """What it needs to predict."""
        return Part(self.backbone, self.network_key, self.views, self.num_bytes)


def kept_candidates(state: WorkerState) -> list[Candidate]:
    """The candidates within the limits of the search, best first; equal scores in the order of their log losses.

    Folders of trials that are not complete are ignored: a worker may have died after it saved a model and before it
    told the trial. A folder that can't be read costs a line in the log.
    """
    complete = state.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    candidates = []
    for trial in complete:
        folder = member_folder(state.context.folder, trial.number)
        if not (folder / "member.json").exists():
            continue
        try:
            on_all = bool(trial.user_attrs.get(TrialAttribute.FITTED_ON_ALL))
            candidates.append(replace(_read_candidate(state, folder), fitted_on_all=on_all))
        except (AutotlError, OSError, ValueError, MemoryError) as error:
            state.send(Log(f"Trial {trial.number} is left out of the model: {error}"))
    sign = -1 if state.registry.metric(state.context.config.metric).greater_is_better else 1
    log_loss = state.registry.metric("log_loss")

    def rank(candidate: Candidate) -> tuple[float, float, int]:
        # on few images many scores are equal
        loss = log_loss.score_or_nan(*predicted(state, candidate.out_of_fold))
        return sign * candidate.value, math.inf if math.isnan(loss) else loss, candidate.number

    limits = state.context.config.limits
    networks = networks_of(complete, {c.backbone for c in candidates}, state.registry) if limits else {}
    affordable = [c for c in candidates if not limits or limits.keeps(total_costs([c.part], networks))]
    return sorted(affordable, key=rank)


def _read_candidate(state: WorkerState, folder: Path) -> Candidate:
    manifest = read_member_manifest(folder)
    out_of_fold = np.load(folder / FOLD_FILE, allow_pickle=False)
    shape = len(state.context.split.development), len(state.context.dataset.classes)
    if out_of_fold.shape != shape or manifest.validation is None:
        raise ValueError(f"its out-of-fold probabilities have the shape {out_of_fold.shape}, not {shape}")
    rows = ~np.isnan(out_of_fold[:, 0])
    if not np.isfinite(out_of_fold[rows]).all() or not rows[state.context.split.development_folds == 0].all():
        raise ValueError("its probabilities are not finite")
    return Candidate(
        folder=folder,
        number=manifest.trial,
        value=manifest.validation,
        backbone=manifest.recipe.backbone,
        head=manifest.recipe.head,
        tuned=manifest.tuned,
        views=tuple(f"{view.policy}-{view.number}" for view in manifest.views),
        out_of_fold=out_of_fold,
        num_bytes=size_of(folder),
    )


def choose_members(
    state: WorkerState,
    candidates: list[Candidate],
    seconds_per_image: Mapping[str, float],
    time_limit: float = math.inf,
    earlier: Collection[int] = (),
) -> tuple[list[Member], float]:
    """The members of the model, which together keep the limits of the search, with their weights, and the estimated
    seconds to predict the test images.

    Args:
        candidates: best first.
        seconds_per_image: measured duration of a pass with all cores, by backbone.
        time_limit: seconds that loading the networks and predicting the test images may take. The best candidate is
            taken even if it needs more.
        earlier: trial numbers of the members of the model that an earlier search has left. They may be chosen together
            whatever the limit, so that a search with less time doesn't make a smaller model.
    """
    num_test, limits = len(state.context.split.test), state.context.config.limits
    trials = state.study.get_trials(deepcopy=False) if limits else ()
    networks = networks_of(trials, {c.backbone for c in candidates}, state.registry) if limits else {}

    def estimated_seconds(chosen: Collection[int]) -> float:
        members = [candidates[i] for i in chosen]
        networks = {member.network_key: member.tuned for member in members}
        passes = {(member.network_key, view): member.backbone for member in members for view in member.views}
        loading = sum(COMPILE_SECONDS if tuned else LOAD_SECONDS for tuned in networks.values())
        speeds = [seconds_per_image.get(backbone, DEFAULT_SECONDS_PER_IMAGE) for backbone in passes.values()]
        return loading + num_test * sum(speeds)

    def is_allowed(chosen: frozenset[int]) -> bool:
        if limits and not limits.keeps(total_costs([candidates[i].part for i in chosen], networks)):
            return False
        is_earlier = all(candidates[i].number in earlier for i in chosen)
        return is_earlier or estimated_seconds(chosen) <= time_limit

    weights = select(
        [candidate.out_of_fold for candidate in candidates],
        state.labels("development"),
        state.context.config.ensemble,
        is_allowed,
    )
    members = []
    for index, weight in weights.items():
        member = load_member(candidates[index].folder, state.registry)
        member.weight = weight
        members.append(member)
    return members, estimated_seconds(weights)
