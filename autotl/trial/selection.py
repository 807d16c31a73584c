"""Which trials the model is made of, such that it can predict the test images in the remaining time."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from optuna.trial import TrialState

from autotl.errors import AutotlError
from autotl.model.costs import Part, total_costs
from autotl.model.ensemble import select
from autotl.model.manifest import read_member_manifest
from autotl.model.member import Member, load_member
from autotl.recipe import JOIN
from autotl.study.fold_file import read_fold_file
from autotl.study.study import TrialAttribute
from autotl.trial.costs import networks_of, size_of
from autotl.trial.folds import predicted
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log, member_folder

__all__ = [
    "SAVING_SECONDS",
    "Candidate",
    "choose_members",
    "kept_candidates",
    "passes_of_fits",
    "prediction_seconds",
]

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
    sample: float = math.inf
    """Number of images of a trial that had only a sample of them."""

    @property
    def networks(self) -> tuple[tuple[str, str], ...]:
        """The key and the backbone of each of its networks. Candidates with the same key share one pass over the images
        for each view."""
        return tuple((f"{b}/{self.number}" if self.tuned else b, b) for b in self.backbone.split(JOIN))

    @property
    def part(self) -> Part:
        """What it needs to predict."""
        return Part(self.networks, self.views, self.num_bytes)


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
            sample = float(trial.user_attrs.get(TrialAttribute.SAMPLE, math.inf))
            candidates.append(replace(_read_candidate(state, folder), fitted_on_all=on_all, sample=sample))
        except (AutotlError, OSError, ValueError, MemoryError) as error:
            state.send(Log(f"Trial {trial.number} is left out of the model: {error}"))
    sign = -1 if state.registry.metric(state.context.config.metric).greater_is_better else 1
    log_loss = state.registry.metric("log_loss")

    def rank(candidate: Candidate) -> tuple[float, float, int]:
        # on few images many scores are equal
        loss = log_loss.score_or_nan(*predicted(state, candidate.out_of_fold))
        return sign * candidate.value, math.inf if math.isnan(loss) else loss, candidate.number

    limits = state.context.config.limits
    networks = networks_of(complete, _backbones_of(candidates), state.registry) if limits else {}
    largest = max((c.sample for c in candidates), default=math.inf)
    candidates = [c for c in candidates if c.sample == largest]
    affordable = [c for c in candidates if not limits or limits.keeps(total_costs([c.part], networks))]
    return sorted(affordable, key=rank)


def _backbones_of(candidates: Iterable[Candidate]) -> set[str]:
    return {backbone for candidate in candidates for _, backbone in candidate.networks}


def _read_candidate(state: WorkerState, folder: Path) -> Candidate:
    manifest = read_member_manifest(folder)
    shape = len(state.context.split.development), len(state.context.dataset.classes)
    out_of_fold = read_fold_file(folder, shape)
    if manifest.validation is None:
        raise ValueError("it has no score")
    validation = out_of_fold[state.context.split.development_folds == 0]
    if np.isnan(validation).all():  # a trial on a sample of the images has predicted some of them
        raise ValueError("it hasn't predicted the validation images")
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
    recorded: Collection[tuple[str, str]] = (),
) -> tuple[list[Member], float]:
    """The members of the model, which together keep the limits of the search, with their weights, and the estimated
    seconds to predict the test images.

    Args:
        candidates: best first.
        seconds_per_image: measured duration of a pass with all cores, by backbone.
        time_limit: seconds that loading the networks and predicting the test images may take. Where that is too little
            for any candidate, the members may need as much as the quickest one.
        earlier: trial numbers of the members of the model that an earlier search has left. They may be chosen together
            whatever the limit, so that a search with less time doesn't make a smaller model.
        recorded: the network and the view of passes over the test images that are recorded already, and take no time.
    """
    limits = state.context.config.limits
    trials = state.study.get_trials(deepcopy=False) if limits else ()
    networks = networks_of(trials, _backbones_of(candidates), state.registry) if limits else {}

    def estimated_seconds(chosen: Collection[int]) -> float:
        return prediction_seconds(state, [candidates[i] for i in chosen], seconds_per_image, recorded)

    quickest = min(estimated_seconds({i}) for i in range(len(candidates)))
    most_seconds = max(time_limit, quickest)

    def is_allowed(chosen: frozenset[int]) -> bool:
        if limits and not limits.keeps(total_costs([candidates[i].part for i in chosen], networks)):
            return False
        is_earlier = all(candidates[i].number in earlier for i in chosen)
        return is_earlier or estimated_seconds(chosen) <= most_seconds

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


def prediction_seconds(
    state: WorkerState,
    members: Collection[Candidate],
    seconds_per_image: Mapping[str, float],
    recorded: Collection[tuple[str, str]],
) -> float:
    """Estimated seconds to predict the test images. For the arguments see `choose_members`."""
    passes = {
        (key, view): name
        for member in members
        for key, name in member.networks
        for view in member.views
        if (key, view) not in recorded
    }
    unrecorded = {key for key, _ in passes}
    networks = {key: m.tuned for m in members for key, _ in m.networks if key in unrecorded}
    loading = sum(COMPILE_SECONDS if tuned else LOAD_SECONDS for tuned in networks.values())
    speeds = [seconds_per_image.get(backbone, DEFAULT_SECONDS_PER_IMAGE) for backbone in passes.values()]
    return loading + len(state.context.split.test) * sum(speeds)


def passes_of_fits(candidates: Iterable[Candidate], trials: Collection[int]) -> set[tuple[str, str]]:
    """The network and the view of each pass of the fine-tuned candidates among some trials: what is recorded of them is
    of no use once they are fitted again."""
    tuned = [candidate for candidate in candidates if candidate.tuned and candidate.number in trials]
    return {(key, view) for candidate in tuned for key, _ in candidate.networks for view in candidate.views}
