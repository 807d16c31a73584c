"""Which pair of backbone and head is tuned next: the best ones, each for the same time."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

__all__ = ["NUM_TUNED_PAIRS", "Pair", "PairStatistics"]

NUM_TUNED_PAIRS = 8
"""Number of pairs that are tuned: as many as an ensemble combines."""

Pair = tuple[str, str]
"""A backbone and a head."""


class PairStatistics:
    """The best score of each pair, over all strategies, and its trial times, by strategy."""

    def __init__(self, *, greater_is_better: bool = True):
        self._sign = 1 if greater_is_better else -1
        self._best: dict[Pair, float] = {}
        self._seconds: dict[str, dict[Pair, list[float]]] = defaultdict(lambda: defaultdict(list))

    def finished(self, strategy: str, pair: Pair, seconds: float, value: float | None) -> None:
        """Add a trial. `value` is None where it was pruned or failed."""
        self._seconds[strategy][pair].append(seconds)
        if value is not None:
            self._best[pair] = max(self._best.get(pair, -math.inf), self._sign * value)

    def choose(self, strategy: str, pairs: Sequence[Pair], rng: random.Random) -> Pair:
        """Draw one of the best pairs with probability inversely proportional to its mean trial time, so that all get
        equal wall time. Pairs without a complete trial rank last."""
        best = sorted(pairs, key=lambda pair: self._best.get(pair, -math.inf), reverse=True)[:NUM_TUNED_PAIRS]
        mean_seconds = {pair: mean(seconds) for pair, seconds in self._seconds[strategy].items()}
        default = mean(mean_seconds.values()) if mean_seconds else 1.0
        return rng.choices(best, [1 / max(1e-3, mean_seconds.get(pair, default)) for pair in best])[0]
