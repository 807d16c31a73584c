"""Doubts: the risk that abstaining holds, images unlike the training images, prediction sets, and their file."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from autotl.errors import AutotlError
from autotl.model.doubt import FILE, Doubt, decide, fit_familiar
from autotl.model.image_model import load


def held_out(n=2000, seed=0):
    """Calibrated probabilities of three classes, and labels."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet((0.3, 0.3, 0.3), n)
    labels = (rng.random(n)[:, None] > probabilities.cumsum(1)).sum(1)
    return probabilities, labels


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.1])
def test_new_images_that_are_answered_hold_the_risk(risk):
    doubt = Doubt.of(*held_out(10_000))
    probabilities, labels = held_out(20_000, seed=1)
    answered = probabilities.max(1) >= doubt.confidence_for(risk)
    assert answered.any()
    wrong = probabilities.argmax(1)[answered] != labels[answered]
    assert wrong.mean() <= risk + 3 * np.sqrt(risk / 1000)
    assert doubt.answered_share(risk) == pytest.approx(answered.mean(), abs=0.05)


def test_the_risk_holds_in_four_of_five_draws():
    probabilities, labels = held_out(20_000, seed=1)
    wrong, risks = probabilities.argmax(1) != labels, []
    for seed in range(2, 42):
        answered = probabilities.max(1) >= Doubt.of(*held_out(300, seed)).confidence_for(0.1)
        risks.append(wrong[answered].mean())
    assert np.mean(np.array(risks) <= 0.1) >= 0.7
    assert np.mean(risks) > 0.04


def test_too_few_images_promise_nothing():
    probabilities, labels = np.full((50, 2), (0.99, 0.01)), np.zeros(50, np.int64)
    doubt = Doubt.of(probabilities, labels)
    assert doubt.confidence_for(0.01) == np.inf
    assert doubt.confidence_for(0.05) < 1
    assert decide(doubt, ("a", "b"), probabilities[0], None, abstain_at=0.01).answer == "unsure"
    assert decide(doubt, ("a", "b"), probabilities[0], None, abstain_at=0.05).answer == "a"


def test_equal_probabilities_are_answered_together_or_not_at_all():
    probabilities = np.full((100, 2), (0.9, 0.1))
    doubt = Doubt.of(probabilities, np.array([0] * 90 + [1] * 10))
    assert doubt.confidence_for(0.05) == np.inf
    assert doubt.answered_share(0.2) == 1


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.99])
def test_prediction_sets_hold_the_true_class(coverage):
    doubt = Doubt.of(*held_out())
    probabilities, labels = held_out(2000, seed=1)
    sets = [decide(doubt, "abc", row, None, coverage=coverage).classes for row in probabilities]
    held = np.mean(["abc"[label] in names for label, names in zip(labels, sets, strict=True)])
    assert held >= coverage - 0.03
    assert np.mean([len(names) for names in sets]) < 3
    assert all(names[0] == "abc"[row.argmax()] for names, row in zip(sets, probabilities, strict=True))


def test_few_images_make_sets_of_all_classes():
    doubt = Doubt.of(*held_out(5))
    assert len(decide(doubt, "abc", np.array([0.9, 0.1, 0.0]), None, coverage=0.9).classes) == 3


def test_rows_that_no_fold_predicted_are_left_out():
    probabilities, labels = held_out(100)
    probabilities[:10] = np.nan
    assert len(Doubt.of(probabilities, labels).confidence) == 90


def features(n, seed, directions=0):
    """In ten directions of sixty, which `directions` draws."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(directions).normal(size=(10, 60))
    return (np.abs(rng.normal(size=(n, 10))) @ axes).astype(np.float32)


def test_images_like_the_training_images_are_seldom_unknown_and_others_often():
    familiar = fit_familiar(features(500, 0), np.arange(500))
    alike, others = familiar.likeness(features(1000, 1)), familiar.likeness(features(1000, 2, directions=7))
    assert (alike < familiar.least_likeness(0.02)).mean() < 0.04
    assert (others < familiar.least_likeness(0.02)).mean() > 0.9
    assert familiar.samples.nbytes < 100_000


def test_false_alarms_stay_below_their_share_in_nine_of_ten_draws():
    alike, shares = features(2000, 1), []
    for seed in range(2, 32):
        familiar = fit_familiar(features(200, seed), np.arange(200))
        shares.append((familiar.likeness(alike) < familiar.least_likeness(0.05)).mean())
    assert np.mean(np.array(shares) <= 0.05) >= 0.8
    assert np.mean(shares) > 0.01
    few = fit_familiar(features(25, 2), np.arange(25))
    assert (few.likeness(alike) < few.least_likeness(0.05)).any()
    assert not (few.likeness(alike) < few.least_likeness(0.01)).any()


def test_copies_of_an_image_do_not_make_others_look_unusual():
    rows = features(200, 0)
    copied = np.repeat(rows, 4, axis=0) + 0.001 * features(800, 3)
    rest = features(500, 1)
    grouped = fit_familiar(copied, np.repeat(np.arange(200), 4))
    assert len(grouped.distances) == 200
    assert (grouped.likeness(rest) < grouped.least_likeness(0.05)).mean() < 0.08
    naive = fit_familiar(copied, np.arange(800))
    assert (naive.likeness(rest) < naive.least_likeness(0.05)).mean() > 0.9


@pytest.fixture
def doubting(frozen, patches):
    """The model `frozen` with doubts, whose training images are the photographs'."""
    dataset, split = patches
    key = frozen.members[0].backbone_digest
    network = frozen.compiled_networks(many=False)[0]
    images = [frozen._open((0, dataset.paths[i]), network.backbone, network.views) for i in split.train]
    (view,) = network.views
    rows = network.features({view: np.stack([image[view] for image in images])})[view][:, : network.layout.output]
    probabilities = frozen.predict_proba([dataset.paths[i] for i in split.validation])
    familiar = fit_familiar(rows, np.arange(len(rows)))
    frozen.doubt = Doubt.of(probabilities, dataset.labels[split.validation], familiar, key)
    return frozen


def test_a_saved_model_decides_as_before(doubting, validation, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    wishes = {"abstain_at": 0.3, "unknown_at": 0.1, "coverage": 0.8}
    before = doubting.decide([*map(str, validation), noise], **wishes)
    loaded = load(doubting.save(tmp_path / "model"), "cpu", doubting.registry)
    after = loaded.decide([*map(str, validation), noise], **wishes)
    assert [decision.answer for decision in after] == [decision.answer for decision in before]
    assert after[-1].answer == "unknown"
    assert sum(decision.answer == "unknown" for decision in after[:-1]) <= 3
    assert all(decision.label in decision.classes for decision in after)
    assert (tmp_path / "model" / FILE).stat().st_size < 100_000


def test_a_model_without_held_out_images_says_so(frozen, validation):
    with pytest.raises(AutotlError, match="no held-out images"):
        frozen.decide(validation[0], abstain_at=0.01)


def test_a_share_of_one_percent_is_written_as_a_fraction(doubting, validation):
    with pytest.raises(AutotlError, match=r"abstain_at = 1 is not between 0 and 1: write 0\.01"):
        doubting.decide(validation[0], abstain_at=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("of_label"),
        lambda tensors: tensors.update({"correct": tensors["correct"][:-1]}),
        lambda tensors: tensors.update({"familiar.samples": np.full((4, 5), np.nan, np.float16)}),
        lambda tensors: tensors.update({"familiar.samples": tensors["familiar.samples"][0]}),
        lambda tensors: tensors.update({"confidence": tensors["confidence"] * 3}),
        lambda tensors: tensors.update({"familiar.distances": tensors["familiar.distances"][::-1].copy()}),
        lambda tensors: tensors.update({"surprise": np.zeros(1, np.float32)}),
    ],
)
def test_a_forged_file_is_refused(doubting, tmp_path, change):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
    from forging import seal

    folder = doubting.save(tmp_path / "model")
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(AutotlError, match=r"doubt\.safetensors is damaged, or was changed"):
        load(folder, "cpu", doubting.registry)
    seal(folder)
    with pytest.raises(AutotlError, match=r"doubt\.safetensors is damaged or was made by hand"):
        load(folder, "cpu", doubting.registry)
