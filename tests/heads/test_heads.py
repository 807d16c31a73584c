"""The conformance kit on the built-in heads, and what registering them costs."""

import subprocess
import sys

import pytest

from autotl.heads import closed_form, dense, sklearn
from autotl.testing import head_checks

HEADS = []
dense.autotl_register_heads(HEADS.append)
sklearn.autotl_register_heads(HEADS.append)
closed_form.autotl_register_heads(HEADS.append)


def test_the_built_in_heads_are_registered_in_order():
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
        "ridge",
        "kernel_ridge",
    ]


def test_registering_imports_neither_torch_nor_sklearn():
    code = (
        "import sys; from autotl.heads import calibration, closed_form, dense, inference, serialization, sklearn\n"
        "for module in (dense, sklearn, closed_form): module.autotl_register_heads(str)\n"
        "print([m for m in ('torch', 'sklearn', 'scipy', 'skops') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.slow
@head_checks
@pytest.mark.parametrize("head", HEADS, ids=[head.name for head in HEADS])
def test_a_built_in_head_satisfies_the_contract(head, check):
    check(head)


def test_gradient_boosting_has_fewer_iterations_with_many_classes():
    spec = next(head for head in HEADS if head.name == "hist_gradient_boosting")
    iterations = [spec.build(spec.defaults(), 48, n, 0)[-1].max_iter for n in (2, 10, 100)]
    assert iterations == [60, 60, 15]
