"""The same seed on one CPU slot: the same recipes, twice."""

import pytest

from autotl.api import search
from autotl.study.study import open_study


def recipes(folder):
    study = open_study(folder, folder.name, "maximize", 0)
    return [(trial.state.name, trial.params, trial.user_attrs.get("recipe")) for trial in study.trials]


@pytest.mark.slow
def test_twenty_trials_on_one_slot_are_the_same_twice(tiny, photographs, tmp_path):
    first, second = (
        recipes(
            search(
                str(photographs), output=tmp_path / name, trials=20, seed=0, devices="cpu", test="none",
                ensemble=1, backbones=[tiny("test_resnet").name],
            ).folder
        )
        for name in ("first", "second")
    )  # fmt: skip
    assert len(first) == 20
    assert first == second
