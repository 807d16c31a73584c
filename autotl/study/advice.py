"""What a measured alignment changes of the portfolio: the order of backbones, and how many blocks to retrain."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotl.study.scheduler import Scheduler

__all__ = ["Advice", "alignment_sample"]

MAX_SHARE = 0.1
"""Share of the remaining time that the measurement of alignment may take."""
NUM_IMAGES, MIN_IMAGES = 256, 96
"""Images of the sample, and the fewest that are worth it."""
BUILD_SECONDS = 3.0
"""Seconds that a backbone is taken to need before its first image."""


@dataclass(frozen=True)
class Advice:
    """Never a filter: a backbone of a low rank is tried later, not left out."""

    backbones: tuple[str, ...] = ()
    """The most promising one first. Others rank after them."""
    unfrozen_blocks: int = 0
    """How many of the last blocks of the first one fine-tuning should retrain; 0 leaves the portfolio's numbers."""

    def rank(self, backbone: str) -> int:
        """The place of a backbone, from 0."""
        return self.backbones.index(backbone) if backbone in self.backbones else len(self.backbones)

    def applied(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a portfolio recipe as advised."""
        name = f"{params['strategy']}.unfrozen_blocks"
        if not self.unfrozen_blocks or params["backbone"] not in self.backbones[:1] or name not in params:
            return dict(params)
        return {**params, name: self.unfrozen_blocks}


def alignment_sample(scheduler: "Scheduler", time_budget: float) -> tuple[tuple[str, ...], int, float] | None:
    """The backbones to measure, the images of a sample that fit into a tenth of the remaining time with all of them,
    and that time in seconds. None where there is no time limit or no choice, or where too few images fit."""
    seconds = MAX_SHARE * time_budget
    names = tuple(name for name in scheduler.choices.backbones if name not in scheduler.missing)
    if not scheduler.timed or math.isinf(seconds) or len(names) < 2:
        return None
    affordable = int((seconds - BUILD_SECONDS * len(names)) / sum(scheduler.pass_seconds(name, 1) for name in names))
    num_images = min(NUM_IMAGES, affordable, scheduler.choices.num_train)
    return (names, num_images, seconds) if num_images >= MIN_IMAGES else None
