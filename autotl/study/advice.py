"""What a measured alignment changes of the portfolio: the order of backbones, which blocks to retrain, augmentation by
what keeps the label, and the share of time that strategies get."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotl.recipe import JOIN
from autotl.study.portfolio import cheap_portfolio

if TYPE_CHECKING:
    from autotl.study.needs import Needs
    from autotl.study.scheduler import Scheduler
    from autotl.study.space import Choices

__all__ = ["Advice", "alignment_sample"]

MAX_SHARE = 0.1
"""Share of the remaining time that the measurement of alignment may take."""
NUM_IMAGES, MIN_IMAGES = 256, 96
"""Images of the sample, and the fewest that are worth it."""
BUILD_SECONDS = 3.0
"""Seconds that a backbone is taken to need before its first image."""
DOUBTFUL_SHARE = 1 / 3
"""Of the time that a strategy gets otherwise."""
POLICIES: Mapping[str, Mapping[str, str]] = {
    "turns": {"flip": "dihedral"},
    # random crops are the nearest to the turns that there are as many of
    "flips": {"dihedral": "crop"},
}
"""By the symmetries that keep the label, what a policy of the portfolio becomes."""


@dataclass(frozen=True)
class Advice:
    """Never a filter: a backbone of a low rank is tried later, not left out."""

    backbones: tuple[str, ...] = ()
    """The most promising one first. Others rank after them."""
    unfrozen_blocks: int = 0
    """How many blocks of the first one fine-tuning should retrain; 0 leaves the portfolio's numbers."""
    unfreeze: str = "last"
    """Which ones: the last or the first."""
    symmetry: str = ""
    """The symmetries that keep the label: "turns" (and flips), "flips", "none"; "" where it isn't known."""
    deserves_tuning: bool = True
    """Whether fine-tuning promises anything; else it gets less time, not none."""

    def rank(self, backbone: str) -> int:
        """The place of a backbone, from 0."""
        return self.backbones.index(backbone) if backbone in self.backbones else len(self.backbones)

    def reordered(self, queue: Sequence[Mapping[str, Any]], choices: "Choices", needs: "Needs") -> list[dict[str, Any]]:
        """What is left of the cheap portfolio, as if the user had named the backbones in the advised order. Recipes of
        strategies that promise little come last."""
        names = sorted(choices.backbones, key=lambda name: (JOIN in name, sum(map(self.rank, name.split(JOIN)))))
        portfolio = cheap_portfolio(replace(choices, backbones=tuple(names)), needs.registry)

        def place(params: Mapping[str, Any]) -> tuple[bool, int]:
            position = portfolio.index(dict(params)) if params in portfolio else len(portfolio)
            return self.share(params["strategy"], needs) < 1, position

        return [self.applied(params, choices) for params in sorted(queue, key=place)]

    def share(self, strategy: str, needs: "Needs") -> float:
        """The time that a strategy gets, where 1 is usual: less for one that retrains a network without a promise, or
        whose heads learn from images that augmentation makes look like another class."""
        tunes = "unfrozen_blocks" in needs.registry.strategy(strategy).recorded_params
        is_doubtful = tunes and not self.deserves_tuning
        return DOUBTFUL_SHARE if is_doubtful or (self.symmetry == "none" and needs.reads_views(strategy)) else 1.0

    def applied(self, params: Mapping[str, Any], choices: "Choices") -> dict[str, Any]:
        """Parameters of a portfolio recipe as advised, as far as the study's choices allow."""
        strategy, changed = params["strategy"], dict(params)
        policy = POLICIES.get(self.symmetry, {}).get(params.get(f"{strategy}.policy", ""))
        if policy in choices.augmentations:
            changed[f"{strategy}.policy"] = policy
        name = f"{strategy}.unfrozen_blocks"
        if self.unfrozen_blocks and params["backbone"] in self.backbones[:1] and name in params:
            changed[name] = self.unfrozen_blocks
            if choices.accelerator and f"{strategy}.unfreeze" in params:  # a CPU's space has the last ones alone
                changed[f"{strategy}.unfreeze"] = self.unfreeze
        return changed


def alignment_sample(scheduler: "Scheduler", time_budget: float) -> tuple[tuple[str, ...], int, float] | None:
    """The backbones to measure, the images of a sample that fit into a tenth of the remaining time with all of them,
    and that time in seconds. The backbone of the first trial takes part in any case, since its features are recorded;
    as many others as there is time for. None where there is no time limit, or too little time.
    """
    seconds = MAX_SHARE * time_budget
    usable = [name for name in scheduler.choices.single_backbones if name not in scheduler.missing]
    if not scheduler.timed or math.isinf(seconds) or not usable or seconds < BUILD_SECONDS:
        return None
    recorded = [name for name in usable if name in scheduler.active_backbones] or usable[:1]
    others = [name for name in usable if name not in recorded]
    while others:
        build = BUILD_SECONDS * (len(recorded) + len(others))
        affordable = int((seconds - build) / sum(scheduler.pass_seconds(name, 1) for name in others))
        if affordable >= MIN_IMAGES:
            num_images = min(NUM_IMAGES, affordable, scheduler.choices.num_train)
            return (*recorded, *others), num_images, seconds
        others.pop()
    return tuple(recorded), min(NUM_IMAGES, scheduler.choices.num_train), seconds
