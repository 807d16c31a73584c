"""A separable problem for heads, search spaces for tests, and a minimal training."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autotl.backbones.levels import BUILT_IN as LEVELS
from autotl.data.augmentation import BUILT_IN as AUGMENTATIONS
from autotl.heads.base import Head
from autotl.recipe import Params, Value
from autotl.strategies.losses import BUILT_IN as LOSSES

__all__ = ["FixedSpace", "RandomSpace", "recorded_features", "separable_problem", "trained"]


def separable_problem(num_classes: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of well separated classes.

    Returns:
        float32 features [n, 48], whose scales range from 0.01 to 100 like those of several levels, and labels [n].

    Args:
        seed: draws the samples; the centres of the classes are always the same.
    """
    centres = 2 * np.random.default_rng(99).standard_normal((num_classes, 48))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % num_classes)
    features = centres[labels] + rng.standard_normal((n, 48))
    return (features * np.geomspace(0.01, 100, 48)).astype(np.float32), labels


@cache
def recorded_features() -> tuple[np.ndarray, np.ndarray]:
    """Features of real photographs, float32 [96, num_features], and labels [96] of 4 classes in the ratio 9:5:5:5.

    They are the means of the earlier stages of `efficientnet_lite0` with its ImageNet weights (Apache-2.0), of patches
    of 48 to 96 pixels of four photographs: scikit-learn's china.jpg and flower.jpg, scikit-image's astronaut and
    chelsea.
    """
    with np.load(Path(__file__).with_name("recorded_features.npz")) as recorded:
        return recorded["features"].astype(np.float32), recorded["labels"]


def trained(
    head: Head, params: Params, features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> Any:
    """A head after a minimal training: 40 full-batch steps of AdamW, or `fit`."""
    built = head.build(params, features.shape[1], num_classes, seed)
    if head.type == "estimator":
        return built.fit(features, labels)
    import torch

    optimizer = torch.optim.AdamW(built.parameters(), lr=0.01)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    built.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(40):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(built(x), y).backward()
            optimizer.step()
    return built.eval()


class RandomSpace:
    """A `Space` that draws every choice at random, like a sampler without earlier trials."""

    def __init__(self, seed: int = 0, num_train: int = 1000, num_classes: int = 3, *, accelerator: bool = False):
        self.rng = np.random.default_rng(seed)
        self.num_train, self.num_classes, self.accelerator = num_train, num_classes, accelerator
        self.augmentations, self.losses, self.levels = tuple(AUGMENTATIONS), tuple(LOSSES), tuple(LEVELS)

    def categorical(self, name: str, choices: Sequence[Value]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        _check_range(name, low, high, log=log)
        return int(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.integers(low, high + 1))

    def float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        _check_range(name, low, high, log=log)
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.uniform(low, high))


class FixedSpace:
    """A `Space` that returns given values.

    Attributes:
        requested: the names of all parameters that were requested.
        out_of_range: values outside of the requested range, as text.
    """

    def __init__(self, values: Params, num_train: int = 1000, num_classes: int = 3, *, accelerator: bool = False):
        self.values = dict(values)
        self.num_train, self.num_classes, self.accelerator = num_train, num_classes, accelerator
        self.augmentations, self.losses, self.levels = tuple(AUGMENTATIONS), tuple(LOSSES), tuple(LEVELS)
        self.requested: list[str] = []
        self.out_of_range: list[str] = []

    def categorical(self, name: str, choices: Sequence[Value]) -> Any:
        return self._choose(name, choices[0], lambda value: value in choices)

    def int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._choose(name, low, lambda value: low <= value <= high)

    def float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._choose(name, low, lambda value: low <= value <= high)

    def _choose(self, name: str, default: Any, in_range: Callable[[Any], bool]) -> Any:
        self.requested.append(name)
        value = self.values.get(name, default)
        if not in_range(value):
            self.out_of_range.append(f"{name} = {value!r}")
        return value


def _check_range(name: str, low: Any, high: Any, *, log: bool) -> None:
    if not low <= high or (log and low <= 0):
        raise ValueError(f"the range of {name!r} is invalid: {low} to {high}{', log scale' if log else ''}")
