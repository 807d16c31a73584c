"""Which trials the model is made of, within the time that is left to test it."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

from autotl.errors import AutotlError
from autotl.model.ensemble import select
from autotl.model.manifest import read_member_manifest
from autotl.model.member import Member, load_member
from autotl.trial.runner import Bench
from autotl.workers.messages import Finish, member_folder

__all__ = ["SAVING", "Candidate", "choose_members", "kept_candidates"]

CONVERSION = 6.0
"""Seconds to make an engine ready for a fine-tuned network; a frozen one's is kept from extraction."""
UNKNOWN = 0.03
"""Seconds an image for a backbone that nobody has timed."""


SAVING = 5.0
"""Seconds to load, save and score."""


@dataclass(frozen=True)
class Candidate:
    """A trial whose model was kept."""

    folder: Path
    number: int
    value: float
    backbone: str
    head: str
    tuned: bool
    views: tuple[str, ...]
    validation: np.ndarray

    @property
    def pair(self) -> tuple[str, str, bool]:
        """Candidates of one kind err alike."""
        return self.backbone, self.head, self.tuned

    @property
    def passes(self) -> str:
        """What shares one pass over the images has the same."""
        return f"{self.backbone}/{self.number}" if self.tuned else self.backbone


def kept_candidates(bench: Bench) -> list[Candidate]:
    """Best first. A trial that isn't in the study as complete (its worker died over it) takes no part."""
    found = []
    shape = len(bench.labels("validation")), len(bench.context.dataset.classes)
    complete = bench.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    numbers = {member_folder(bench.context.folder, trial.number) for trial in complete}
    for page in sorted((bench.context.folder / "trials").glob("*/member.json")):
        if page.parent not in numbers:
            continue
        try:
            about = read_member_manifest(page.parent)
            validation = np.load(page.parent / "validation.npy", allow_pickle=False)
            if validation.shape != shape or about.validation is None:
                raise ValueError(f"its validation probabilities have the shape {validation.shape}, not {shape}")
        except (AutotlError, OSError, ValueError, MemoryError) as error:
            bench.send("say", f"{page.parent.name} takes no part in the model: {error}")
            continue
        views = tuple(f"{view.policy}-{view.number}" for view in about.views)
        made_of = about.recipe.backbone, about.recipe.head, about.tuned
        found.append(Candidate(page.parent, about.trial, about.validation, *made_of, views, validation))
    sign = -1 if bench.registry.metric(bench.context.config.metric).greater_is_better else 1
    log_loss, labels = bench.registry.metric("log_loss"), bench.labels("validation")
    # few validation images leave many trials equal: then it counts how sure they are of what is right
    return sorted(found, key=lambda c: (sign * c.value, log_loss(labels, c.validation), c.number))


def choose_members(bench: Bench, ticket: Finish, candidates: list[Candidate]) -> tuple[list[Member], float]:
    """An average of the best of each kind that still predicts the test images in the time left; and how many seconds
    that takes."""
    n_test = len(bench.context.split.test)
    left = ticket.until - time.monotonic() - SAVING

    def seconds(chosen: Collection[int]) -> float:
        networks = {candidates[i].passes: candidates[i] for i in chosen}
        looked = {(candidates[i].passes, view): candidates[i].backbone for i in chosen for view in candidates[i].views}
        ready = sum(CONVERSION if candidate.tuned else 0.5 for candidate in networks.values())
        return ready + sum(n_test * ticket.seconds_an_image.get(name, UNKNOWN) for name in looked.values())

    def allowed(chosen: frozenset[int]) -> bool:
        return seconds(chosen) <= left

    metric = bench.registry.metric(bench.context.config.metric)
    found, kinds = [c.validation for c in candidates], [c.pair for c in candidates]
    weights = select(found, kinds, bench.labels("validation"), metric, bench.context.config.ensemble, allowed)
    members = []
    for index, weight in weights.items():
        member = load_member(candidates[index].folder, bench.registry)
        member.weight = weight
        members.append(member)
    return members, seconds(weights)
