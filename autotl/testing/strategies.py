"""The requirements of a strategy, tested on a small real problem (`autotl.testing.trial`)."""

import re
import tempfile
from typing import Any

import numpy as np

from autotl.clock import Deadline
from autotl.recipe import Recipe
from autotl.strategies.base import Fitted, OutOfTime, Report, Result, Strategy
from autotl.testing.check import Checks, expect
from autotl.testing.problem import FixedSpace, RandomSpace
from autotl.testing.trial import sample_problem

__all__ = ["STRATEGY"]

STRATEGY = Checks("strategy", Strategy)
TYPES = ("dense", "estimator")


@STRATEGY.requires(Strategy)
def is_described(strategy: Strategy) -> None:
    """A strategy has a name (letters, digits, _ and -), which prefixes its parameters in a study; trains heads of type
    "dense", "estimator" or both; states how many samples it makes of an image; and has a docstring."""
    expect(isinstance(strategy.name, str) and re.fullmatch(r"[\w-]+", strategy.name), f"name is {strategy.name!r}")
    types = strategy.head_types
    expect(isinstance(types, tuple) and types and set(types) <= set(TYPES), f"head_types is {types!r}")
    samples = strategy.samples_per_image
    expect(isinstance(samples, int) and samples >= 1, f"samples_per_image is {samples!r}, not an integer from 1")
    expect((strategy.__doc__ or "").strip(), "no docstring: `autotl strategies` prints its first paragraph")


@STRATEGY.requires(Strategy.defaults)
def defaults_match_suggest(strategy: Strategy) -> None:
    """`defaults`, and each set of `expensive_defaults`, have a value for each parameter of `suggest`, within its range,
    and no others."""
    for head_type in strategy.head_types:
        head = sample_problem().head(head_type)
        for values in (strategy.defaults(head), *strategy.expensive_defaults(head, 4)):
            space = FixedSpace(values)
            suggested = strategy.suggest(space, sample_problem().backbone, head)
            expect(isinstance(suggested, dict), f"suggest returns {suggested!r}, not a dict")
            missing = [name for name in space.requested if name not in space.values]
            expect(not missing, f"no default for {', '.join(missing)}, with {_article(head_type)} head")
            superfluous = sorted(space.values.keys() - set(space.requested))
            expect(not superfluous, f"a default for {', '.join(superfluous)}, which suggest doesn't request")
            expect(not space.out_of_range, f"out of the range of suggest: {', '.join(space.out_of_range)}")


@STRATEGY.requires(Strategy)
def recorded_params_are_suggested(strategy: Strategy) -> None:
    """`recorded_params` is a tuple of names that `suggest` requests."""
    names = strategy.recorded_params
    expect(isinstance(names, tuple), f"recorded_params is {names!r}, not a tuple")
    for head_type in strategy.head_types:
        head = sample_problem().head(head_type)
        space = FixedSpace(strategy.defaults(head))
        strategy.suggest(space, sample_problem().backbone, head)
        unknown = sorted(set(names) - set(space.requested))
        expect(not unknown, f"recorded_params names {', '.join(unknown)}, which suggest doesn't request")


@STRATEGY.requires(Strategy.suggest)
def suggests_values_a_recipe_can_hold(strategy: Strategy) -> None:
    """`suggest` returns a dict from names to strings, numbers, booleans or None, so that a recipe can be saved."""
    for seed in range(4):
        for head_type in strategy.head_types:
            head = sample_problem().head(head_type)
            for name, value in strategy.suggest(RandomSpace(seed), sample_problem().backbone, head).items():
                is_plain = value is None or type(value) in (str, int, float, bool)
                expect(isinstance(name, str) and is_plain, f"{name!r} is {value!r}, a {type(value).__name__}")


@STRATEGY.requires(Result)
def results_are_complete(strategy: Strategy) -> None:
    """`fit` returns a Result: probabilities of the validation images [n, num_classes], which are finite and whose rows
    sum to 1; the recipe that was trained; a history whose epochs have the same keys; and the number of the best
    epoch."""
    for head_type in strategy.head_types:
        result = sample_problem().fit(strategy, head_type)
        expect(isinstance(result, Result) and isinstance(result.fitted, Fitted), f"fit returns {result!r}")
        probabilities, n = np.asarray(result.probabilities), len(sample_problem().split.validation)
        shape = list(probabilities.shape)
        expect(probabilities.shape == (n, 2), f"probabilities have the shape {shape} for {n} images and 2 classes")
        expect(np.isfinite(probabilities).all(), "probabilities that aren't finite")
        error = float(np.abs(probabilities.sum(1) - 1).max())
        expect(error < 1e-6, f"rows of probabilities whose sum is off by {error:.3g}")
        head = sample_problem().head(head_type).name
        expect(isinstance(result.recipe, Recipe) and result.recipe.head == head, f"the recipe is {result.recipe!r}")
        expect(Recipe.from_dict(result.recipe.to_dict()).digest == result.recipe.digest, "the recipe can't be saved")
        keys = {tuple(epoch) for epoch in result.history}
        expect(len(keys) <= 1, f"epochs of the history have different keys: {sorted(keys)}")
        epochs = range(1, len(result.history) + 1) if result.history else (None,)
        expect(result.best_epoch in epochs, f"best_epoch is {result.best_epoch!r} of {len(result.history)}")


@STRATEGY.requires(Strategy.fit)
def learns_two_photographs(strategy: Strategy) -> None:
    """With its defaults the strategy classifies patches of two photographs better than chance."""
    for head_type in strategy.head_types:
        result = sample_problem().fit(strategy, head_type)
        accuracy = float((result.probabilities.argmax(1) == sample_problem().validation_labels).mean())
        expect(accuracy >= 0.75, f"{accuracy:.0%} of 12 patches are right, with {_article(head_type)} head")


@STRATEGY.requires(Strategy)
def joins_backbones(strategy: Strategy) -> None:
    """A strategy that is `cross_validated` suggests parameters for joined backbones, which have no network to build,
    and fits a head on their features."""
    if not strategy.cross_validated:
        return
    from autotl.backbones.joined import JoinedBackbone
    from autotl.features.joined import JoinedFeatures

    problem = sample_problem()
    larger = problem.backbone.at_size(192)
    assert larger is not None
    joined = JoinedBackbone((problem.backbone, larger))
    head = problem.head(strategy.head_types[-1])
    strategy.suggest(RandomSpace(0), joined, head)
    extractor = problem.task(head.type).features.extractor  # type: ignore[attr-defined]
    task = problem.task(head.type, backbone=joined, features=JoinedFeatures.of(extractor, joined))
    recipe = Recipe(joined.name, strategy.name, head.name, 3, strategy.defaults(head), head.defaults())
    shape = strategy.fit(recipe, task, "cpu", lambda fraction, score: None).probabilities.shape
    expect(
        shape == (len(problem.split.validation), 2), f"probabilities have the shape {list(shape)} with two backbones"
    )


@STRATEGY.requires(Strategy.fit)
def refits_exactly_as_many_epochs(strategy: Strategy) -> None:
    """With `task.refit_epochs` a strategy that trains in epochs trains exactly that many, and keeps the last."""
    for head_type in strategy.head_types:
        result = sample_problem().fit(strategy, head_type, refit_epochs=2)
        if result.history:
            expect(len(result.history) == 2, f"{len(result.history)} epochs, not 2")
            expect(result.best_epoch == 2, f"epoch {result.best_epoch} was kept, not the last")


@STRATEGY.requires(Recipe)
def is_deterministic(strategy: Strategy) -> None:
    """The same recipe and seed give exactly the same probabilities."""
    head_type = strategy.head_types[0]
    first, second = (sample_problem().fit(strategy, head_type).probabilities for _ in range(2))
    difference = float(np.abs(first - second).max())
    expect(
        np.array_equal(first, second),
        f"probabilities of a second training differ by up to {difference:.3g}: draw from recipe.seed",
    )


@STRATEGY.requires(Fitted)
def the_saved_model_predicts_the_same(strategy: Strategy) -> None:
    """`fitted`, saved into a model folder and loaded again, gives the probabilities of the result."""
    from autotl.model.image_model import ImageModel, load
    from autotl.model.member import Member

    problem = sample_problem()
    for head_type in strategy.head_types:
        result = problem.fit(strategy, head_type)
        backbone = problem.backbone
        member = Member(result.recipe, result.fitted, backbone.digest, 2)
        about: dict[str, Any] = {"versions": {}}
        model = ImageModel(
            problem.dataset.classes, [member], {backbone.digest: backbone}, registry=problem.registry, about=about
        )
        paths = [problem.dataset.paths[i] for i in problem.split.validation]
        with tempfile.TemporaryDirectory() as folder:
            loaded = load(model.save(f"{folder}/model"), registry=problem.registry)
            probabilities = loaded.predict_proba(paths)
        difference = float(np.abs(probabilities - result.probabilities).max())
        # tolerance: recorded features are rounded to 16 bits, and the loaded model may run in bf16
        expect(difference < 0.05, f"probabilities differ by up to {difference:.3g}, with {_article(head_type)} head")


@STRATEGY.requires(Strategy.fit)
def reports_its_progress(strategy: Strategy) -> None:
    """Reported fractions are in (0, 1] and never decrease, reported scores are finite, and `fit` lets TrialPruned
    through."""
    from optuna import TrialPruned

    reported: list[tuple[float, float]] = []

    def record(fraction: float, score: float) -> None:
        reported.append((fraction, score))

    def prune(fraction: float, score: float) -> None:
        raise TrialPruned

    head_type = strategy.head_types[0]
    sample_problem().fit(strategy, head_type, record)
    fractions = [fraction for fraction, _ in reported]
    expect(all(0 < f <= 1 for f in fractions), f"the reported fractions are {fractions}")
    expect(fractions == sorted(fractions), f"the reported fractions are {fractions}: they decrease")
    expect(np.isfinite([score for _, score in reported]).all(), "a reported score isn't finite")
    if reported:
        expect(_is_pruned(strategy, head_type, prune), "`report` raised TrialPruned, and fit continued")


def _is_pruned(strategy: Strategy, head_type: str, prune: Report) -> bool:
    from optuna import TrialPruned

    try:
        sample_problem().fit(strategy, head_type, prune)
    except TrialPruned:
        return True
    return False


@STRATEGY.requires(OutOfTime)
def respects_the_deadline(strategy: Strategy) -> None:
    """After `task.deadline` has passed, a strategy that trains in epochs starts no further epoch: it raises OutOfTime,
    or returns what it has."""
    for head_type in strategy.head_types:
        try:
            result = sample_problem().fit(strategy, head_type, deadline=Deadline(0.0))
        except OutOfTime:
            continue
        expect(len(result.history) <= 1, f"{len(result.history)} epochs after the deadline")


def _article(head_type: str) -> str:
    return f"an {head_type}" if head_type == "estimator" else f"a {head_type}"
