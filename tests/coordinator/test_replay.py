"""A replay finds its study and its images where they are now. Whole replays are in `test_search.py`."""

import shutil

import pytest
from optuna.trial import create_trial

from autotl.config import StudyConfig
from autotl.coordinator import setup
from autotl.coordinator.replay import replay_trial
from autotl.coordinator.setup import begin_study, prepare
from autotl.devices import parse_devices
from autotl.errors import AutotlError


@pytest.fixture(scope="module")
def searched(cells, registry, tmp_path_factory):
    """The folder of a study with one complete trial."""
    output = tmp_path_factory.mktemp("studies")
    config = StudyConfig(data=str(cells), name="cells", output=output, devices="cpu", backbones="efficientnet_lite0")
    config.folder.mkdir()
    context = prepare(config, registry, parse_devices("cpu"), lambda line: None)
    begin_study(config, context, registry, None, lambda line: None).add_trial(create_trial(value=0.5))
    return config.folder


@pytest.fixture
def prepared(monkeypatch):
    """The configurations whose images were read. Nothing is trained."""
    configs = []

    def stop(config, registry, slots, log, images, policy):
        configs.append((config.data, config.test, images))
        raise InterruptedError

    monkeypatch.setattr(setup, "prepare", stop)
    return configs


def test_a_trial_that_does_not_exist_is_an_error_before_the_images_are_read(searched, prepared):
    with pytest.raises(AutotlError, match=r"Study 'cells' has no complete trial 7\. Complete trials: 0"):
        replay_trial(searched, 7)
    assert prepared == []


def test_a_study_in_a_renamed_folder_has_its_trials(searched, prepared, tmp_path):
    moved = shutil.copytree(searched, tmp_path / "flowers (copy)")
    with pytest.raises(InterruptedError):
        replay_trial(moved, 0)
    with pytest.raises(AutotlError, match=r"Study 'flowers \(copy\)' has no complete trial 7"):
        replay_trial(moved, 7)


def test_images_that_have_moved_are_given_by_their_place(searched, prepared):
    with pytest.raises(InterruptedError):
        replay_trial(searched, 0, data="moved", test="moved-test")
    assert prepared == [("moved", "moved-test", None)]


def test_a_place_that_is_typed_is_trusted_also_where_the_study_names_it(searched, cells, monkeypatch):
    seen = []
    monkeypatch.setattr(setup, "prepare", lambda config, *_, **__: seen.append(config.untrusted) or 1 / 0)
    for data in (None, str(cells)):
        with pytest.raises(ZeroDivisionError):
            replay_trial(searched, 0, data=data)
    assert seen == [{str(cells)}, set()]


def test_missing_images_are_an_error_that_names_the_option(searched, tmp_path):
    with pytest.raises(AutotlError, match=r"'gone' is not a dataset.* have moved: --data FOLDER"):
        replay_trial(searched, 0, data="gone")


def test_other_images_are_an_error_that_names_the_option(searched, cells, tmp_path):
    fewer = shutil.copytree(cells, tmp_path / "fewer")
    next((fewer / "defective").iterdir()).unlink()
    with pytest.raises(AutotlError, match=r"are not those that study 'cells' began with.*--data FOLDER"):
        replay_trial(searched, 0, data=str(fewer))
