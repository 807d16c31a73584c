"""Boosted trees satisfy the head contract, stop early on held-out images, report progress, and can be ended."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from autotl_gbdt import LightGBM, XGBoost, boosted
from autotl_gbdt.boosted import LightGBMClassifier, XGBoostClassifier, holdout_mask
from sklearn.utils.estimator_checks import check_estimator

from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.heads.inference import logits, probabilities
from autotl.heads.modules import head_module
from autotl.heads.serialization import load_head, save_head
from autotl.testing import head_checks
from autotl.testing.problem import separable_problem

pytestmark = pytest.mark.slow

HEADS = [LightGBM(), XGBoost()]
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)


@head_checks
@every_head
def test_contract(check, head: Head) -> None:
    check(head)


@pytest.mark.parametrize(
    "estimator", [LightGBMClassifier(max_rounds=30), XGBoostClassifier(max_rounds=30)], ids=lambda e: type(e).__name__
)
@pytest.mark.filterwarnings("ignore")  # the checks provoke them
def test_follows_scikit_learns_conventions(estimator: boosted.Boosted) -> None:
    check_estimator(estimator, on_skip=None)


def noisy_problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples [n, 48] of which a quarter have the wrong label: too many trees overfit them."""
    features, labels = separable_problem(2, n, seed)
    wrong = np.random.default_rng(seed).random(n) < 0.25
    return features, np.where(wrong, 1 - labels, labels)


def rounds_of(fitted: boosted.Boosted) -> int:
    booster = fitted.booster_
    return booster.num_trees() if isinstance(fitted, LightGBMClassifier) else booster.num_boosted_rounds()


@every_head
def test_early_stopping_lowers_the_loss_of_unseen_samples(head: Head) -> None:
    features, labels = noisy_problem(300, 0)
    unseen, truth = noisy_problem(2000, 1)
    stopped = head.build(head.defaults(), 48, 2, seed=0).fit(features, labels)
    assert 1 <= rounds_of(stopped) < 150 < stopped.max_rounds
    overfitted = head.build(head.defaults(), 48, 2, seed=0)
    components = overfitted.fit(features, labels).compress_.transform(features)
    overfitted.booster_ = overfitted._grow((components, labels, np.ones(300)), overfitted.max_rounds)

    def loss(fitted: boosted.Boosted) -> float:
        return -float(np.log(fitted.predict_proba(unseen)[np.arange(2000), truth].clip(1e-9)).mean())

    assert loss(stopped) < 0.9 * loss(overfitted)


@every_head
def test_views_of_an_image_are_held_out_together(head: Head) -> None:
    """Of each image there are four nearly equal views. Without groups they leak into the held-out samples, whose wrong
    labels are then predicted by heart, and early stopping comes late."""
    features, labels = noisy_problem(150, 0)
    rng = np.random.default_rng(0)
    views = np.concatenate([features + 1e-3 * features.std(0) * rng.standard_normal(features.shape) for _ in range(4)])
    tiled = np.tile(labels, 4)
    grouped = head.build(head.defaults(), 48, 2, seed=0).fit(views, tiled, groups=np.arange(600) % 150)
    ungrouped = head.build(head.defaults(), 48, 2, seed=0).fit(views, tiled)
    assert rounds_of(grouped) < 0.5 * rounds_of(ungrouped)


def test_a_fraction_of_each_classs_images_is_held_out() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 4])
    mask = holdout_mask(np.tile(labels, 2), np.tile(np.arange(144), 2), seed=0)
    assert np.array_equal(mask[:144], mask[144:])
    assert [int(mask[:144][labels == label].sum()) for label in range(3)] == [15, 6, 0]


def test_the_seed_decides_which_images_are_held_out() -> None:
    labels, images = np.arange(100) % 2, np.arange(100)
    first, same, other = (holdout_mask(labels, images, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


@every_head
def test_with_few_samples_none_are_held_out(head: Head) -> None:
    features, labels = separable_problem(2, 8)
    params = head.defaults() | ({"min_child_samples": 2} if head.name == "lightgbm" else {})
    fitted = head.build(params, 48, 2, 0)
    assert rounds_of(fitted.fit(features, labels)) == boosted.DEFAULT_ROUNDS


@every_head
def test_a_single_class_is_refused(head: Head) -> None:
    features, _ = separable_problem(2, 8)
    with pytest.raises(ValueError, match="one class: 1"):
        head.build(head.defaults(), 48, 2, 0).fit(features, np.ones(8, int))


@every_head
def test_many_classes_have_fewer_rounds(head: Head) -> None:
    features, labels = separable_problem(60, 600)
    fractions: list[float] = []
    head.build(head.defaults(), 48, 60, 0).fit(features, labels, on_progress=fractions.append)
    assert fractions[0] == pytest.approx(5 / 100)  # 6,000 trees / 60 classes, reported 20 times


@every_head
def test_progress_is_reported_and_the_classifier_predicts_meanwhile(head: Head) -> None:
    features, labels = noisy_problem(300, 0)
    fitted = head.build({**head.defaults(), "learning_rate": 0.02}, 48, 2, seed=0)
    reported: list[tuple[float, int]] = []
    fitted.fit(
        features,
        labels,
        on_progress=lambda fraction: reported.append((fraction, len(fitted.predict_proba(features)))),
    )
    fractions = [fraction for fraction, _ in reported]
    assert len(reported) >= 2
    assert fractions == sorted(set(fractions))
    assert 0 < fractions[0] <= fractions[-1] < 1
    assert {n for _, n in reported} == {300}


@every_head
def test_an_exception_of_on_progress_ends_the_fit(head: Head) -> None:
    def prune(fraction: float) -> None:
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        head.build({**head.defaults(), "learning_rate": 0.02}, 48, 2, 0).fit(*noisy_problem(300, 0), on_progress=prune)


@pytest.mark.parametrize(
    ("head", "signature"), [(LightGBM(), b"tree\nversion="), (XGBoost(), b'{"learner"')], ids=["lightgbm", "xgboost"]
)
def test_the_saved_head_contains_the_librarys_own_format(head: Head, signature: bytes, tmp_path: Path) -> None:
    save_head(head.build(head.defaults(), 48, 2, seed=0).fit(*separable_problem(2, 60)), tmp_path)
    with zipfile.ZipFile(tmp_path / "head.skops") as file:
        assert sum(file.read(name).startswith(signature) for name in file.namelist()) == 1
        assert not [name for name in file.namelist() if "pickle" in name or name.endswith(".pkl")]


@every_head
def test_a_saved_head_with_invalid_trees_is_damaged(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = head.build(head.defaults(), 48, 2, seed=0).fit(*separable_problem(2, 60))
    monkeypatch.setattr(type(fitted), "_to_bytes", lambda self, booster: b"no trees at all")
    save_head(fitted, tmp_path)
    with pytest.raises(AutotlError, match=r"damaged \(ValueError: not an? (LightGBM|XGBoost) model"):
        load_head(head, head.defaults(), 48, 2, tmp_path)


FORGED_TREES = {
    "a child outside": (r"left_child=\S+", "left_child=999999", r'"left_children":\[\d+', '"left_children":[999999'),
    "a child that is its own parent": (
        r"left_child=\S+",
        "left_child=0",
        r'"left_children":\[\d+',
        '"left_children":[0',
    ),
    "a feature outside": (
        r"split_feature=\S+",
        "split_feature=99999",
        r'"split_indices":\[\d+',
        '"split_indices":[99999',
    ),
    "fewer nodes": (r"num_leaves=\d+", "num_leaves=9999", r'"num_nodes":"\d+"', '"num_nodes":"9999"'),
    "other features": (r"max_feature_idx=\d+", "max_feature_idx=3", r'"num_feature":"\d+"', '"num_feature":"3"'),
    "other classes": (r"num_class=\d+", "num_class=9", r'"num_class":"\d+"', '"num_class":"9"'),
    "a value that is no number": (
        r"leaf_value=\S+",
        "leaf_value=nan",
        r'"split_conditions":\[[^,]+',
        '"split_conditions":[NaN',
    ),
    "another objective": (
        r"objective=\S+",
        "objective=lambdarank",
        r'"name":"binary:logistic"',
        '"name":"rank:pairwise"',
    ),
}


@every_head
@pytest.mark.parametrize("name", FORGED_TREES)
def test_trees_that_cannot_be_followed_are_damaged(
    head: Head, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightgbm, by, xgboost, by_xgboost = FORGED_TREES[name]
    pattern, replacement = (lightgbm, by) if head.name == "lightgbm" else (xgboost, by_xgboost)
    fitted = head.build(head.defaults(), 48, 2, seed=0).fit(*separable_problem(2, 60))
    content = fitted._to_bytes(fitted.booster_).decode()
    forged = re.sub(pattern, replacement, content, count=1)
    sizes = [len(f"Tree={block}\n") for block in forged.split("end of trees")[0].split("\nTree=")[1:]]
    if head.name == "lightgbm":  # a stranger makes the sizes fit
        sizes[-1] -= 1
        forged = re.sub(r"tree_sizes=.*", "tree_sizes=" + " ".join(map(str, sizes)), forged)
    assert forged != content
    monkeypatch.setattr(type(fitted), "_to_bytes", lambda self, booster: forged.encode())
    save_head(fitted, tmp_path)
    with pytest.raises(AutotlError, match=r"damaged \(ValueError: not an? (LightGBM|XGBoost) model"):
        load_head(head, head.defaults(), 48, 2, tmp_path)


@every_head
def test_another_heads_file_is_refused(head: Head, tmp_path: Path) -> None:
    other = next(h for h in HEADS if h is not head)
    save_head(other.build(other.defaults(), 48, 2, seed=0).fit(*separable_problem(2, 60)), tmp_path)
    with pytest.raises(AutotlError, match=f"head '{head.name}' doesn't trust"):
        load_head(head, head.defaults(), 48, 2, tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is visible")
def test_without_a_gpu_both_libraries_run_on_the_cpu() -> None:
    assert (boosted._xgboost_device(), boosted._lightgbm_device()) == ("cpu", "cpu")


def test_with_a_gpu_each_library_uses_it_if_it_was_built_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    import xgboost

    assert boosted._xgboost_device() == ("cuda" if xgboost.build_info()["USE_CUDA"] else "cpu")
    boosted._lightgbm_has_cuda.cache_clear()
    assert boosted._lightgbm_device() == "cpu"  # PyPI's wheels have no CUDA
    features, labels = separable_problem(2, 60)
    fitted = (
        XGBoost().build(XGBoost().defaults(), 48, 2, seed=0).fit(features, labels)
    )  # where there is no GPU after all
    assert (fitted.predict(features) == labels).mean() > 0.9


def test_registering_imports_neither_library() -> None:
    script = (
        "import sys, autotl_gbdt; autotl_gbdt.autotl_register_heads(lambda head: None)\n"
        "print({'lightgbm', 'xgboost', 'sklearn', 'scipy', 'numpy', 'torch'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@every_head
@pytest.mark.parametrize(("present", "num_classes"), [(2, 3), (4, 4)])
def test_a_head_as_a_module_gives_the_same_probabilities(head: Head, present: int, num_classes: int) -> None:
    features, labels = separable_problem(present, 90)
    unseen, _ = separable_problem(present, 60, seed=1)
    fitted = head.build({**head.defaults(), "components": 16}, 48, num_classes, seed=0)
    fitted.max_rounds = 12  # so few that probabilities stay far from 0 and 1
    fitted.fit(features, labels)
    with torch.inference_mode():
        answers = probabilities(head_module(fitted, num_classes)(torch.from_numpy(unseen)).numpy(), 1.0)
    expected = probabilities(logits(fitted, unseen, num_classes), 1.0)
    np.testing.assert_allclose(answers, expected, atol=2e-5)
    assert np.ptp(expected[:, 0]) > 0.3
