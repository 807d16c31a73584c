"""What every strategy promises, seen on a small real trial: see `autotl.testing.trial`."""

import re
import tempfile
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.recipe import Recipe
from autotl.strategies.base import Fitted, OutOfTime, Report, Result, Strategy
from autotl.testing.check import Checks, expect
from autotl.testing.problem import FixedSpace, RandomSpace
from autotl.testing.trial import bench

__all__ = ["STRATEGY"]

STRATEGY = Checks("strategy", Strategy)
TYPES = ("dense", "estimator")


@STRATEGY.promise(Strategy)
def is_described(strategy: Strategy) -> None:
    """A strategy has a name (letters, digits, _ and -), which prefixes its parameters in a study; trains heads of head_type
    "dense", "estimator" or both; and says how many rows it makes of an image."""
    expect(isinstance(strategy.name, str) and re.fullmatch(r"[\w-]+", strategy.name), f"name is {strategy.name!r}")
    types = strategy.head_types
    expect(isinstance(types, tuple) and types and set(types) <= set(TYPES), f"head_types is {types!r}")
    rows = strategy.samples_per_image
    expect(isinstance(rows, int) and rows >= 1, f"samples_per_image is {rows!r}, not a count from 1")
    expect((strategy.__doc__ or "").strip(), "no docstring: `autotl strategies` prints its first paragraph")


@STRATEGY.promise(Strategy.defaults)
def defaults_are_what_it_suggests(strategy: Strategy) -> None:
    """`defaults`, and each of `thorough`, have a value for each name that `suggest` asks for, within what is
    suggested."""
    known = [
        (head_type, head, values)
        for head_type in strategy.head_types
        for head in [bench().head(head_type)]
        for values in (strategy.defaults(head), *strategy.expensive_defaults(head, 4))
    ]
    for head_type, head, values in known:
        space = FixedSpace(values)
        suggested = strategy.suggest(space, bench().backbone, head)
        expect(isinstance(suggested, dict), f"suggest returns {suggested!r}, not a dict")
        missing = [name for name in space.asked if name not in space.values]
        expect(not missing, f"no default for {', '.join(missing)}, with a head of head_type {head_type}")
        unasked = sorted(space.values.keys() - set(space.asked))
        expect(not unasked, f"a default for {', '.join(unasked)}, which suggest never asks for")
        expect(not space.outside, f"{', '.join(space.outside)} lies outside of what it suggests")


@STRATEGY.promise(Strategy.suggest)
def suggests_what_a_recipe_can_hold(strategy: Strategy) -> None:
    """What `suggest` returns is text, numbers, booleans or None under its names, so that a recipe can be
    written down."""
    for seed in range(4):
        for head_type in strategy.head_types:
            for name, value in strategy.suggest(RandomSpace(seed), bench().backbone, bench().head(head_type)).items():
                plain = value is None or type(value) in (str, int, float, bool)
                expect(isinstance(name, str) and plain, f"{name!r} is {value!r}, a {type(value).__name__}")


@STRATEGY.promise(Result)
def results_are_probabilities(strategy: Strategy) -> None:
    """`fit` returns a Result: probabilities of the validation images [n, num_classes], finite, rows sum to 1; the recipe
    that was trained; and a history whose epochs have the same names, with the number of the one that was kept."""
    for head_type in strategy.head_types:
        result = bench().fit(strategy, head_type)
        expect(isinstance(result, Result) and isinstance(result.fitted, Fitted), f"fit returns {result!r}")
        found, n = np.asarray(result.probabilities), len(bench().split.validation)
        expect(found.shape == (n, 2), f"probabilities are {list(found.shape)} for {n} images and 2 classes")
        expect(np.isfinite(found).all(), "probabilities that aren't finite")
        off = float(np.abs(found.sum(1) - 1).max())
        expect(off < 1e-6, f"rows of probabilities whose sum is off by {off:.3g}")
        same = isinstance(result.recipe, Recipe) and result.recipe.head == bench().head(head_type).name
        expect(same, f"the result's recipe is {result.recipe!r}")
        expect(Recipe.from_dict(result.recipe.to_dict()).digest == result.recipe.digest, "its recipe can't be written")
        names = {tuple(epoch) for epoch in result.history}
        expect(len(names) <= 1, f"epochs of the history have different names: {sorted(names)}")
        kept = range(1, len(result.history) + 1) if result.history else (None,)
        expect(result.best_epoch in kept, f"best_epoch is {result.best_epoch!r} of {len(result.history)}")


@STRATEGY.promise(Strategy.fit)
def learns_two_photographs(strategy: Strategy) -> None:
    """With its defaults it tells patches of two photographs apart, better than a guess."""
    for head_type in strategy.head_types:
        result = bench().fit(strategy, head_type)
        right = float((result.probabilities.argmax(1) == bench().dataset.labels[bench().split.validation]).mean())
        expect(right >= 0.75, f"{right:.0%} of 12 patches are right, with a head of head_type {head_type}")


@STRATEGY.promise(Strategy.fit)
def trains_once_more_for_the_model(strategy: Strategy) -> None:
    """Where `task.refit_epochs` is set, a strategy that trains in epochs trains exactly so many and keeps the last."""
    for head_type in strategy.head_types:
        result = bench().fit(strategy, head_type, task=bench().task(bench().head(head_type), refit_epochs=2))
        if result.history:
            expect(len(result.history) == 2, f"it trained {len(result.history)} epochs, not 2")
            expect(result.best_epoch == 2, f"it kept epoch {result.best_epoch}, not the last")


@STRATEGY.promise(Recipe)
def the_same_recipe_gives_the_same_model(strategy: Strategy) -> None:
    """The same recipe and seed give the same probabilities, bit by bit."""
    head_type = strategy.head_types[0]
    once, again = (bench().fit(strategy, head_type).probabilities for _ in range(2))
    off = float(np.abs(once - again).max())
    expect(np.array_equal(once, again), f"trained again they differ by up to {off:.3g}: draw from recipe.seed")


@STRATEGY.promise(Fitted)
def the_model_says_what_the_trial_said(strategy: Strategy) -> None:
    """What `fitted` holds, saved into a model folder and loaded again, gives the probabilities of the result."""
    from autotl.model.image_model import ImageModel, load
    from autotl.model.member import Member

    for head_type in strategy.head_types:
        result = bench().fit(strategy, head_type)
        backbone = bench().backbone
        member = Member(result.recipe, result.fitted, backbone.digest, 2)
        about: dict[str, Any] = {"versions": {}}
        model = ImageModel(
            bench().dataset.classes, [member], {backbone.digest: backbone}, registry=bench().registry, about=about
        )
        paths = [bench().dataset.paths[i] for i in bench().split.validation]
        with tempfile.TemporaryDirectory() as folder:
            loaded = load(model.save(f"{folder}/model"), registry=bench().registry)
            found = loaded.predict_proba(paths)
        off = float(np.abs(found - result.probabilities).max())
        # recorded features are rounded to 16 bits, and the chip may compute in bf16
        expect(off < 0.05, f"probabilities are off by up to {off:.3g}, with a head of head_type {head_type}")


@STRATEGY.promise(Strategy.fit)
def reports_its_progress(strategy: Strategy) -> None:
    """What it reports are fractions of its budget in (0, 1], never falling, with finite scores; and what `report`
    raises to prune the trial comes out of `fit`."""
    from optuna import TrialPruned

    reported: list[tuple[float, float]] = []

    def note(fraction: float, score: float) -> None:
        reported.append((fraction, score))

    def prune(fraction: float, score: float) -> None:
        raise TrialPruned

    head_type = strategy.head_types[0]
    bench().fit(strategy, head_type, note)
    fractions = [fraction for fraction, _ in reported]
    expect(all(0 < f <= 1 for f in fractions), f"it reported the fractions {fractions}")
    expect(fractions == sorted(fractions), f"it reported the fractions {fractions}: they fall")
    expect(np.isfinite([score for _, score in reported]).all(), "it reported a score that isn't finite")
    if reported:
        expect(_ends_pruned(strategy, head_type, prune), "`report` raised TrialPruned, and fit went on")


def _ends_pruned(strategy: Strategy, head_type: str, prune: Report) -> bool:
    from optuna import TrialPruned

    try:
        bench().fit(strategy, head_type, prune)
    except TrialPruned:
        return True
    return False


@STRATEGY.promise(OutOfTime)
def keeps_to_the_time_that_is_left(strategy: Strategy) -> None:
    """Where `task.deadline` has passed a strategy that trains in epochs begins none more: it raises OutOfTime, or
    returns what it has."""
    for head_type in strategy.head_types:
        task = bench().task(bench().head(head_type), deadline=Deadline(0.0))
        try:
            result = bench().fit(strategy, head_type, task=task)
        except OutOfTime:
            continue
        expect(len(result.history) <= 1, f"with no second left it trained {len(result.history)} epochs")
