"""What to try next: known-good recipes first, then the sampler's choice, within what there is time for.

After the known-good recipes each strategy gets its share of the time, however long its trials take, and within it each
kind of trial that a model would be made of (`autotl.study.pairs`). A pass of a backbone over all images is dear: a
backbone that no trial has used yet is opened, and several views of the images are recorded, where that is a small part
of the time left, and most trials build on what another one has recorded.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np

from autotl.registry import Registry
from autotl.study.portfolio import cheap_portfolio, expensive_heads, expensive_portfolio
from autotl.study.space import Choices

__all__ = ["UNMEASURED", "Schedule"]

UNMEASURED = 20.0
"""Images a second and thread, before any were extracted."""
OPENING = 0.35
"""The part of the time left that recording another backbone's features may take, or a strategy's first views."""
THOROUGH = 0.1
"""And the part that several views of the images may take, for one known-good recipe."""
SHARE, THOROUGH_SHARE = 0.1, 0.3
"""The part of the search's time that one trial may plan for, and one of a thorough recipe."""
AGAIN = 0.8
"""How many of the trials look at what an earlier one has recorded."""
FREE = 0.2
"""How many leave the choice of backbone and head to the sampler."""
FRESH = 0.02
"""The part of the time left that a pass may take where a trial looks at something new: all do where it takes more."""


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


class Schedule:
    """Parameters for the next trial, in whole or in part.

    Args:
        tried: the parameters of the trials that a resumed study has.
        n_images: how many a backbone has to look at before its first trial.
        cores: how many look at them.
        greater_is_better: of scores.
    """

    def __init__(
        self,
        choices: Choices,
        registry: Registry,
        tried: Sequence[Mapping[str, Any]],
        n_images: int,
        cores: int,
        greater_is_better: bool = True,
    ):
        self.choices, self.registry, self.n_images, self.cores = choices, registry, n_images, cores
        self.plan = [p for p in cheap_portfolio(choices, registry) if p not in tried]
        recipes = [
            (backbone, strategy, head)
            for i, backbone in enumerate(choices.backbones)
            for strategy in choices.strategies
            for head in expensive_heads(choices, registry, strategy)
            if i == 0 or "estimator" in registry.strategy(strategy).head_types  # to train a backbone is dear: only one
        ]
        self.deeper = [recipe for recipe in recipes if not self._tried(*recipe, tried)]
        """Backbones, strategies and heads whose thorough recipes weren't tried yet."""
        self.at_hand: list[dict[str, Any]] = []
        """Thorough recipes that there is time for."""
        self.done: list[Mapping[str, Any]] = [p for p in tried if "strategy" in p]
        """Parameters of known-good trials, and of those that are complete."""
        self.share = SHARE
        """The part of the search's time that what was chosen last may take."""
        self.opened = {p["backbone"] for p in tried if "backbone" in p}
        self.sampling = False
        """Whether the known-good recipes are through."""
        self.rates: dict[str, float] = {}
        """Images a second and thread, by backbone, as measured."""
        self.spent: dict[str, float] = defaultdict(float)
        """Seconds of workers, by strategy, since sampling began."""
        self.kinds = Kinds(greater_is_better)
        self.durations: dict[str, list[float]] = defaultdict(list)
        """Of complete trials, by strategy."""

    def finished(self, params: Mapping[str, Any], seconds: float, value: float | None, recording: float = 0.0) -> None:
        """Take a trial's cost into account, its score where it is complete, and what it has recorded, in so many of its
        seconds."""
        strategy = params.get("strategy", "")
        if head := params.get(f"{strategy}.head"):
            self.kinds.finished(strategy, (params["backbone"], head), seconds - recording, value)
        if self.sampling:
            self.spent[strategy] += seconds
        if value is not None:
            self.durations[strategy].append(seconds)
            self.done.append(params)

    def next(self, seconds_left: float, running: Mapping[str, float]) -> dict[str, Any]:
        """What to enqueue; the sampler chooses what is left out. `running`: seconds spent by strategy so far in
        trials that aren't finished."""
        self.share = SHARE
        while self.plan:
            if self.plan[0]["backbone"] not in self.opened and (parameters := self._thorough(seconds_left)):
                return parameters
            parameters = self.plan.pop(0)
            if not self._fits(parameters["strategy"], seconds_left):
                continue
            if self._open(parameters["backbone"], seconds_left):
                self.done.append(parameters)
                return parameters
        if parameters := self._thorough(seconds_left):
            return parameters
        self.sampling = True
        return self._part(self._strategy(seconds_left, running), seconds_left)

    def _part(self, strategy: str, seconds_left: float) -> dict[str, Any]:
        """A kind worth tuning, and mostly what an earlier trial has recorded; the rest is the sampler's choice."""
        fixed: dict[str, Any] = {"strategy": strategy}
        opened = [name for name in self.choices.backbones if self._open(name, seconds_left)]
        recorded = [f"{strategy}.{name}" for name in self.registry.strategy(strategy).recorded]
        earlier = [p for p in self.done if p["strategy"] == strategy and all(n in p for n in ("backbone", *recorded))]
        quick = [name for name in opened if self._a_pass(name) <= FRESH * seconds_left]
        again = bool(recorded and earlier) and (not quick or random.random() < AGAIN)
        if recorded and earlier:
            opened = list({p["backbone"]: None for p in earlier}) if again else quick
        if random.random() >= FREE:
            heads = self.choices.heads_for(strategy, self.registry)
            backbone, head = self.kinds.choose(strategy, [(name, head) for name in opened for head in heads])
            fixed |= {"backbone": backbone, f"{strategy}.head": head}
        elif again or len(opened) < len(self.choices.backbones):
            fixed["backbone"] = random.choice(opened)
        if again:
            before = random.choice([p for p in earlier if p["backbone"] == fixed["backbone"]])
            fixed |= {name: before[name] for name in recorded}
        return fixed

    def _thorough(self, seconds_left: float) -> dict[str, Any] | None:
        """The next dearer known-good recipe on a backbone that is open, as thorough as the time allows."""
        for backbone, strategy, head in [recipe for recipe in self.deeper if recipe[0] in self.opened]:
            if self.at_hand:
                break
            self.deeper.remove((backbone, strategy, head))
            affordable = THOROUGH * seconds_left / max(1e-9, self._a_pass(backbone))
            self.at_hand = expensive_portfolio(self.registry, backbone, strategy, head, int(min(affordable, 100)))
        if not self.at_hand:
            return None
        parameters = self.at_hand.pop(0)
        self.done.append(parameters)
        self.share = THOROUGH_SHARE
        return parameters

    def _tried(self, backbone: str, strategy: str, head: str, tried: Sequence[Mapping[str, Any]]) -> bool:
        passes = {f"{strategy}.{name}" for name in self.registry.strategy(strategy).recorded}
        for parameters in expensive_portfolio(self.registry, backbone, strategy, head, 100):
            fixed = {name: value for name, value in parameters.items() if name not in passes}
            if any(all(p.get(name) == value for name, value in fixed.items()) for p in tried):
                return True
        return False

    def _open(self, backbone: str, seconds_left: float) -> bool:
        """Whether trials may use this backbone. The first may always."""
        if self.opened and backbone not in self.opened and self._a_pass(backbone) > OPENING * seconds_left:
            return False
        self.opened.add(backbone)
        return True

    def _a_pass(self, backbone: str) -> float:
        """Seconds that a backbone looks at all images for. One that wasn't measured is reckoned slower than those that
        were by the square of its size."""
        rate = self.rates.get(backbone)
        if rate is None:
            rates = self.rates or {self.choices.backbones[0]: UNMEASURED}
            size = {name: self.registry.backbone(name).num_params or 1 for name in (backbone, *rates)}
            rate = min(rate * (size[name] / size[backbone]) ** 2 for name, rate in rates.items())
        return self.n_images / (rate * self.cores)

    def _strategy(self, seconds_left: float, running: Mapping[str, float]) -> str:
        """The one that has had the least time; near the end only those whose trials still fit."""
        fitting = [s for s in self.choices.strategies if self._fits(s, seconds_left)]
        return min(fitting or self.choices.strategies[:1], key=lambda s: self.spent[s] + running.get(s, 0.0))

    def _fits(self, strategy: str, seconds_left: float) -> bool:
        """Whether a trial of it would be done in time. The first records a pass where the strategy records its own; the
        cheapest strategy always fits: something has to be tried."""
        if durations := self.durations[strategy]:
            return bool(np.median(durations) <= seconds_left)
        passes = self.registry.strategy(strategy).recorded
        if strategy == self.choices.strategies[0] or not passes or not self.rates:  # or all may be recorded already
            return True
        return self._a_pass(self.choices.backbones[0]) <= OPENING * seconds_left
