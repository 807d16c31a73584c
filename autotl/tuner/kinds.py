"""Which backbone and head a trial tries: the kinds that a model would be made of share the time.

A model averages the best trial of each of a few kinds, so those are worth tuning. Left to itself the sampler comes to
like a single one: of 1,137 complete trials on solar cells 598 were support vector machines on one backbone, and seven
were MLPs.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

__all__ = ["Kind", "Kinds"]

Kind = tuple[str, str]
"""A backbone and a head."""

TUNED = 8
"""How many kinds are tuned: as many as a model combines."""


class Kinds:
    """The best score of each kind, and how long its trials take."""

    def __init__(self, greater_is_better: bool):
        self._sign = 1 if greater_is_better else -1
        self._best: dict[Kind, float] = {}
        self._seconds: dict[str, dict[Kind, list[float]]] = defaultdict(lambda: defaultdict(list))
        """By strategy."""

    def finished(self, strategy: str, kind: Kind, seconds: float, value: float | None) -> None:
        """Take a trial into account. `value` is None where it was pruned or failed."""
        self._seconds[strategy][kind].append(seconds)
        if value is not None:
            self._best[kind] = max(self._best.get(kind, -float("inf")), self._sign * value)

    def choose(self, strategy: str, kinds: Sequence[Kind]) -> Kind:
        """One of the best of `kinds`, so that each gets as much time as another; those that no trial of any strategy
        has finished with come last."""
        best = sorted(kinds, key=lambda kind: self._best.get(kind, -float("inf")), reverse=True)[:TUNED]
        taken = {kind: mean(seconds) for kind, seconds in self._seconds[strategy].items()}
        usual = mean(taken.values()) if taken else 1.0
        return random.choices(best, [1 / max(1e-3, taken.get(kind, usual)) for kind in best])[0]
