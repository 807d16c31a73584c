"""Label errors of a study: from its recorded features, by its best head, on folds that keep groups together."""

import csv
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import create_trial

from autotl.config import StudyConfig
from autotl.coordinator import label_errors, setup
from autotl.coordinator.label_errors import find_label_errors
from autotl.coordinator.setup import begin_study, prepare
from autotl.data.dataset import ImageDataset
from autotl.devices import parse_devices
from autotl.errors import AutotlError
from autotl.recipe import Recipe
from autotl.study.study import TrialAttribute
from autotl.trial.out_of_fold import cross_predict, fold_numbers

FLIPPED = (3, 25, 17)
"""A training, a training and a test image."""


@pytest.fixture(scope="module")
def begun(patches, tiny, registry, tmp_path_factory):
    """`begun(*recipes)`: the folder of a study of the patches, three of them with another class's label, and a complete
    trial of each recipe with the scores 0.1, 0.2, …"""
    dataset = patches[0]
    output = tmp_path_factory.mktemp("studies")
    manifest = output / "patches.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split"])
        for i, (path, label) in enumerate(zip(dataset.paths, dataset.labels, strict=True)):
            label = (label + (i in FLIPPED)) % 3
            writer.writerow([path, dataset.classes[label], "test" if i % 20 >= 16 else "train"])

    def begin(name, *recipes):
        config = StudyConfig(
            data=str(manifest), name=name, output=output, devices="cpu", backbones=tiny("test_resnet").name, seed=1,
            without_plugins=["engines.openvino"],
        )  # fmt: skip
        config.folder.mkdir()
        context = prepare(config, registry, parse_devices("cpu"), lambda line: None)
        study = begin_study(config, context, registry, None, lambda line: None)
        for i, recipe in enumerate(recipes, 1):
            study.add_trial(create_trial(value=0.1 * i, user_attrs={TrialAttribute.RECIPE: recipe.to_dict()}))
        return config.folder

    return begin


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), [("ridge", {"power": 0.5}), ("linear_svm", {"C": 0.4})])
def test_flipped_labels_are_named_in_every_subset(name, params, begun, patches, tiny):
    backbone = tiny("test_resnet").name
    # the logits of a support vector machine lie closer together than those of probabilities
    params = {**params, "class_weight": None}
    head = Recipe(backbone, "fast_extraction", name, 0, {"levels": "stages+max"}, params)
    tuned = Recipe(backbone, "fine_tuning", "linear", 0, {}, {})  # would fail: the best trial on features is taken
    folder = begun(f"flipped-{name}", head, tuned)
    found = find_label_errors(folder, data=folder.parent / "patches.csv")  # it has absolute paths, so it is typed
    named = {Path(error["path"]) for error in found}
    flipped = [patches[0].paths[i] for i in FLIPPED]
    assert set(flipped) <= named
    assert len(found) <= 5
    (test_error,) = [error for error in found if Path(error["path"]) == flipped[2]]
    assert (test_error["subset"], test_error["label"], test_error["suggested"]) == ("test", "chelsea", "astronaut")
    assert test_error["label_probability"] < test_error["suggested_probability"]
    probabilities = [error["label_probability"] for error in found]
    assert probabilities == sorted(probabilities)


def test_a_study_without_a_complete_trial_is_refused(begun):
    with pytest.raises(AutotlError, match="Study 'empty' has no complete trial"):
        find_label_errors(begun("empty"))


def test_images_passed_from_python_are_asked_for(begun, monkeypatch, tiny):
    folder = begun("memory", Recipe(tiny("test_resnet").name, "fast_extraction", "ridge", 0))
    config = StudyConfig(data="in-memory", name="memory", output=folder.parent)
    for module in (setup, label_errors):
        monkeypatch.setattr(module, "kept_config", lambda folder: config)
    with pytest.raises(AutotlError, match="passed from Python"):
        find_label_errors(folder)


def dataset(groups, labels, digests=None):
    n = len(labels)
    names = tuple(digests or (f"{i:032x}" for i in range(n)))
    return ImageDataset(
        "set", ("a", "b"), tuple(map(Path, map(str, range(n)))), np.array(labels), names, ("",) * n, groups
    )


def test_a_group_and_copies_stay_in_one_fold():
    groups = tuple(f"g{i // 4}" if i < 40 else "" for i in range(60))
    digests = [f"{min(i, 58):032x}" for i in range(60)]
    folds = fold_numbers(dataset(groups, [i % 2 for i in range(60)], digests), np.arange(60), seed=0)
    assert all(len(set(folds[i : i + 4])) == 1 for i in range(0, 40, 4))
    assert folds[58] == folds[59]
    assert set(folds) == set(range(5))


def test_every_row_is_predicted_by_the_other_folds():
    folds = np.array([0, 1, 2, 0, 1, 2])
    seen = []

    def predict(train, held_out):
        seen.append((train.tolist(), held_out.tolist()))
        return np.tile(held_out[:, None], 2).astype(float)

    assert cross_predict(folds, predict)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert seen == [([1, 2, 4, 5], [0, 3]), ([0, 2, 3, 5], [1, 4]), ([0, 1, 3, 4], [2, 5])]
