"""The requirements of a head: dense heads get a minimal training, estimators are fitted."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from autotl.heads.base import Head
from autotl.heads.inference import logits, probabilities
from autotl.heads.serialization import load_head, save_head
from autotl.testing.check import Checks, Unexpected, expect
from autotl.testing.problem import FixedSpace, RandomSpace, recorded_features, separable_problem, trained

__all__ = ["HEAD"]

HEAD = Checks("head", Head)


@HEAD.requires(Head)
def is_described(head: Head) -> None:
    """A head has a name (letters, digits, _ and -), which prefixes its parameters in a study, and the type "dense" or
    "estimator"."""
    expect(isinstance(head.name, str) and re.fullmatch(r"[\w-]+", head.name), f"name is {head.name!r}")
    expect(head.type in ("dense", "estimator"), f"type is {head.type!r}")
    limit = head.max_train_samples
    is_limit = limit is None or (isinstance(limit, int) and limit > 0)
    expect(is_limit, f"max_train_samples is {limit!r}, neither None nor a positive integer")


@HEAD.requires(Head.build)
def builds_what_its_type_states(head: Head) -> None:
    """A dense head builds an `nn.Module` from [N, num_features] to logits [N, num_classes]; an estimator head a
    classifier with `fit`, and `predict_proba` or `decision_function`."""
    built = head.build(head.defaults(), 48, 3, 0)
    if head.type == "estimator":
        expect(hasattr(built, "fit"), f"{built!r} has no fit")
        predicts = hasattr(built, "predict_proba") or hasattr(built, "decision_function")
        expect(predicts, f"{built!r} has neither predict_proba nor decision_function")
        return
    import torch

    expect(isinstance(built, torch.nn.Module), f"{built!r} is not an nn.Module")
    output = built(torch.from_numpy(separable_problem(3, 8)[0]))
    shape = list(output.shape)
    expect(shape == [8, 3], f"the output for 8 samples and 3 classes has the shape {shape}")


@HEAD.requires(Head.defaults)
def defaults_match_suggest(head: Head) -> None:
    """`defaults` has a value for each parameter of `suggest`, within its range, and no others."""
    space = FixedSpace(head.defaults())
    suggested = head.suggest(space)
    expect(isinstance(suggested, dict), f"suggest returns {suggested!r}, not a dict")
    missing = [name for name in space.requested if name not in space.values]
    expect(not missing, f"no default for {', '.join(missing)}")
    superfluous = sorted(space.values.keys() - set(space.requested))
    expect(not superfluous, f"a default for {', '.join(superfluous)}, which suggest doesn't request")
    expect(not space.out_of_range, f"out of the range of suggest: {', '.join(space.out_of_range)}")


@HEAD.requires(Head.suggest)
def suggests_values_a_recipe_can_hold(head: Head) -> None:
    """`suggest` returns a dict from names to strings, numbers, booleans or None, so that a recipe can be saved."""
    for seed in range(4):
        for name, value in head.suggest(RandomSpace(seed)).items():
            is_plain = value is None or type(value) in (str, int, float, bool)
            expect(isinstance(name, str) and is_plain, f"{name!r} is {value!r}, a {type(value).__name__}")


@HEAD.requires(Head)
def learns_a_separable_problem(head: Head) -> None:
    """Trained on well separated classes, the head classifies unseen samples: with 2 classes, and with 7."""
    for num_classes in (2, 7):
        unseen, truth = separable_problem(num_classes, 70, seed=1)
        built = trained(head, head.defaults(), *separable_problem(num_classes, 140), num_classes)
        accuracy = float((logits(built, unseen, num_classes).argmax(1) == truth).mean())
        expect(accuracy > 0.9, f"with {num_classes} classes {accuracy:.0%} of 70 samples are right, not 90 %")


@HEAD.requires(Head.defaults)
def defaults_beat_the_majority_class(head: Head) -> None:
    """With `defaults`, trained on recorded features of real photographs, the head classifies unseen ones better than
    the most frequent class would."""
    features, labels = recorded_features()
    half = len(labels) // 2
    built = trained(head, head.defaults(), features[:half], labels[:half], 4)
    accuracy = float((logits(built, features[half:], 4).argmax(1) == labels[half:]).mean())
    majority = float((labels[half:] == np.bincount(labels[:half]).argmax()).mean())
    expect(accuracy > majority, f"{accuracy:.0%} of {half} samples are right, and {majority:.0%} by the majority class")


@HEAD.requires(probabilities)
def probabilities_sum_to_one(head: Head) -> None:
    """Probabilities are finite, have one column per class, and their rows sum to 1: with 2 classes, and with 7."""
    for num_classes in (2, 7):
        features, labels = separable_problem(num_classes, 70)
        built = trained(head, head.defaults(), features, labels, num_classes)
        if hasattr(built, "predict_proba"):
            _expect_probabilities(np.asarray(built.predict_proba(features)), 70, num_classes, "predict_proba returns")
        calibrated = probabilities(logits(built, features, num_classes), 1.0)
        _expect_probabilities(calibrated, 70, num_classes, "softmax of the logits gives")


def _expect_probabilities(array: np.ndarray, n: int, num_classes: int, source: str) -> None:
    shape = list(array.shape)
    expect(shape == [n, num_classes], f"{source} the shape {shape} for {n} samples and {num_classes} classes")
    expect(np.isfinite(array).all(), f"{source} values that aren't finite, with {num_classes} classes")
    error = float(np.abs(array.sum(1) - 1).max())
    expect(error < 1e-4, f"{source} rows whose sum is off by {error:.3g}, with {num_classes} classes")


@HEAD.requires(Head.build)
def a_missing_class_keeps_its_column(head: Head) -> None:
    """Of the labels 0 … num_classes-1 some may have no training sample: the others are still classified, each in its
    own column, and an estimator gives a missing class a probability of 0."""
    features, labels = separable_problem(7, 140)
    unseen, truth = separable_problem(7, 70, seed=1)
    built = trained(head, head.defaults(), features[labels != 2], labels[labels != 2], 7)
    scores = logits(built, unseen, 7)
    expect(scores.shape == (70, 7), f"logits have the shape {list(scores.shape)}, not [70, 7]")
    expect(np.isfinite(scores).all(), "logits that aren't finite")
    accuracy = float((scores.argmax(1) == truth)[truth != 2].mean())
    expect(accuracy > 0.9, f"{accuracy:.0%} of the samples of the other classes are right, not 90 %")
    if head.type == "estimator":
        largest = float(probabilities(scores, 20.0)[:, 2].max())
        expect(largest < 1e-12, f"the missing class has a probability of up to {largest:.3g}")


@HEAD.requires(Head.build)
def is_deterministic_with_a_seed(head: Head) -> None:
    """The same samples and the same seed give the same head, whatever else draws random numbers."""
    features, labels = separable_problem(3, 60)
    unseen = separable_problem(3, 70, seed=1)[0]  # predictions of training samples could agree by overfitting
    first = logits(trained(head, head.defaults(), features, labels, 3, seed=7), unseen, 3)
    _advance_global_generators()
    second = logits(trained(head, head.defaults(), features, labels, 3, seed=7), unseen, 3)
    difference = float(np.abs(first - second).max())
    expect(
        np.array_equal(first, second),
        f"logits of a second training differ by up to {difference:.3g}: pass `seed` to everything that draws",
    )


def _advance_global_generators() -> None:
    import random

    import torch

    random.random()
    np.random.rand()  # noqa: NPY002  # the legacy global generator
    torch.rand(1)


@HEAD.requires(save_head)
def saves_and_loads(head: Head) -> None:
    """Saved and loaded again (safetensors or skops, no pickle), the head gives exactly the same logits."""
    features, labels = separable_problem(3, 60)
    built = trained(head, head.defaults(), features, labels, 3)
    with tempfile.TemporaryDirectory() as folder:
        save_head(built, Path(folder))
        loaded = load_head(head, head.defaults(), features.shape[1], 3, Path(folder))
    before, after = logits(built, features, 3), logits(loaded, features, 3)
    difference = float(np.abs(before - after).max())
    expect(np.array_equal(before, after), f"logits of the loaded head differ by up to {difference:.3g}")


@HEAD.requires(Head)
def trusts_no_more_than_it_needs(head: Head) -> None:
    """`trusted` names types that the saved head contains, and no others."""
    if head.type == "dense":
        expect(not head.trusted, f"trusted is {head.trusted!r}; a dense head is saved as tensors alone")
        return
    import skops.io

    contained: set[str] = set()
    for params in (head.defaults(), *(head.suggest(RandomSpace(seed)) for seed in range(4))):
        built = trained(head, params, *separable_problem(3, 60), 3)
        contained |= set(skops.io.get_untrusted_types(data=skops.io.dumps(built)))
    superfluous = sorted(set(head.trusted) - contained)
    expect(not superfluous, f"trusted names {', '.join(superfluous)}, which a fitted head doesn't contain")


@HEAD.requires(Head.suggest)
def every_suggestion_can_be_trained(head: Head) -> None:
    """Any choice of `suggest` can be trained, also on a dozen samples, and gives finite logits."""
    features, labels = separable_problem(3, 12)
    for seed in range(4):
        params: dict[str, Any] = head.suggest(RandomSpace(seed, num_train=12))
        try:
            scores = logits(trained(head, params, features, labels, 3), features, 3)
        except Exception as error:
            raise Unexpected(f"with {params}: {type(error).__name__}: {error}") from error
        expect(np.isfinite(scores).all(), f"with {params} logits aren't finite")
