"""Saving and loading heads: what is refused, and with which message."""

import os

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from autotl.errors import AutotlError
from autotl.heads.dense import MLP, Linear
from autotl.heads.serialization import load_head, save_head
from autotl.heads.sklearn import RBFSVM, LogisticRegression
from autotl.testing.problem import separable_problem, trained


@pytest.fixture
def estimator():
    features, labels = separable_problem(2, 30)
    return trained(LogisticRegression(), LogisticRegression().defaults(), features, labels, 2)


def load(spec, folder):
    return load_head(spec, spec.defaults(), 48, 2, folder)


@pytest.mark.slow
def test_untrusted_types_are_refused_by_name(tmp_path):
    features, labels = separable_problem(2, 30)
    save_head(trained(RBFSVM(), RBFSVM().defaults(), features, labels, 2), tmp_path)
    with pytest.raises(AutotlError, match=r"logistic_regression.*autotl\.heads\.estimators\.GramSVC"):
        load(LogisticRegression(), tmp_path)


def test_an_estimator_that_would_call_a_function_is_refused(estimator, tmp_path):
    save_head(make_pipeline(FunctionTransformer(os.getcwd), estimator), tmp_path)
    with pytest.raises(AutotlError, match="getcwd"):
        load(LogisticRegression(), tmp_path)


@pytest.mark.parametrize("spec", [Linear(), LogisticRegression()], ids=lambda spec: spec.name)
def test_a_missing_file_is_named(spec, tmp_path):
    with pytest.raises(AutotlError, match=r"head\.(safetensors|skops) is missing"):
        load(spec, tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_dense_head_is_damaged(keep, tmp_path):
    save_head(Linear().build(Linear().defaults(), 48, 2, seed=0), tmp_path)
    truncate(tmp_path / "head.safetensors", keep)
    with pytest.raises(AutotlError, match="damaged"):
        load(Linear(), tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_estimator_is_damaged(keep, estimator, tmp_path):
    save_head(estimator, tmp_path)
    truncate(tmp_path / "head.skops", keep)
    with pytest.raises(AutotlError, match="damaged"):
        load(LogisticRegression(), tmp_path)


def truncate(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])


def test_a_dense_head_of_another_design_is_refused(tmp_path):
    save_head(MLP().build(MLP().defaults(), 48, 2, seed=0), tmp_path)
    with pytest.raises(AutotlError, match="is not the head that its model describes"):
        load(Linear(), tmp_path)


def test_a_loaded_dense_head_is_in_eval_mode(tmp_path):
    save_head(Linear().build(Linear().defaults(), 48, 2, seed=0).train(), tmp_path)
    assert not load(Linear(), tmp_path).training


def test_a_dense_heads_running_statistics_are_saved(tmp_path):
    features, labels = separable_problem(2, 30)
    head = trained(Linear(), Linear().defaults(), features, labels, 2)
    save_head(head, tmp_path)
    np.testing.assert_array_equal(load(Linear(), tmp_path)[0].running_var, head[0].running_var)
