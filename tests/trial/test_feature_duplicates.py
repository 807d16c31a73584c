"""Near-duplicates that are found by features after a split: which pairs it has torn, and what the user is told."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotl.clock import Deadline
from autotl.data.dataset import ImageDataset
from autotl.data.near_duplicates import near_duplicates_by_features
from autotl.data.splits import Split
from autotl.trial.feature_duplicates import add_feature_duplicates, torn_pairs
from autotl.workers.messages import Context

N, COPIES = 60, {(0, 1), (2, 3), (4, 50)}
SPLIT = Split(
    train=np.arange(10, 50), validation=np.arange(10), test=np.arange(50, N), seed=0, folds=1 + np.arange(40) % 4
)


@dataclass(frozen=True)
class State:
    """What is read of a worker's state."""

    context: Context
    extractor: Any
    send: Any
    registry: Any


@pytest.fixture(scope="module")
def features():
    """float32 [60, 300], of which three pairs are nearly equal."""
    rng = np.random.default_rng(0)
    features = rng.gamma(0.5, size=(N, 300))
    for i, j in COPIES:
        features[j] = features[i] * rng.uniform(0.8, 1.25, 300)
    return features.astype(np.float32)


def dataset(groups=("",) * N, lookalikes=()):
    digests = tuple(f"{i:032x}" for i in range(N))
    paths = tuple(Path(f"/photos/{i}.png") for i in range(N))
    return ImageDataset("d", ("a", "b"), paths, np.arange(N) % 2, digests, ("",) * N, groups, lookalikes=lookalikes)


def test_images_of_nearly_the_same_features_are_found_and_no_others(features):
    assert set(map(tuple, near_duplicates_by_features(features).tolist())) == COPIES
    assert len(near_duplicates_by_features(features[:1])) == 0
    assert len(near_duplicates_by_features(np.ones((5, 3)))) <= 10  # equal features have no similarity to divide by


def test_only_pairs_in_different_parts_are_torn(features):
    assert torn_pairs(features, np.arange(N), dataset(), SPLIT).tolist() == [[4, 50]]  # 0 to 3 are in fold 0
    apart = Split(**{**vars(SPLIT), "train": np.arange(1, 50), "validation": np.arange(1), "folds": np.arange(49) % 5})
    pairs = torn_pairs(features, np.arange(N), dataset(), apart)
    assert {tuple(pair) for pair in pairs.tolist()} == {(2, 3), (4, 50)}  # 0 and 1 are in fold 0


def test_images_that_were_kept_together_or_known_before_the_split_are_not_told_again(features):
    in_a_group = dataset(groups=tuple("g" if i in (4, 50) else "" for i in range(N)))
    alike = dataset(lookalikes=tuple(4 if i == 50 else i for i in range(N)))
    for known in (in_a_group, alike):
        assert len(torn_pairs(features, np.arange(N), known, SPLIT)) == 0


@pytest.mark.parametrize("time", [60.0, 0.0])
def test_a_search_with_time_says_how_many_pairs_are_torn(features, time):
    extracted = SimpleNamespace(recorded=lambda rows: features[rows], layout=SimpleNamespace(output=slice(None)))
    told = []
    member = SimpleNamespace(fitted=SimpleNamespace(backbone_state=None), recipe=SimpleNamespace(backbones=("net",)))
    registry = SimpleNamespace(backbone=lambda name: name)
    context = Context(None, Path(), dataset(), SPLIT, None, None, 1)
    state = State(context, SimpleNamespace(of=lambda name: extracted), told.append, registry)
    after = add_feature_duplicates(state, [member], Deadline(time))
    if not time:
        assert after is state
        return
    [finding] = after.context.dataset.findings
    assert finding.count == 1
    assert finding.examples == ("/photos/4.png and /photos/50.png",)
    assert "1 of 10 test images" in finding.text
    assert finding.serious
    assert finding.line() in told[0].text
    assert after.context.dataset.warnings == (finding.line(),)
