"""Kernel ridge classification: leave-one-out scores of whole fits, the choice of a setting, landmarks, memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from autotl.heads import kernel_ridge
from autotl.heads.inference import logits, probabilities
from autotl.heads.kernel_ridge import KERNELS, KernelRidgeClassifier


def blobs(num_classes: int, n: int, num_features: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes: a fit without a sample is really another fit."""
    centres = 0.8 * np.random.default_rng(99).standard_normal((num_classes, num_features))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % num_classes)
    return (centres[labels] + rng.standard_normal((n, num_features))).astype(np.float32), labels


def prepared(model: KernelRidgeClassifier, x: np.ndarray) -> np.ndarray:
    rows = (x.astype(np.float64) - model.mean_) / model.scale_
    rows = np.sign(rows) * np.abs(rows) ** model.power
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if model.kernel == "cosine" else rows


def gram(model: KernelRidgeClassifier, x: np.ndarray) -> np.ndarray:
    """The model's kernel in float64, written down as its definition reads."""
    rows = prepared(model, x)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    if model.kernel in ("linear", "cosine"):
        return rows @ rows.T
    return np.exp(-model.gamma_ * (distances**2 if model.kernel == "rbf" else distances))


def refitted_decision(model: KernelRidgeClassifier, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The decision of each group's samples by a refit without them, from the normal equations."""
    k, n = gram(model, x), len(y)
    counts = np.bincount(y)
    weights = (1 / counts[y]) / (1 / counts[y]).mean() if model.class_weight == "balanced" else np.ones(n)
    targets = np.eye(len(counts))[y]
    decision = np.empty_like(targets)
    for group in np.unique(groups):
        out = groups == group
        system = np.ones((n - out.sum() + 1,) * 2)
        system[:-1, :-1] = k[np.ix_(~out, ~out)] + model.alpha_ * np.diag(1 / weights[~out])
        system[-1, -1] = 0
        solution = np.linalg.solve(system, np.vstack([targets[~out], 0 * targets[:1]]))
        decision[out] = k[np.ix_(out, ~out)] @ solution[:-1] + solution[-1]
    return (decision if len(counts) > 2 else decision[:, 1] - decision[:, 0]) / model.temperature_


@pytest.mark.parametrize("grouped", [False, True], ids=["samples", "groups"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("kernel", KERNELS)
def test_leave_one_out_decisions_equal_refits(kernel, num_classes, class_weight, grouped):
    x, y = blobs(num_classes, 60)
    x, y = x[y < num_classes - 1 + (np.arange(60) % 2)], y[y < num_classes - 1 + (np.arange(60) % 2)]  # unequal classes
    groups = np.arange(len(y)) % 17 if grouped else np.arange(len(y))
    model = KernelRidgeClassifier(kernel, power=0.8, class_weight=class_weight).fit(x, y, groups=groups)
    expected = refitted_decision(model, x, y, groups)
    np.testing.assert_allclose(model.loo_decision_, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("num_features", [12, 90])
@pytest.mark.parametrize("kernel", KERNELS)
def test_out_of_fold_decisions_equal_refits_of_the_same_regularisation(kernel, num_features, class_weight):
    x, y = blobs(3, 80, num_features)
    folds = np.arange(80) % 4 - 1
    model = KernelRidgeClassifier(kernel, power=0.8, class_weight=class_weight).fit(x, y, folds=folds)
    expected = refitted_decision(model, x, y, np.where(folds < 0, 4, folds))[folds >= 0]
    np.testing.assert_allclose(model.out_of_fold_decision_[folds >= 0], expected, atol=2e-3 * np.abs(expected).max())
    assert np.isnan(model.out_of_fold_decision_[folds < 0]).all()


def test_the_samples_of_a_fold_may_be_fewer_than_the_landmarks(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "MAX_EXACT", 50)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 30)
    x, y = blobs(3, 120)
    few, many = (
        KernelRidgeClassifier("rbf", random_state=0).fit(x, y, folds=np.arange(120) % number) for number in (2, 40)
    )
    few_right, many_right = ((model.out_of_fold_decision_.argmax(1) == y).mean() for model in (few, many))
    assert few.alpha_ == many.alpha_
    assert 0.6 < few_right <= many_right + 0.05


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("num_features", [12, 300])
def test_the_leave_one_out_loss_is_that_of_the_decisions(kernel, num_features):
    x, y = blobs(3, 90, num_features)
    model = KernelRidgeClassifier(kernel).fit(x, y)
    best = model.loo_log_losses_.argmin()
    assert len(model.loo_log_losses_) == len(model.loo_accuracies_) == len(model.alphas_) == 30
    assert model.alpha_ == model.alphas_[best]
    of_label = probabilities(model.loo_decision_, 1.0)[np.arange(90), y]
    assert -np.log(of_label).mean() == pytest.approx(model.loo_log_losses_[best], rel=1e-4)
    assert (model.loo_decision_.argmax(1) == y).mean() == model.loo_accuracies_[best]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_chosen_setting_is_calibrated_on_unseen_samples(num_classes):
    x, y = blobs(num_classes, 300)
    unseen, truth = blobs(num_classes, 3000, seed=1)
    scores = logits(KernelRidgeClassifier().fit(x, y), unseen, num_classes)

    def loss(temperature):
        return -np.log(probabilities(scores, temperature)[np.arange(3000), truth]).mean()

    assert loss(1.0) < 1.02 * min(loss(temperature) for temperature in np.geomspace(0.2, 5, 60))


def test_views_of_an_image_flatter_unless_they_are_left_out_together():
    x, y = blobs(3, 90, 300)
    rng = np.random.default_rng(1)
    y[rng.permutation(90)[:40]] = rng.integers(0, 3, 40)  # nothing can tell these
    views = np.concatenate([x, x + 0.01 * rng.standard_normal(x.shape).astype(np.float32)])
    labels, groups = np.tile(y, 2), np.tile(np.arange(90), 2)
    honest = KernelRidgeClassifier().fit(views, labels, groups=groups)
    assert honest.loo_accuracies_.max() < 0.75
    assert KernelRidgeClassifier().fit(views, labels).loo_accuracies_.max() > 0.95


def test_one_group_of_everything_is_left_out_by_samples():
    x, y = blobs(3, 30)
    together, single = (KernelRidgeClassifier().fit(x, y, groups=g) for g in (np.zeros(30), None))
    np.testing.assert_array_equal(together.loo_decision_, single.loo_decision_)


@pytest.mark.parametrize("kernel", KERNELS)
def test_as_many_landmarks_as_samples_are_exact(kernel, monkeypatch):
    x, y = blobs(3, 120, 200)
    unseen = blobs(3, 50, 200, seed=1)[0]
    exact = KernelRidgeClassifier(kernel).fit(x, y)
    monkeypatch.setattr(kernel_ridge, "MAX_EXACT", 100)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 120)
    near = KernelRidgeClassifier(kernel).fit(x, y)
    np.testing.assert_allclose(near.loo_log_losses_[5:], exact.loo_log_losses_[5:], rtol=0.02)
    difference = np.abs(near.decision_function(unseen) - exact.decision_function(unseen)).max()
    assert difference < 0.02 * np.abs(exact.decision_function(unseen)).max()


@pytest.mark.parametrize("kernel", KERNELS)
def test_few_landmarks_classify_nearly_as_well(kernel, monkeypatch):
    x, y = blobs(3, 600)
    unseen, truth = blobs(3, 900, seed=1)
    exact = KernelRidgeClassifier(kernel).fit(x, y)
    monkeypatch.setattr(kernel_ridge, "MAX_EXACT", 100)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 100)
    few = KernelRidgeClassifier(kernel, random_state=3).fit(x, y)
    assert few.vectors_ is None or few.vectors_.shape == (100, 12)
    right = [(model.predict(unseen) == truth).mean() for model in (few, exact)]
    assert right[0] > right[1] - 0.02


def test_landmarks_leave_out_groups(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "MAX_EXACT", 50)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 40)
    x, y = blobs(3, 120)
    groups = np.arange(120) % 30
    model = KernelRidgeClassifier(random_state=0).fit(x, y, groups=groups)
    rows, landmarks = prepared(model, x), model.vectors_.astype(np.float64)
    cross = np.exp(-model.gamma_ * ((rows[:, None] - landmarks[None]) ** 2).sum(2))
    inner = np.exp(-model.gamma_ * ((landmarks[:, None] - landmarks[None]) ** 2).sum(2))
    values, vectors = np.linalg.eigh(inner)
    mapped = cross @ vectors / np.sqrt(values)
    for group in range(3):
        out = groups == group
        centred = mapped[~out] - mapped[~out].mean(0)
        targets = np.eye(3)[y]
        coef = np.linalg.solve(
            centred.T @ centred + model.alpha_ * np.eye(mapped.shape[1]),
            centred.T @ (targets[~out] - targets[~out].mean(0)),
        )
        expected = ((mapped[out] - mapped[~out].mean(0)) @ coef + targets[~out].mean(0)) / model.temperature_
        np.testing.assert_allclose(model.loo_decision_[out], expected, atol=2e-3 * np.abs(expected).max())


def peak_of(fit) -> int:
    tracemalloc.start()
    fit()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_memory_of_an_exact_fit_is_bounded(kernel):
    n, num_features = 1500, 1600
    x, y = blobs(3, n, num_features)
    assert peak_of(lambda: KernelRidgeClassifier(kernel).fit(x, y)) < 20 * n**2 + 3 * x.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_memory_of_a_fit_with_landmarks_grows_with_the_samples_alone(kernel, monkeypatch):
    monkeypatch.setattr(kernel_ridge, "MAX_EXACT", 1000)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 300)
    n, num_features = 6000, 400
    x, y = blobs(3, n, num_features)
    bound = 12 * n * 300 + 40 * 300**2 + 3 * x.nbytes + 30 * n
    assert bound < 4 * n**2 / 2
    assert peak_of(lambda: KernelRidgeClassifier(kernel).fit(x, y)) < bound


def test_a_prediction_of_many_samples_needs_no_kernel_of_all(monkeypatch):
    monkeypatch.setattr(kernel_ridge, "ROWS", 64)
    x, y = blobs(3, 500)
    model = KernelRidgeClassifier().fit(x, y)
    many = np.tile(x, (40, 1))
    assert peak_of(lambda: model.decision_function(many)) < 4 * len(many) * 500 / 4
    np.testing.assert_allclose(model.decision_function(many)[:500], model.decision_function(x), atol=1e-5)


def test_leave_one_out_decisions_are_not_saved():
    model = KernelRidgeClassifier().fit(*blobs(3, 30))
    assert "loo_decision_" not in model.__getstate__()
    assert len(model.loo_decision_) == 30


def test_a_feature_that_never_changes_and_copies_of_a_sample_are_fitted():
    x, y = blobs(3, 30)
    x[:, 0] = 7.0
    for kernel in KERNELS:
        model = KernelRidgeClassifier(kernel).fit(np.tile(x, (3, 1)), np.tile(y, 3))
        assert np.isfinite(model.loo_log_losses_).all()
        assert np.isfinite(model.decision_function(x)).all()


def test_an_unknown_kernel_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"kernel = 'cubic' is invalid. Use one of linear, cosine, rbf, laplacian"):
        KernelRidgeClassifier("cubic").fit(*blobs(2, 20))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.filterwarnings("ignore")  # the checks provoke them
def test_kernel_ridge_follows_scikit_learns_conventions(kernel):
    check_estimator(KernelRidgeClassifier(kernel), on_skip=None)
