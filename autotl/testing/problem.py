"""A separable problem for heads, a search space that draws at random, and the plainest training."""

from typing import Any

import numpy as np

from autotl.heads.base import Head
from autotl.recipe import Params

__all__ = ["FixedSpace", "RandomSpace", "problem", "trained"]


def problem(num_classes: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """float32 features [n, 48] of scales 0.01 to 100, as levels have, and labels [n]. Each class has its own centre;
    another `seed` draws other rows around the same centres."""
    centres = 2 * np.random.default_rng(99).standard_normal((num_classes, 48))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % num_classes)
    features = centres[labels] + rng.standard_normal((n, 48))
    return (features * np.geomspace(0.01, 100, 48)).astype(np.float32), labels


def trained(
    head: Head, params: Params, features: np.ndarray, labels: np.ndarray, num_classes: int, seed: int = 0
) -> Any:
    """What `head` builds, trained in the plainest way: 40 steps of AdamW on all rows, or `fit`."""
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
    """Draws every choice at random, as a sampler that knows nothing would."""

    def __init__(self, seed: int = 0, num_train: int = 1000, num_classes: int = 3, accelerator: bool = False):
        self.rng = np.random.default_rng(seed)
        self.num_train, self.num_classes, self.accelerator = num_train, num_classes, accelerator

    def categorical(self, name: str, choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def int(self, name: str, low: int, high: int, log: bool = False) -> int:
        _check_range(name, low, high, log)
        return int(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.integers(low, high + 1))

    def float(self, name: str, low: float, high: float, log: bool = False) -> float:
        _check_range(name, low, high, log)
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.uniform(low, high))


class FixedSpace:
    """Chooses given values, and notes what it was asked for and which values lie outside."""

    def __init__(self, values: Params, num_train: int = 1000, num_classes: int = 3, accelerator: bool = False):
        self.values = dict(values)
        self.num_train, self.num_classes, self.accelerator = num_train, num_classes, accelerator
        self.asked: list[str] = []
        self.outside: list[str] = []

    def categorical(self, name: str, choices: Any) -> Any:
        return self._choose(name, choices[0], lambda value: value in choices)

    def int(self, name: str, low: int, high: int, log: bool = False) -> int:
        return self._choose(name, low, lambda value: low <= value <= high)

    def float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return self._choose(name, low, lambda value: low <= value <= high)

    def _choose(self, name: str, otherwise: Any, within: Any) -> Any:
        self.asked.append(name)
        value = self.values.get(name, otherwise)
        if not within(value):
            self.outside.append(f"{name} = {value!r}")
        return value


def _check_range(name: str, low: Any, high: Any, log: bool) -> None:
    if not low <= high or (log and low <= 0):
        raise ValueError(f"{name!r} is asked for between {low} and {high}{', log' if log else ''}")
