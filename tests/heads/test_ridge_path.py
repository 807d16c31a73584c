"""Leave-one-out predictions in closed form against refits without the samples."""

import numpy as np
import pytest

from autotl.heads.ridge_path import decompose_features, decompose_gram, group_blocks

N, K = 45, 3
ALPHAS = (1e-3, 0.1, 3.0, 200.0)


def kernel_of(name: str, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    distances = np.linalg.norm(x[:, None] - z[None], axis=2)
    if name == "rbf":
        return np.exp(-0.1 * distances**2)
    if name == "laplacian":
        return np.exp(-0.3 * distances)
    if name == "cosine":
        x, z = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, z))
    return x @ z.T


def refit(gram: np.ndarray, targets: np.ndarray, weights: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts from the normal equations of weighted kernel ridge, solved as they stand."""
    n = len(gram)
    system = np.zeros((n + 1, n + 1))
    system[:n, :n], system[:n, n], system[n, :n] = gram + alpha * np.diag(1 / weights), 1, 1
    solution = np.linalg.solve(system, np.vstack([targets, np.zeros((1, targets.shape[1]))]))
    return solution[:n], solution[n]


def left_out(
    gram: np.ndarray, targets: np.ndarray, weights: np.ndarray, alpha: float, groups: np.ndarray
) -> np.ndarray:
    """Leave-one-group-out predictions by one refit for each group."""
    predictions = np.empty_like(targets)
    for group in np.unique(groups):
        out = groups == group
        coef, intercept = refit(gram[np.ix_(~out, ~out)], targets[~out], weights[~out], alpha)
        predictions[out] = gram[np.ix_(out, ~out)] @ coef + intercept
    return predictions


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    labels = np.arange(N) % K
    features = rng.standard_normal((K, 8))[labels] + rng.standard_normal((N, 8))
    return features, np.eye(K)[labels], np.where(labels == 0, 3.0, 0.5)


GROUPS = {
    "single samples": np.arange(N),
    "views of an image": np.arange(N) % 15,
    "groups of any size": np.minimum(np.arange(N) ** 2 // 40, 30),
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("is_weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("kernel", ["linear", "cosine", "rbf", "laplacian"])
def test_leave_one_out_of_a_gram_matrix_equals_refits(kernel, is_weighted, groups, problem):
    features, targets, weights = problem
    weights = weights if is_weighted else np.ones(N)
    gram = kernel_of(kernel, features, features)
    decomposition = decompose_gram(gram.copy(), weights)
    for alpha in ALPHAS:
        predicted = targets - decomposition.residuals(targets, alpha, group_blocks(groups))
        np.testing.assert_allclose(predicted, left_out(gram, targets, weights, alpha, groups), atol=1e-8)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("is_weighted", [False, True], ids=["equal", "weighted"])
def test_leave_one_out_of_a_feature_map_equals_refits(is_weighted, groups, problem):
    features, targets, weights = problem
    weights = weights if is_weighted else np.ones(N)
    decomposition = decompose_features(features, weights)
    for alpha in ALPHAS:
        predicted = targets - decomposition.residuals(targets, alpha, group_blocks(groups))
        expected = left_out(features @ features.T, targets, weights, alpha, groups)
        np.testing.assert_allclose(predicted, expected, atol=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_each_solution_of_the_path_equals_a_single_solve(alpha, problem):
    features, targets, weights = problem
    gram = kernel_of("rbf", features, features)
    coef, intercept = decompose_gram(gram.copy(), weights).coefficients(targets, alpha)
    expected = refit(gram, targets, weights, alpha)
    np.testing.assert_allclose(coef, expected[0], atol=1e-8)
    np.testing.assert_allclose(intercept, expected[1], atol=1e-8)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_feature_map_and_its_gram_matrix_have_the_same_solution(alpha, problem):
    features, targets, weights = problem
    coef, intercept = decompose_features(features, weights).coefficients(targets, alpha)
    dual, expected = decompose_gram(features @ features.T, weights).coefficients(targets, alpha)
    np.testing.assert_allclose(features @ coef + intercept, features @ (features.T @ dual) + expected, atol=1e-8)


def test_float32_is_exact_to_a_thousandth_of_a_target(problem):
    features, targets, weights = problem
    gram = kernel_of("rbf", features, features)
    decomposition = decompose_gram(gram.astype(np.float32), weights)
    residuals = decomposition.residuals(targets.astype(np.float32), 1e-3, group_blocks(np.arange(N)))
    assert residuals.dtype == np.float32
    expected = left_out(gram, targets, weights, 1e-3, np.arange(N))
    np.testing.assert_allclose(targets - residuals, expected, atol=1e-3)


def test_blocks_have_each_sample_once_with_its_group():
    groups = np.array([7, 1, 7, 3, 1, 9, 9, 9])
    blocks = group_blocks(groups)
    assert [block.shape for block in blocks] == [(1, 1), (2, 2), (1, 3)]
    assert sorted(np.concatenate([block.ravel() for block in blocks])) == list(range(8))
    assert all(len(set(groups[members])) == 1 for block in blocks for members in block)
