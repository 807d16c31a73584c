"""What every head promises: dense ones are trained in the plainest way, estimators are fitted."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autotl.heads.base import Head
from autotl.heads.inference import logits, probabilities
from autotl.heads.serialization import load_head, save_head
from autotl.testing.check import Checks, Unexpected, expect
from autotl.testing.problem import FixedSpace, RandomSpace, problem, trained

__all__ = ["HEAD"]

HEAD = Checks("head", Head)


@HEAD.promise(Head)
def is_described(head: Head) -> None:
    """A head has a name (letters, digits, _ and -), which prefixes its parameters in a study, and is of type "dense" or
    "estimator"."""
    expect(isinstance(head.name, str) and re.fullmatch(r"[\w-]+", head.name), f"name is {head.name!r}")
    expect(head.type in ("dense", "estimator"), f"type is {head.type!r}")
    whole = isinstance(head.max_train_samples, int) and head.max_train_samples > 0
    expect(
        head.max_train_samples is None or whole,
        f"max_train_samples is {head.max_train_samples!r}, neither None nor a count",
    )


@HEAD.promise(Head.build)
def builds_what_its_type_says(head: Head) -> None:
    """A dense head builds an `nn.Module` from [N, num_features] to logits [N, num_classes]; an estimator head a classifier
    with `fit`, and `predict_proba` or `decision_function`."""
    built = head.build(head.defaults(), 48, 3, 0)
    if head.type == "estimator":
        expect(hasattr(built, "fit"), f"{built!r} has no fit")
        scores = hasattr(built, "predict_proba") or hasattr(built, "decision_function")
        expect(scores, f"{built!r} has neither predict_proba nor decision_function")
        return
    import torch

    expect(isinstance(built, torch.nn.Module), f"{built!r} is no nn.Module")
    answer = built(torch.from_numpy(problem(3, 8)[0]))
    expect(tuple(answer.shape) == (8, 3), f"for 8 rows and 3 classes came {list(answer.shape)}")


@HEAD.promise(Head.defaults)
def defaults_are_what_it_suggests(head: Head) -> None:
    """`defaults` has a value for each name that `suggest` asks for, within what is suggested."""
    space = FixedSpace(head.defaults())
    suggested = head.suggest(space)
    expect(isinstance(suggested, dict), f"suggest returns {suggested!r}, not a dict")
    missing = [name for name in space.asked if name not in space.values]
    expect(not missing, f"no default for {', '.join(missing)}")
    unasked = sorted(space.values.keys() - set(space.asked))
    expect(not unasked, f"a default for {', '.join(unasked)}, which suggest never asks for")
    expect(not space.outside, f"{', '.join(space.outside)} lies outside of what it suggests")


@HEAD.promise(Head.suggest)
def suggests_what_a_recipe_can_hold(head: Head) -> None:
    """What `suggest` returns is text, numbers, booleans or None under its names, so that a recipe can be
    written down."""
    for seed in range(4):
        for name, value in head.suggest(RandomSpace(seed)).items():
            plain = value is None or type(value) in (str, int, float, bool)
            expect(isinstance(name, str) and plain, f"{name!r} is {value!r}, a {type(value).__name__}")


@HEAD.promise(Head)
def learns_a_separable_problem(head: Head) -> None:
    """Trained on well separated classes, it tells them apart on rows that it never saw: 2 classes, and 7."""
    for num_classes in (2, 7):
        unseen, truth = problem(num_classes, 70, seed=1)
        built = trained(head, head.defaults(), *problem(num_classes, 140), num_classes)
        right = float((logits(built, unseen, num_classes).argmax(1) == truth).mean())
        expect(right > 0.9, f"with {num_classes} classes {right:.0%} of 70 rows are right, and 90 % are easy")


@HEAD.promise(probabilities)
def probabilities_sum_to_one(head: Head) -> None:
    """Every row of probabilities is finite and sums to 1, a column for each class: for 2 classes, and for 7."""
    for num_classes in (2, 7):
        features, labels = problem(num_classes, 70)
        built = trained(head, head.defaults(), features, labels, num_classes)
        if hasattr(built, "predict_proba"):  # its own, before ours
            own = np.asarray(built.predict_proba(features))
            _expect_probabilities(own, 70, num_classes, "predict_proba gives")
        _expect_probabilities(probabilities(logits(built, features, num_classes), 1.0), 70, num_classes, "there are")


def _expect_probabilities(found: np.ndarray, n: int, num_classes: int, what: str) -> None:
    expect(found.shape == (n, num_classes), f"{what} {list(found.shape)} for {n} rows and {num_classes} classes")
    expect(np.isfinite(found).all(), f"{what} values that aren't finite, with {num_classes} classes")
    off = float(np.abs(found.sum(1) - 1).max())
    expect(off < 1e-4, f"{what} rows whose sum is off by {off:.3g}, with {num_classes} classes")


@HEAD.promise(Head.build)
def a_missing_class_keeps_its_column(head: Head) -> None:
    """Of labels 0 … num_classes-1 some may have no training row: the others are still told apart, each in its own
    column, and an estimator never finds the missing one probable."""
    features, labels = problem(7, 140)
    unseen, truth = problem(7, 70, seed=1)
    built = trained(head, head.defaults(), features[labels != 2], labels[labels != 2], 7)
    found = logits(built, unseen, 7)
    expect(found.shape == (70, 7), f"logits are {list(found.shape)}, not [70, 7]")
    expect(np.isfinite(found).all(), "logits that aren't finite")
    right = float((found.argmax(1) == truth)[truth != 2].mean())
    expect(right > 0.9, f"{right:.0%} of the rows of the other classes are right")
    if head.type == "estimator":
        most = float(probabilities(found, 20.0)[:, 2].max())
        expect(most < 1e-12, f"the class without a row has a probability of up to {most:.3g}")


@HEAD.promise(Head.build)
def is_deterministic_with_a_seed(head: Head) -> None:
    """The same rows and the same seed give the same head, whatever else draws random numbers."""
    features, labels = problem(3, 60)
    unseen = problem(3, 70, seed=1)[0]  # rows that it was trained on may come out alike by heart
    once = logits(trained(head, head.defaults(), features, labels, 3, seed=7), unseen, 3)
    _stir()
    again = logits(trained(head, head.defaults(), features, labels, 3, seed=7), unseen, 3)
    off = float(np.abs(once - again).max())
    expect(np.array_equal(once, again), f"trained again its logits differ by up to {off:.3g}: hand `seed` on")


def _stir() -> None:
    """Draw from the global generators, which a head must not depend on."""
    import random

    import torch

    random.random()
    np.random.rand()  # noqa: NPY002  # the old global one is what careless code draws from
    torch.rand(1)


@HEAD.promise(save_head)
def round_trips_through_the_model_folder(head: Head) -> None:
    """Saved into a model folder and loaded again (safetensors or skops, no pickle), it says exactly the same."""
    features, labels = problem(3, 60)
    built = trained(head, head.defaults(), features, labels, 3)
    with tempfile.TemporaryDirectory() as folder:
        save_head(built, Path(folder))
        loaded = load_head(head, head.defaults(), features.shape[1], 3, Path(folder))
    before, after = logits(built, features, 3), logits(loaded, features, 3)
    expect(
        np.array_equal(before, after), f"loaded, its logits differ by up to {float(np.abs(before - after).max()):.3g}"
    )


@HEAD.promise(Head)
def trusts_no_more_than_it_needs(head: Head) -> None:
    """`trusted` names the types that its file holds besides scikit-learn's own, and no others."""
    if head.type == "dense":
        expect(not head.trusted, f"trusted is {head.trusted!r}; a dense head is tensors alone")
        return
    import skops.io

    held: set[str] = set()
    for params in (head.defaults(), *(head.suggest(RandomSpace(seed)) for seed in range(4))):
        built = trained(head, params, *problem(3, 60), 3)
        held |= set(skops.io.get_untrusted_types(data=skops.io.dumps(built)))
    idle = sorted(set(head.trusted) - held)
    expect(not idle, f"trusted names {', '.join(idle)}, which a fitted one doesn't hold")


@HEAD.promise(Head.suggest)
def whatever_it_suggests_can_be_trained(head: Head) -> None:
    """Any choice of `suggest` can be trained, on a dozen rows too, and gives finite logits."""
    features, labels = problem(3, 12)
    for seed in range(4):
        params: dict[str, Any] = head.suggest(RandomSpace(seed, num_train=12))
        try:
            found = logits(trained(head, params, features, labels, 3), features, 3)
        except Exception as error:
            raise Unexpected(f"with {params}: {type(error).__name__}: {error}") from error
        expect(np.isfinite(found).all(), f"with {params} logits aren't finite")
