"""The estimators that scikit-learn lacks."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from autotl.heads.estimators import Components, GramSVC, Neighbours


@pytest.fixture(scope="module", params=[2, 3, 7])
def blobs(request):
    rng = np.random.default_rng(0)
    labels = np.arange(150) % request.param
    features = 0.6 * rng.standard_normal((request.param, 10))[labels] + rng.standard_normal((150, 10))
    return features, labels


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("gamma", ["scale", 0.05])
def test_gram_svc_decides_as_svc_does(blobs, gamma, class_weight):
    x, y = blobs
    x, y, unseen = x[:100], np.append(y[:99], 0), x[100:]
    settings = {"C": 3.0, "gamma": gamma, "class_weight": class_weight}
    ours, theirs = GramSVC(**settings).fit(x, y), SVC(**settings, break_ties=True).fit(x, y)
    np.testing.assert_allclose(ours.decision_function(unseen), theirs.decision_function(unseen), atol=2e-3)
    assert (ours.predict(unseen) == theirs.predict(unseen)).all()


def test_gram_svc_decides_exactly_as_svc_on_the_same_matrix(blobs):
    x, y = blobs
    ours = GramSVC(gamma=0.1).fit(x, y).decision_function(x)
    kernel = rbf_kernel(x, gamma=0.1)
    np.testing.assert_allclose(ours, SVC(kernel="precomputed").fit(kernel, y).decision_function(kernel), atol=1e-9)


def test_gram_svc_keeps_only_the_support_vectors():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    svc = GramSVC().fit(rng.standard_normal((200, 4)) + 6 * y[:, None], y)
    assert len(svc.support_vectors_) == svc.n_support_.sum() < 50


@pytest.mark.parametrize("estimator", [GramSVC(), Components(2), Neighbours()], ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore")  # the checks provoke them
def test_an_estimator_follows_scikit_learns_conventions(estimator):
    check_estimator(estimator, on_skip=None)


def test_there_are_no_more_components_than_samples():
    x = np.random.default_rng(0).standard_normal((5, 30)).astype(np.float32)
    assert Components(64).fit_transform(x).shape == (5, 5)


def test_there_are_no_more_neighbours_than_samples():
    x = np.array([[0.0], [1.0], [5.0]])
    assert Neighbours(50).fit(x, [0, 0, 1]).predict([[0.4], [4.9]]).tolist() == [0, 1]
