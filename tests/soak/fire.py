"""What every trial by fire stands on: how it is registered, and what it reports."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TRIALS", "Outcome", "by_fire"]


@dataclass(frozen=True)
class Outcome:
    """What a trial by fire measured, in words with their figures, what had to hold, and whether it did."""

    figure: str
    target: str
    holds: bool


TRIALS: dict[str, Callable[[Path], Outcome]] = {}


def by_fire(trial: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
    """A function of an empty folder that it may fill. Its name is the trial's."""
    TRIALS[trial.__name__] = trial
    return trial
