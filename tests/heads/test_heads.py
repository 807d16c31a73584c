"""What every built-in head must do."""

import subprocess
import sys

import numpy as np
import pytest

from autotl.heads import dense, sklearn
from autotl.heads.persist import load_head, save_head
from autotl.heads.predict import logits, probabilities

HEADS = []
dense.autotl_register_heads(HEADS.append)
sklearn.autotl_register_heads(HEADS.append)
ESTIMATORS = [head for head in HEADS if head.kind == "estimator"]


def every(heads):
    return pytest.mark.parametrize("spec", heads, ids=[head.name for head in heads])


def test_the_built_in_heads_are_all_there():
    assert [head.name for head in HEADS] == [
        "linear",
        "mlp",
        "logistic_regression",
        "linear_svm",
        "rbf_svm",
        "knn",
        "lda",
        "random_forest",
        "extra_trees",
        "hist_gradient_boosting",
    ]


def test_registering_imports_neither_torch_nor_sklearn():
    code = (
        "import sys; from autotl.heads import dense, sklearn, predict, persist\n"
        "dense.autotl_register_heads(str); sklearn.autotl_register_heads(str)\n"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'skops') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@every(HEADS)
@pytest.mark.parametrize("n_classes", [2, 7])
def test_learns_a_separable_problem(spec, n_classes, problem, fit):
    features, labels = problem(n_classes, 140)
    unseen, truth = problem(n_classes, 70, seed=1)
    head = fit(spec, spec.defaults(), features, labels, n_classes)
    assert (logits(head, unseen, n_classes).argmax(1) == truth).mean() > 0.9


@every(HEADS)
@pytest.mark.parametrize("n_classes", [2, 7])
def test_probabilities_sum_to_one(spec, n_classes, problem, fit):
    features, labels = problem(n_classes, 70)
    head = fit(spec, spec.defaults(), features, labels, n_classes)
    found = probabilities(logits(head, features, n_classes), 1.0)
    assert found.shape == (70, n_classes)
    np.testing.assert_allclose(found.sum(1), 1.0)


@every(HEADS)
def test_a_class_without_training_rows_keeps_its_column(spec, problem, fit):
    features, labels = problem(7, 140)
    unseen, truth = problem(7, 70, seed=1)
    head = fit(spec, spec.defaults(), features[labels != 2], labels[labels != 2], 7)
    found = logits(head, unseen, 7)
    assert found.shape == (70, 7)
    assert np.isfinite(found).all()
    assert (found.argmax(1) == truth)[truth != 2].mean() > 0.9


@every(ESTIMATORS)
def test_a_class_without_training_rows_is_never_probable(spec, problem, fit):
    features, labels = problem(7, 140)
    head = fit(spec, spec.defaults(), features[labels != 2], labels[labels != 2], 7)
    assert probabilities(logits(head, features, 7), 20.0)[:, 2].max() < 1e-12


@every(HEADS)
def test_the_same_seed_gives_the_same_head(spec, problem, fit):
    features, labels = problem(3, 60)
    once, again = (logits(fit(spec, spec.defaults(), features, labels, 3, seed=7), features, 3) for _ in range(2))
    np.testing.assert_array_equal(once, again)


@every(HEADS)
def test_saved_and_loaded_it_predicts_exactly_the_same(spec, problem, fit, tmp_path):
    features, labels = problem(3, 60)
    head = fit(spec, spec.defaults(), features, labels, 3)
    save_head(head, tmp_path)
    loaded = load_head(spec, spec.defaults(), features.shape[1], 3, tmp_path)
    np.testing.assert_array_equal(
        probabilities(logits(loaded, features, 3), 1.5), probabilities(logits(head, features, 3), 1.5)
    )


@every(HEADS)
def test_whatever_it_suggests_can_be_trained_on_a_dozen_rows(spec, space, problem, fit):
    features, labels = problem(3, 12)
    for _ in range(4):
        params = spec.suggest(space)
        assert np.isfinite(logits(fit(spec, params, features, labels, 3), features, 3)).all(), params


@every(HEADS)
def test_defaults_name_what_is_suggested_and_lie_within_it(spec, space):
    defaults, outside = spec.defaults(), []

    def within(name, low, high, log=False):
        if not low <= defaults[name] <= high:
            outside.append(name)
        return defaults[name]

    def among(name, choices):
        if defaults[name] not in choices:
            outside.append(name)
        return defaults[name]

    space.int = space.float = within
    space.categorical = among
    assert spec.suggest(space) == defaults
    assert outside == []


@every(ESTIMATORS)
def test_trusts_no_more_types_than_it_needs(spec, problem, fit):
    import skops.io

    features, labels = problem(3, 60)
    held = skops.io.get_untrusted_types(data=skops.io.dumps(fit(spec, spec.defaults(), features, labels, 3)))
    assert sorted(held) == sorted(spec.trusted)


def test_gradient_boosting_grows_fewer_rounds_for_many_classes():
    spec = next(head for head in HEADS if head.name == "hist_gradient_boosting")
    rounds = [spec.build(spec.defaults(), 48, n, 0)[-1].max_iter for n in (2, 10, 100)]
    assert rounds == [60, 60, 15]
