"""What the next trial fixes of its parameters: first the warm-start portfolio, then the most promising pairs.

After the portfolio every strategy gets the same wall time, and so does, within a strategy, every pair of backbone and
head that the model may be made of. A pass over all images is expensive, so most trials reuse recorded features.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from autotl.recipe import JOIN
from autotl.registry import Registry
from autotl.study.advice import Advice
from autotl.study.needs import FeaturesOfTrials, Needs, Recording, Work
from autotl.study.pairs import PairStatistics
from autotl.study.portfolio import cheap_portfolio, expensive_heads, expensive_portfolio, tried_expensive, untried
from autotl.study.space import Choices, seed_of
from autotl.study.speed_estimates import DEFAULT_SPEED, assumed_pass_seconds, estimated_speed, level_speeds

__all__ = ["Scheduler"]

MAX_ACTIVATION_SHARE = 0.35
"""Share of the remaining time that the first pass of a backbone, or of a strategy, over all images may take."""
MAX_SECOND_SHARE = 0.5
"""The same of the second backbone, which brings most."""
MAX_EXPENSIVE_SHARE = 0.1
"""Share of the remaining time that the views of an expensive portfolio recipe may take to extract."""
MAX_NEW_FEATURES_SHARE = 0.02
"""Share of the remaining time that a pass may take where a trial extracts new features instead of reusing some."""
TRIAL_TIME_SHARE, EXPENSIVE_TRIAL_TIME_SHARE = 0.1, 0.3
"""Share of the whole search that one trial may plan for, and one trial of the expensive portfolio."""
REUSE_PROBABILITY = 0.8
"""Probability that a trial reuses recorded features where new ones would be cheap."""
FREE_PAIR_PROBABILITY = 0.2
"""Probability that the choice of backbone and head is left to the sampler."""
NUM_EXPLORED_VIEWS = 3
"""Views that are recorded of a policy which is not in the portfolio."""


class Scheduler:
    """Decides which parameters of the next trial are fixed; the sampler draws the others.

    Each decision has a generator seeded with `seed` and the trial's number. Without a time limit no decision depends on
    measured time: every trial costs one unit, so that a search on one CPU slot is repeatable.

    Args:
        tried: parameters of the trials of a resumed study.
        num_images: number of images that a pass extracts features of.
        threads: threads of all slots, by device type; workers share a pass.
        greater_is_better: of the metric.
        seed: the study's seed.
        timed: whether the search has a time limit.
    """

    def __init__(
        self,
        choices: Choices,
        registry: Registry,
        tried: Sequence[Mapping[str, Any]],
        num_images: int,
        threads: Mapping[str, int],
        *,
        greater_is_better: bool = True,
        seed: int = 0,
        timed: bool = True,
    ):
        self.choices, self.registry = choices, registry
        self.num_images, self.threads, self.seed, self.timed = num_images, threads, seed, timed
        self.needs = Needs(choices, registry)
        self.cheap_queue = untried(cheap_portfolio(choices, registry), tried)
        """Recipes of the cheap portfolio that weren't tried yet."""
        self.untried_expensive = [
            (backbone, strategy, head)
            for i, backbone in enumerate(choices.backbones)
            for strategy in choices.strategies
            if backbone in choices.backbones_for(strategy, registry)
            for head in expensive_heads(choices, registry, strategy)
            # training a backbone is expensive: on the first one only
            if i == 0 or "estimator" in registry.strategy(strategy).head_types
            if not tried_expensive(choices, registry, backbone, strategy, head, tried)
        ]
        """(backbone, strategy, head) whose recipes of the expensive portfolio weren't tried yet."""
        self.expensive_queue: list[dict[str, Any]] = []
        """Recipes of one of them, as expensive as the remaining time allows."""
        self.extracted: list[Mapping[str, Any]] = [params for params in tried if "strategy" in params]
        """Parameters of trials whose features are recorded: portfolio trials and complete ones."""
        self._features = FeaturesOfTrials(self.needs)
        names = [params["backbone"] for params in tried if "backbone" in params]
        self.active_backbones = {part for name in names for part in (name, *name.split(JOIN))}
        """Backbones that a trial has used, or may use."""
        self.missing: set[str] = set()
        """Backbones whose weights aren't on this machine, or not yet: no trial uses them."""
        self.excluded: set[str] = set()
        """Backbones that exceed the limits."""
        self.time_share = TRIAL_TIME_SHARE
        """Share of the whole search that the trial from the last `next` may plan for."""
        self.sampling = False
        """Whether the portfolio is used up."""
        self.spent: dict[str, float] = defaultdict(float)
        """Cost of sampled trials by strategy: seconds, or the number of trials where the search is not timed."""
        self.pairs = PairStatistics(greater_is_better=greater_is_better)
        self._durations: dict[str, list[float]] = defaultdict(list)
        """Seconds of complete trials, by strategy, without the extraction of features that later ones reuse."""
        self.advice, self.aligns = Advice(), False
        """What alignment advises, and whether it is still to be measured."""
        self._speeds: dict[tuple[str, str, str], float] = {}
        """Last measured images per second and thread, by (backbone, what ran, device type)."""

    @property
    def unusable(self) -> set[str]:
        """Backbones that no trial may use: missing ones, those beyond the limits, and what joins one of them."""
        gone = self.missing | self.excluded
        return gone | {name for name in self.choices.backbones if gone & set(name.split(JOIN))}

    def align_with(self, advice: Advice) -> None:
        """Try what is left of the portfolio as advised. Nothing is left out."""
        self.advice = advice
        self.cheap_queue = advice.reordered(self.cheap_queue, self.choices, self.needs)
        self.untried_expensive.sort(key=lambda candidate: advice.rank(candidate[0]))

    def finished(
        self, params: Mapping[str, Any], seconds: float, value: float | None, extraction_seconds: float = 0.0
    ) -> None:
        """Add a finished trial.

        Args:
            value: its score; None where it was pruned or failed.
            extraction_seconds: the part of `seconds` that went into features, which later trials reuse.
        """
        if not self.timed:
            seconds, extraction_seconds = 1.0, 0.0
        strategy = params.get("strategy", "")
        if head := params.get(f"{strategy}.head"):
            self.pairs.finished(strategy, (params["backbone"], head), seconds - extraction_seconds, value)
        if self.timed and self.sampling:
            self.spent[strategy] += seconds
        if value is not None:
            reused = 0.0 if not strategy or self.needs.trains_network(strategy) else extraction_seconds
            self._durations[strategy].append(seconds - reused)
            self.extracted.append(params)

    def next(
        self,
        time_budget: float,
        running: Mapping[str, float],
        number: int,
        work: Work = Work.ANY,
        recorded: Collection[Recording] | None = None,
    ) -> dict[str, Any] | None:
        """The parameters to enqueue for the next trial: all, or those that the sampler shall not draw. None where there
        is no such work now; for any work there always is a trial.

        Args:
            time_budget: seconds until trials have to be done.
            running: seconds that unfinished trials have taken so far, by strategy.
            number: of the trial that will be enqueued.
            work: the trials that the worker may get.
            recorded: the features that it may read; None where it may record those that it reads.
        """
        if not self.timed:
            time_budget, running = math.inf, {}
        self.time_share = TRIAL_TIME_SHARE
        if params := self._portfolio_trial(time_budget, lambda params: self.needs.suits(params, work, recorded)):
            return params
        strategy = self._choose_strategy(time_budget, running, work, recorded)
        if strategy is None:
            return None
        self.sampling = True
        if not self.timed:
            self.spent[strategy] += 1.0  # when it starts, so that running trials count whatever time they take
        rng = random.Random(seed_of(self.seed, number))
        if work != Work.ANY and recorded is not None and not self.needs.trains_network(strategy):
            return self._trial_on_recorded(strategy, rng, work, self.needs.readable(strategy, recorded, self.unusable))
        return self._sampled_trial(strategy, time_budget, rng, work)

    def _portfolio_trial(self, time_budget: float, suits: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        """The next suitable recipe of the portfolio that there is time for: the cheap ones of the first backbones, then
        their expensive ones, then those of the next backbone. Recipes of a missing backbone wait until it is here."""
        unusable = self.unusable
        for params in [params for params in self.cheap_queue if params["backbone"] not in unusable]:
            new, is_further = self._new_networks(params["backbone"])
            if new and is_further and (expensive := self._expensive_trial(time_budget, suits)):
                return expensive
            if not suits(params):
                continue
            self.cheap_queue.remove(params)
            if self._strategy_fits(params["strategy"], time_budget) and self._activate(params["backbone"], time_budget):
                self.extracted.append(params)
                return params
        return self._expensive_trial(time_budget, suits)

    def _expensive_trial(self, time_budget: float, suits: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any] | None:
        """The next suitable expensive recipe on an active backbone; a doubtful strategy's wait for all cheap ones."""
        waits = {s for s in self.choices.strategies if self.cheap_queue and self.advice.share(s, self.needs) < 1}
        usable = self.active_backbones - self.unusable
        for candidate in [c for c in self.untried_expensive if c[0] in usable and c[1] not in waits]:
            if any(map(suits, self.expensive_queue)):
                break
            self.untried_expensive.remove(candidate)
            passes = self._affordable_passes(candidate[0], MAX_EXPENSIVE_SHARE * time_budget)
            recipes = expensive_portfolio(self.choices, self.registry, *candidate, passes)
            self.expensive_queue += [self.advice.applied(params, self.choices) for params in recipes]
        params = next(filter(suits, self.expensive_queue), None)
        if params is None:
            return None
        self.expensive_queue.remove(params)
        self.extracted.append(params)
        self.time_share = EXPENSIVE_TRIAL_TIME_SHARE
        return params

    def _sampled_trial(self, strategy: str, time_budget: float, rng: random.Random, work: Work) -> dict[str, Any]:
        """Fix a pair worth tuning and, mostly, parameters whose features are recorded."""
        fixed: dict[str, Any] = {"strategy": strategy}
        backbones = [n for n in self.choices.backbones_for(strategy, self.registry) if self._activate(n, time_budget)]
        recorded = [f"{strategy}.{name}" for name in self.registry.strategy(strategy).recorded_params]
        unusable = {"", *self.unusable}
        reusable = [
            params
            for params in self.extracted
            if params["strategy"] == strategy and params.get("backbone", "") not in unusable
            if all(name in params for name in recorded)
        ]
        quick = [name for name in backbones if self._affordable_passes(name, MAX_NEW_FEATURES_SHARE * time_budget)]
        reuse = bool(recorded and reusable) and (not quick or rng.random() < REUSE_PROBABILITY)
        if recorded and reusable:
            backbones = list({params["backbone"]: None for params in reusable}) if reuse else quick
        if rng.random() >= FREE_PAIR_PROBABILITY:
            pairs = [(backbone, head) for backbone in backbones for head in self.needs.heads(strategy, work)]
            fixed["backbone"], fixed[f"{strategy}.head"] = self.pairs.choose(strategy, pairs, rng)
        elif reuse or len(backbones) < len(self.choices.backbones):
            fixed["backbone"] = rng.choice(backbones)
        if reuse:
            source = rng.choice([params for params in reusable if params["backbone"] == fixed["backbone"]])
            fixed |= {name: source[name] for name in recorded}
        return fixed

    def _trial_on_recorded(
        self, strategy: str, rng: random.Random, work: Work, recorded: Sequence[Recording]
    ) -> dict[str, Any]:
        """The same for a head on features that are recorded: backbone, policy and views are theirs."""
        backbones = list({recording.backbone: None for recording in recorded})
        heads = self.needs.heads(strategy, work)
        pair = self.pairs.choose(strategy, [(backbone, head) for backbone in backbones for head in heads], rng)
        if rng.random() < FREE_PAIR_PROBABILITY:
            pair = rng.choice(backbones), rng.choice(heads)
        source = rng.choice([recording for recording in recorded if recording.backbone == pair[0]])
        fixed: dict[str, Any] = {"strategy": strategy, "backbone": pair[0], f"{strategy}.head": pair[1]}
        if self.needs.reads_views(strategy):
            fixed |= {f"{strategy}.policy": source.policy, f"{strategy}.views": source.views}
        return fixed

    def _choose_strategy(
        self, time_budget: float, running: Mapping[str, float], work: Work, recorded: Collection[Recording] | None
    ) -> str | None:
        """The strategy that has had the least of its share, among those with such work whose trials still fit."""
        needs, unusable = self.needs, self.unusable
        names = [
            name
            for name in self.choices.strategies
            if needs.heads(name, work)
            and (recorded is None or needs.trains_network(name) or needs.readable(name, recorded, unusable))
        ]
        fitting = [name for name in names if self._strategy_fits(name, time_budget)]
        if not fitting and work == Work.NETWORKS:
            return None
        had = {n: (self.spent[n] + running.get(n, 0.0)) / self.advice.share(n, self.needs) for n in names}
        return min(fitting or names[:1], key=had.__getitem__, default=None)

    # -- features that an accelerator records before trials need them

    def next_recording(
        self,
        time_budget: float,
        attempted: Collection[Recording],
        given_up: Collection[Recording] = (),
        waiting: Sequence[Mapping[str, Any]] = (),
    ) -> Recording | None:
        """The features that the portfolio, or a resumed trial, needs next and that there is time for.

        Args:
            attempted: features that are recorded, or are being recorded.
            given_up: features that can't be recorded.
            waiting: parameters of trials that are enqueued.
        """
        time_budget = time_budget if self.timed else math.inf
        self._expensive_trial(time_budget, lambda params: False)  # moves the recipes of active backbones to the queue
        queue = self.cheap_queue
        active = [params for params in queue if params["backbone"] in self.active_backbones] or queue[:1]
        extracted, unusable = self._features.first_of_each(self.extracted), self.unusable
        for params in (*waiting, *active, *self.expensive_queue, *queue, *extracted):
            whole = self.needs.recording(params)
            recording = whole and next((part for part in whole.parts if not part.is_in(attempted)), None)
            if recording is None or recording in given_up or params["backbone"] in unusable:
                continue
            if self._strategy_fits(params["strategy"], time_budget) and self._activate(recording.backbone, time_budget):
                return recording
        return None

    def explore(
        self, time_budget: float, attempted: Collection[Recording], given_up: Collection[Recording], number: int
    ) -> Recording | None:
        """Features of views that the portfolio doesn't have, where they take a small share of the remaining time."""
        time_budget = time_budget if self.timed else math.inf
        if not any(map(self.needs.reads_views, self.choices.strategies)):
            return None
        candidates = []
        for backbone in filter((self.active_backbones - self.unusable).__contains__, self.choices.single_backbones):
            views = min(NUM_EXPLORED_VIEWS, self._affordable_passes(backbone, MAX_NEW_FEATURES_SHARE * time_budget))
            candidates += [Recording(backbone, policy, views) for policy in self.choices.augmentations if views]
        most = {policy: self.registry.augmentations[policy].max_views for policy in self.choices.augmentations}
        possible = (replace(c, views=min(c.views, most[c.policy] or c.views)) for c in candidates)
        candidates = [c for c in possible if not c.is_in(attempted) and c not in given_up]
        return random.Random(seed_of(self.seed, number)).choice(candidates) if candidates else None

    def _strategy_fits(self, strategy: str, time_budget: float) -> bool:
        """Whether a trial of the strategy would be done in time.

        The first trial of a strategy with features of its own needs a pass. The first strategy always fits.
        """
        if math.isinf(time_budget):
            return True
        if durations := self._durations[strategy]:
            return median(durations) <= time_budget
        has_own_features = bool(self.registry.strategy(strategy).recorded_params)
        if strategy == self.choices.strategies[0] or not has_own_features:
            return True
        if not level_speeds(self._speeds, self.threads):  # all features may be in the store from an earlier search
            return True
        return self.pass_seconds(self.choices.backbones[0]) <= MAX_ACTIVATION_SHARE * time_budget

    def _activate(self, backbone: str, time_budget: float) -> bool:
        """Whether trials may use the backbone: the first one always, others where there is time for a pass."""
        may_use = backbone not in self.unusable and (
            not self.active_backbones - self.unusable
            or backbone in self.active_backbones
            or self.has_time_for(backbone, time_budget)
        )
        if may_use:
            self.active_backbones.update((backbone, *backbone.split(JOIN)))
        return may_use

    def has_time_for(self, backbone: str, time_budget: float) -> bool:
        """Whether a pass of what no trial uses yet takes a share of the time that is worth a new backbone."""
        new, is_further = self._new_networks(backbone)
        time_budget *= MAX_ACTIVATION_SHARE if is_further else MAX_SECOND_SHARE
        return not new or self._affordable_passes(JOIN.join(new), time_budget) > 0

    def _new_networks(self, backbone: str) -> tuple[list[str], bool]:
        """The networks of a backbone that no trial has used, and whether trials have used several others."""
        new = [name for name in backbone.split(JOIN) if name not in self.active_backbones]
        return new, sum(JOIN not in name for name in self.active_backbones) > 1

    def observe_speed(self, backbone: str, ran: str, device_type: str, images_per_second_per_thread: float) -> None:
        """Note a worker's speed. What `ran` is "levels" (the whole network), "prefix-N" (up to block N), or "images"
        (decoding alone)."""
        self._speeds[backbone, ran, device_type] = images_per_second_per_thread

    def pass_seconds(self, backbone: str, num_images: int | None = None) -> float:
        """Estimated seconds that all threads together take to extract the feature levels of `num_images` images, by
        default all of the search (see `autotl.study.speed_estimates`).

        Where something was measured, a device type on which nothing was is left out.

        Raises:
            AutotlError: the backbone's number of parameters is needed, unknown, and can't be counted.
        """
        num_images = self.num_images if num_images is None else num_images
        if JOIN in backbone:
            return sum(self.pass_seconds(part, num_images) for part in backbone.split(JOIN))
        if not (by_type := level_speeds(self._speeds, self.threads)):
            return assumed_pass_seconds(self.registry.backbone(backbone), num_images, self.threads)
        speed = sum(self.threads[name] * self._speed(backbone, name, speeds) for name, speeds in by_type.items())
        return num_images / speed

    def measured_speeds(self) -> dict[str, float]:
        """Seconds an image, with all threads, by backbone: of those that were measured."""
        by_type = level_speeds(self._speeds, self.threads).values()
        return {backbone: self.pass_seconds(backbone, 1) for measured in by_type for backbone in measured}

    @property
    def default_seconds_per_image(self) -> float:
        """Seconds an image, with all threads, before anything was measured."""
        return 1 / (DEFAULT_SPEED * sum(self.threads.values()))

    def _speed(self, backbone: str, device_type: str, measured: Mapping[str, float]) -> float:
        """Images per second and thread of a backbone: `measured` on the device type, or estimated from others."""
        if backbone in measured:
            return measured[backbone]
        speeds = [(self.registry.backbone(name), speed) for name, speed in measured.items()]
        return estimated_speed(self.registry.backbone(backbone), speeds, device_type, self.threads[device_type])

    def _affordable_passes(self, backbone: str, time_budget: float) -> int:
        """Number of passes that fit into `time_budget` seconds, at most 100."""
        if math.isinf(time_budget):
            return 100
        return int(min(100.0, max(0.0, time_budget) / self.pass_seconds(backbone)))
