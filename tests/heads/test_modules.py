"""A head as a torch module gives the head's logits, for every built-in head."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.naive_bayes import GaussianNB

from autotl.errors import AutotlError
from autotl.heads.inference import logits, probabilities
from autotl.heads.modules import head_module
from autotl.registry import BUILT_IN, Registry, load_registry
from autotl.testing.problem import separable_problem, trained

VARIANTS = {
    "kernel_ridge": [{"kernel": kernel} for kernel in ("rbf", "laplacian", "cosine", "linear")],
    "knn": [{"metric": metric} for metric in ("euclidean", "cosine")],
    "mlp": [{"normalization": kind, "depth": 2} for kind in ("batch", "layer", "none")],
}


@pytest.fixture(scope="module")
def built_in():
    assert "autotl.heads.sklearn" in BUILT_IN
    registry: Registry = load_registry()
    return [head for head in registry.heads.values() if registry.owner("head", head.name).distribution == "autotl"]


@pytest.mark.slow
@pytest.mark.parametrize(("present", "num_classes"), [(2, 2), (3, 3), (4, 6)])
def test_a_built_in_head_as_a_module_gives_the_same_probabilities(built_in, present, num_classes):
    features, labels = separable_problem(present, 120)
    unseen, _ = separable_problem(present, 60, seed=1)
    unseen = np.concatenate([unseen, features[:5]])  # a training sample is at distance 0 of itself
    labels = labels + (labels >= 2) * (num_classes - present)  # classes 2 and on may have no samples
    assert len(built_in) >= 12
    for head in built_in:
        for variant in VARIANTS.get(head.name, [{}]):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fitted = trained(head, {**head.defaults(), **variant}, features, labels, num_classes)
            module = head_module(fitted, num_classes)
            with torch.inference_mode():
                answers = probabilities(module(torch.from_numpy(unseen)).numpy(), 1.0)
            expected = probabilities(logits(fitted, unseen, num_classes), 1.0)
            np.testing.assert_allclose(answers, expected, atol=2e-5, err_msg=f"{head.name} {variant}")


def test_an_estimator_says_how_it_is_computed():
    class Halves:
        classes_ = np.array([0, 1])

        def predict_proba(self, features):
            return np.full((len(features), 2), 0.5)

        def to_module(self):
            return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Softmax(1)).requires_grad_(False)

    module = head_module(Halves(), 2)
    assert module(torch.ones(4, 3)).exp().sum(1).tolist() == pytest.approx([1.0] * 4)


def test_an_unknown_estimator_is_refused_by_name():
    with pytest.raises(AutotlError, match=r"GaussianNB can't be exported: .* to_module\(\)"):
        head_module(GaussianNB().fit(np.eye(2), [0, 1]), 2)
