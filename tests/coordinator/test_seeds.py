"""The same seed on one CPU slot: the same recipes, twice."""

import shutil

import pytest

from autotl.api import search
from autotl.study.study import open_study


def recipes(folder):
    study = open_study(folder, folder.name, "maximize", 0)
    return [(trial.state.name, trial.params, trial.user_attrs.get("recipe")) for trial in study.trials]


@pytest.mark.slow
def test_twenty_trials_on_one_slot_are_the_same_twice(tiny, patches, tmp_path):
    dataset, _ = patches
    for path, label in zip(dataset.paths, dataset.labels, strict=True):
        target = tmp_path / "photographs" / dataset.classes[label] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    first, second = (
        recipes(
            search(
                str(tmp_path / "photographs"), output=tmp_path / name, trials=20, seed=0, devices="cpu", test="none",
                ensemble=1, backbones=[tiny("test_resnet").name],
            ).folder
        )
        for name in ("first", "second")
    )  # fmt: skip
    assert len(first) == 20
    assert first == second
