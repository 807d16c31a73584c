"""A replay finds its study and its images where they are now. Whole replays are in `test_search.py`."""

import json
import shutil

import pytest
from optuna.trial import create_trial

from autotl.config import StudyConfig
from autotl.coordinator import replay, setup
from autotl.coordinator.replay import replay_trial
from autotl.coordinator.setup import begin_study, kept_config, prepare
from autotl.devices import parse_devices
from autotl.errors import AutotlError
from autotl.folders import claim_cache
from autotl.recipe import Recipe
from autotl.study.study import TrialAttribute


@pytest.fixture(scope="module")
def searched(cells, registry, tmp_path_factory):
    """The folder of a study with one complete trial."""
    output = tmp_path_factory.mktemp("studies")
    config = StudyConfig(data=str(cells), name="cells", output=output, devices="cpu", backbones="efficientnet_lite0")
    config.folder.mkdir()
    context = prepare(config, registry, parse_devices("cpu"), lambda line: None)
    study = begin_study(config, context, registry, None, lambda line: None)
    study.add_trial(create_trial(value=0.5))
    foreign = Recipe(f"resnet18@{output}/private.safetensors", "fast_extraction", "linear", 0)
    study.add_trial(create_trial(value=0.9, user_attrs={TrialAttribute.RECIPE: foreign.to_dict()}))
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
    with pytest.raises(AutotlError, match=r"Study 'cells' has no complete trial 7\. Complete trials: 0, 1"):
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


def test_a_backbone_that_the_study_does_not_choose_from_is_not_loaded(searched):
    with pytest.raises(AutotlError, match=r"Trial 1 .* was trained with the backbone 'resnet18@.*chooses from"):
        replay_trial(searched, 1)


@pytest.mark.parametrize("is_own", [False, True])
def test_only_a_cache_is_used_as_the_cache_that_a_study_names(is_own, searched, tmp_path):
    study, cache = shutil.copytree(searched, tmp_path / "study"), tmp_path / "project"
    content = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps({**content, "cache": str(cache)}))
    if is_own:
        claim_cache(cache)
    (cache / "features").mkdir(parents=True)  # as many projects have
    assert (kept_config(study).cache == cache) is is_own


def test_what_ran_on_a_cluster_or_on_another_machines_gpu_is_replayed_on_what_there_is():
    with pytest.warns(UserWarning, match=r"ran on dask:tcp://10\.0\.0\.1:8786, which is not on this machine"):
        slots = replay._slots("dask:tcp://10.0.0.1:8786")
    assert [slot.name for slot in slots] == [slot.name for slot in parse_devices("auto")]
    assert replay._slots("cpu*2")[0].device == "cpu"
