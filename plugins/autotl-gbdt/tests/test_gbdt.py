"""Boosted trees keep the head contract, stop early on images that they don't learn from, and end when they are told."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from autotl_gbdt import LightGBM, XGBoost, boosted
from autotl_gbdt.boosted import LightGBMClassifier, XGBoostClassifier, held_out
from sklearn.utils.estimator_checks import check_estimator

from autotl.errors import AutotlError
from autotl.heads.base import Head
from autotl.heads.serialization import load_head, save_head
from autotl.testing import head_checks
from autotl.testing.problem import problem

HEADS = [LightGBM(), XGBoost()]
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)


@head_checks
@every_head
def test_contract(check, head: Head) -> None:
    check(head)


@pytest.mark.parametrize(
    "estimator", [LightGBMClassifier(rounds=30), XGBoostClassifier(rounds=30)], ids=lambda e: type(e).__name__
)
@pytest.mark.filterwarnings("ignore")  # the checks provoke them
def test_keeps_scikit_learns_conventions(estimator: boosted.Boosted) -> None:
    check_estimator(estimator, on_skip=None)


def noisy(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, 48] whose labels are wrong one time in four: more trees than a few learn the errors by heart."""
    features, labels = problem(2, n, seed)
    wrong = np.random.default_rng(seed).random(n) < 0.25
    return features, np.where(wrong, 1 - labels, labels)


def rounds_of(fitted: boosted.Boosted) -> int:
    booster = fitted.booster_
    return booster.num_trees() if isinstance(fitted, LightGBMClassifier) else booster.num_boosted_rounds()


@every_head
def test_stops_early_and_is_better_for_it(head: Head) -> None:
    features, labels = noisy(300, 0)
    unseen, truth = noisy(2000, 1)
    stopped = head.build(head.defaults(), 48, 2, seed=0).fit(features, labels)
    assert 1 <= rounds_of(stopped) < 150 < stopped.rounds
    whole = head.build(head.defaults(), 48, 2, seed=0)
    rows = whole.fit(features, labels).compress_.transform(features)
    whole.booster_ = whole._grown(rows, labels, np.ones(300), whole.rounds)

    def loss(fitted: boosted.Boosted) -> float:
        return -float(np.log(fitted.predict_proba(unseen)[np.arange(2000), truth].clip(1e-9)).mean())

    assert loss(stopped) < 0.9 * loss(whole)


@every_head
def test_views_of_an_image_are_held_out_together(head: Head) -> None:
    """Each image is there four times, hardly changed: held out row by row, errors would be known by heart."""
    features, labels = noisy(150, 0)
    rng = np.random.default_rng(0)
    views = np.concatenate([features + 1e-3 * features.std(0) * rng.standard_normal(features.shape) for _ in range(4)])
    tiled = np.tile(labels, 4)
    knowing = head.build(head.defaults(), 48, 2, seed=0).fit(views, tiled, images=np.arange(600) % 150)
    unknowing = head.build(head.defaults(), 48, 2, seed=0).fit(views, tiled)
    assert rounds_of(knowing) < 0.5 * rounds_of(unknowing)


def test_of_each_class_a_share_of_its_images_is_held_out() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 4])
    out = held_out(np.tile(labels, 2), np.tile(np.arange(144), 2), seed=0)
    assert np.array_equal(out[:144], out[144:])
    assert [int(out[:144][labels == label].sum()) for label in range(3)] == [15, 6, 0]


@every_head
def test_few_rows_are_learnt_without_holding_any_out(head: Head) -> None:
    features, labels = problem(2, 8)
    fitted = head.build({**head.defaults(), "leaf_rows": 2} if head.name == "lightgbm" else head.defaults(), 48, 2, 0)
    assert rounds_of(fitted.fit(features, labels)) == boosted.UNTRIED


@every_head
def test_one_class_alone_is_refused(head: Head) -> None:
    features, _ = problem(2, 8)
    with pytest.raises(ValueError, match="one class: 1"):
        head.build(head.defaults(), 48, 2, 0).fit(features, np.ones(8, int))


@every_head
def test_many_classes_have_fewer_rounds(head: Head) -> None:
    features, labels = problem(60, 600)
    seen: list[float] = []
    head.build(head.defaults(), 48, 60, 0).fit(features, labels, watch=seen.append)
    assert seen[0] == pytest.approx(5 / 100)  # 6,000 trees / 60 classes, looked at 20 times


@every_head
def test_it_is_watched_while_it_learns_and_answers_meanwhile(head: Head) -> None:
    features, labels = noisy(300, 0)
    fitted = head.build({**head.defaults(), "learning_rate": 0.02}, 48, 2, seed=0)
    found: list[tuple[float, int]] = []
    fitted.fit(features, labels, watch=lambda fraction: found.append((fraction, len(fitted.predict_proba(features)))))
    fractions = [fraction for fraction, _ in found]
    assert len(found) >= 2
    assert fractions == sorted(set(fractions))
    assert 0 < fractions[0] <= fractions[-1] < 1
    assert {n for _, n in found} == {300}


@every_head
def test_what_the_watcher_raises_ends_the_fit(head: Head) -> None:
    def prune(fraction: float) -> None:
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        head.build({**head.defaults(), "learning_rate": 0.02}, 48, 2, seed=0).fit(*noisy(300, 0), watch=prune)


@pytest.mark.parametrize(
    ("head", "begins"), [(LightGBM(), b"tree\nversion="), (XGBoost(), b"{L")], ids=["lightgbm", "xgboost"]
)
def test_the_folder_holds_the_librarys_own_format(head: Head, begins: bytes, tmp_path: Path) -> None:
    save_head(head.build(head.defaults(), 48, 2, seed=0).fit(*problem(2, 60)), tmp_path)
    with zipfile.ZipFile(tmp_path / "head.skops") as file:
        assert sum(file.read(name).startswith(begins) for name in file.namelist()) == 1
        assert not [name for name in file.namelist() if "pickle" in name or name.endswith(".pkl")]


@every_head
def test_trees_that_were_tampered_with_are_called_damaged(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = head.build(head.defaults(), 48, 2, seed=0).fit(*problem(2, 60))
    monkeypatch.setattr(type(fitted), "_written", lambda self, booster: b"no trees at all")
    save_head(fitted, tmp_path)
    with pytest.raises(AutotlError, match=r"damaged \(ValueError: it holds no (LightGBM|XGBoost) model"):
        load_head(head, head.defaults(), 48, 2, tmp_path)


@every_head
def test_another_heads_file_is_refused(head: Head, tmp_path: Path) -> None:
    other = next(h for h in HEADS if h is not head)
    save_head(other.build(other.defaults(), 48, 2, seed=0).fit(*problem(2, 60)), tmp_path)
    with pytest.raises(AutotlError, match=f"head '{head.name}' doesn't trust"):
        load_head(head, head.defaults(), 48, 2, tmp_path)


def test_on_a_machine_with_a_gpu_xgboost_asks_for_it_and_lightgbm_if_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (boosted._xgboost_device(), boosted._lightgbm_device()) == ("cpu", "cpu") or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    import xgboost

    assert boosted._xgboost_device() == ("cuda" if xgboost.build_info()["USE_CUDA"] else "cpu")
    boosted._lightgbm_has_cuda.cache_clear()
    assert boosted._lightgbm_device() == "cpu"  # PyPI's build says so itself, when it is tried
    fitted = XGBoost().build(XGBoost().defaults(), 48, 2, seed=0).fit(*problem(2, 60))  # XGBoost finds no GPU after all
    assert (fitted.predict(problem(2, 60)[0]) == problem(2, 60)[1]).mean() > 0.9


def test_registering_imports_neither_library() -> None:
    script = (
        "import sys, autotl_gbdt; autotl_gbdt.autotl_register_heads(lambda head: None)\n"
        "print({'lightgbm', 'xgboost', 'sklearn', 'scipy', 'numpy', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
