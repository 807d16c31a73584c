"""What to try next: known-good recipes first, then the sampler's choice, within what there is time for.

After the known-good recipes each strategy gets its share of the time, however long its trials take; and a backbone that
no trial has used yet is opened once a pass over all images is a small part of the time left.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotl.registry import Registry
from autotl.search.space import Choices, known_good

__all__ = ["UNMEASURED", "Schedule"]

UNMEASURED = 20.0
"""Images a second and thread, before any were extracted."""
OPENING = 0.35
"""The part of the time left that recording another backbone's features may take."""


class Schedule:
    """Parameters for the next trial, in whole or in part.

    Args:
        tried: the parameters of the trials that a resumed study has.
        n_images: how many a backbone has to look at before its first trial.
        cores: how many look at them.
    """

    def __init__(
        self, choices: Choices, registry: Registry, tried: Sequence[Mapping[str, Any]], n_images: int, cores: int
    ):
        self.choices, self.registry, self.n_images, self.cores = choices, registry, n_images, cores
        self.plan = [p for p in known_good(choices, registry) if p not in tried]
        self.opened = {p["backbone"] for p in tried if "backbone" in p}
        self.sampling = False
        """Whether the known-good recipes are through."""
        self.rates: dict[str, float] = {}
        """Images a second and thread, by backbone, as measured."""
        self.spent: dict[str, float] = defaultdict(float)
        """Seconds of workers, by strategy, since sampling began."""
        self.durations: dict[str, list[float]] = defaultdict(list)
        """Of complete trials, by strategy."""

    def finished(self, strategy: str, seconds: float, complete: bool) -> None:
        """Take a trial's cost into account."""
        if self.sampling:
            self.spent[strategy] += seconds
        if complete:
            self.durations[strategy].append(seconds)

    def next(self, seconds_left: float, running: Mapping[str, float]) -> dict[str, Any]:
        """What to enqueue; the sampler chooses what is left out. `running`: seconds spent by strategy so far in
        trials that aren't finished."""
        while self.plan:
            parameters = self.plan.pop(0)
            if self._open(parameters["backbone"], seconds_left):
                return parameters
        self.sampling = True
        chosen: dict[str, Any] = {"strategy": self._strategy(seconds_left, running)}
        opened = [self._open(name, seconds_left) for name in self.choices.backbones]
        if not all(opened):
            chosen["backbone"] = random.choice(sorted(self.opened))
        return chosen

    def _open(self, backbone: str, seconds_left: float) -> bool:
        """Whether trials may use this backbone. The first may always; larger ones are reckoned slower than measured
        ones by the square of their size."""
        if backbone not in self.opened and self.opened and np.isfinite(seconds_left):
            rates = self.rates or {self.choices.backbones[0]: UNMEASURED}
            size = {name: self.registry.backbone(name).parameters or 1 for name in (backbone, *rates)}
            slowest = min(rate * (size[name] / size[backbone]) ** 2 for name, rate in rates.items())
            if self.n_images / (slowest * self.cores) > OPENING * seconds_left:
                return False
        self.opened.add(backbone)
        return True

    def _strategy(self, seconds_left: float, running: Mapping[str, float]) -> str:
        """The one that has had the least time; near the end only those whose trials still fit."""
        fitting = [s for s in self.choices.strategies if np.median(self.durations[s] or [0.0]) <= seconds_left]
        return min(fitting or self.choices.strategies[:1], key=lambda s: self.spent[s] + running.get(s, 0.0))
