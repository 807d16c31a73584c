from dataclasses import dataclass

import numpy as np
import pytest


@dataclass
class RandomSpace:
    """Draws every choice at random, as a sampler that knows nothing would."""

    rng: np.random.Generator
    n_train: int = 1000
    n_classes: int = 3
    accelerator: bool = False

    def categorical(self, name, choices):
        return choices[self.rng.integers(len(choices))]

    def int(self, name, low, high, log=False):
        assert low <= high
        return (
            int(np.exp(self.rng.uniform(np.log(low), np.log(high)))) if log else int(self.rng.integers(low, high + 1))
        )

    def float(self, name, low, high, log=False):
        assert low <= high
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))) if log else self.rng.uniform(low, high))


@pytest.fixture
def space():
    return RandomSpace(np.random.default_rng(0))


@pytest.fixture(scope="session")
def problem():
    """`problem(n_classes, n)`: float32 features [n, 48] of scales 0.01 to 100, as taps have, and labels [n]. Each
    class has its own centre; another `seed` draws other rows around the same centres."""

    def make(n_classes, n, seed=0):
        centres = 2 * np.random.default_rng(99).standard_normal((n_classes, 48))
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.arange(n) % n_classes)
        features = centres[labels] + rng.standard_normal((n, 48))
        return (features * np.geomspace(0.01, 100, 48)).astype(np.float32), labels

    return make


@pytest.fixture(scope="session")
def fit():
    """`fit(spec, params, features, labels, n_classes, seed)`: the head, trained in the plainest way."""

    def train(spec, params, features, labels, n_classes, seed=0):
        head = spec.build(params, features.shape[1], n_classes, seed)
        if spec.kind == "estimator":
            return head.fit(features, labels)
        import torch

        optimizer = torch.optim.AdamW(head.parameters(), lr=0.01)
        x, y = torch.from_numpy(features), torch.from_numpy(labels)
        head.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(40):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(head(x), y).backward()
                optimizer.step()
        return head.eval()

    return train
