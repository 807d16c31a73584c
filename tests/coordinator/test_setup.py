"""What a search prepares before its first trial: images, a split that stays, and a study whose choices stay."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from autotl.config import StudyConfig
from autotl.coordinator import setup
from autotl.coordinator.setup import begin_study, kept_config, prepare
from autotl.data.dataset import LabelledImage
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.registry import load_registry

SLOTS = [Slot("cpu:0", "cpu", "cpu", 2), Slot("cuda:0", "cuda", "cuda:0", 3)]


@pytest.fixture
def config(cells, tmp_path):
    """`config(**more)`: a search of the solar cells on one backbone that is here."""

    def make(**more):
        values = {"data": str(cells), "name": "cells", "output": tmp_path, "backbones": ["efficientnet_lite0"]}
        made = StudyConfig(**{**values, **more})
        made.folder.mkdir(exist_ok=True)
        return made

    return make


def silent(line):
    raise AssertionError(line)


def test_a_context_holds_what_workers_need(config, registry):
    context = prepare(config(), registry, SLOTS, silent)
    assert context.dataset.classes == ("defective", "functional")
    sizes = [len(getattr(context.split, name)) for name in ("train", "validation", "test")]
    assert sizes == pytest.approx([76, 20, 24], abs=2)  # scikit-learn's versions draw groups differently
    assert sum(sizes) == len(context.dataset)
    assert context.choices.backbones == ("efficientnet_lite0",)
    assert (context.choices.num_train, context.choices.num_classes, context.choices.accelerator) == (sizes[0], 2, True)
    assert (context.cores, context.slot) == (5, SLOTS[0])
    assert context.folder.is_absolute()


def test_the_split_is_made_once(config, registry):
    first = prepare(config(), registry, SLOTS, silent).split
    again = prepare(config(seed=7), registry, SLOTS, silent).split
    assert again.to_dict() == first.to_dict()


def test_a_split_of_other_images_is_refused(config, registry, cells, tmp_path):
    prepare(config(), registry, SLOTS, silent)
    fewer = tmp_path / "fewer"
    shutil.copytree(cells, fewer)
    next((fewer / "defective").iterdir()).unlink()
    with pytest.raises(AutotlError, match="The images of study 'cells' have changed since it began"):
        prepare(config(data=str(fewer)), registry, SLOTS, silent)


@pytest.mark.parametrize("damage", ["{", "{}", "twice"])
def test_a_damaged_split_is_refused(damage, config, registry):
    made = config()
    prepare(made, registry, SLOTS, silent)
    file = made.folder / "split.json"
    content = json.loads(file.read_text())
    content["indices"]["train"][0] = content["indices"]["test"][0]
    file.write_text(json.dumps(content) if damage == "twice" else damage)
    with pytest.raises(AutotlError, match="is damaged or was made by hand"):
        prepare(made, registry, SLOTS, silent)


def test_images_that_are_passed_are_taken_instead_of_the_location(config, registry, cells):
    images = [LabelledImage(path, path.parent.name) for path in sorted(cells.glob("*/*"))[::2]]
    context = prepare(config(data="passed by a caller"), registry, SLOTS, silent, images)
    assert len(context.dataset) == len(images)
    assert set(context.dataset.paths) == {image.path for image in images}


def test_files_that_cannot_be_decoded_are_listed(config, registry, cells, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(cells, photos)
    (photos / "defective" / "torn.png").write_bytes(b"\x89PNG\r\n")
    made = config(data=str(photos))
    prepare(made, registry, SLOTS, silent)
    with (made.folder / "skipped.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert Path(row["path"]).name == "torn.png"
    assert row["reason"]


def test_heads_that_take_fewer_images_than_there_are_are_refused_with_one_that_does(config, registry, monkeypatch):
    monkeypatch.setattr(type(registry.head("rbf_svm")), "max_train_samples", 10)
    with pytest.raises(AutotlError, match=r"None of the heads rbf_svm takes 7[678] training images.*--head linear"):
        prepare(config(heads=["rbf_svm"]), registry, SLOTS, silent)


# the study


@pytest.fixture
def context(config, registry):
    return prepare(config(), registry, SLOTS, silent)


def test_a_resumed_study_chooses_from_the_same(config, context, registry):
    begin_study(config(), context, registry, None, silent)
    begin_study(config(), context, registry, None, silent)
    other = prepare(config(heads=["linear"]), registry, SLOTS, silent)
    with pytest.raises(AutotlError, match=r"can't be resumed with other choices \(heads: was .*add --extend"):
        begin_study(config(heads=["linear"]), other, registry, None, silent)
    assert kept_config(config().folder).heads is None  # what was refused is not kept


@pytest.fixture
def lite1_is_missing(registry, monkeypatch):
    """Until it is undone."""
    lite1 = registry.backbone("efficientnet_lite1")
    monkeypatch.setattr(type(lite1), "is_cached", property(lambda self: self.name != "efficientnet_lite1"))
    return monkeypatch


def test_a_study_goes_on_with_the_backbones_that_it_chose_itself(config, registry, lite1_is_missing):
    made = config(backbones=None, devices="cpu")
    began = prepare(made, registry, SLOTS[:1], silent)
    begin_study(made, began, registry, None, silent)
    lite1_is_missing.undo()
    went_on = prepare(made, registry, SLOTS[:1], silent)
    assert went_on.choices == began.choices
    assert "efficientnet_lite1" not in went_on.choices.backbones
    begin_study(made, went_on, registry, None, silent)


def test_a_study_that_was_begun_with_names_is_not_resumed_without(config, context, registry):
    begin_study(config(), context, registry, None, silent)
    unnamed = config(backbones=None)
    with pytest.raises(AutotlError, match=r"can't be resumed with other choices \(backbones: was"):
        begin_study(unnamed, prepare(unnamed, registry, SLOTS[:1], silent), registry, None, silent)


def test_the_configuration_is_kept_and_found_again_elsewhere(config, context, registry, tmp_path):
    begin_study(config(trials=7), context, registry, None, silent)
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(config().folder, moved)
    kept = kept_config(moved)
    assert (kept.trials, kept.name, kept.folder) == (7, "renamed", moved)


def test_a_folder_given_as_the_current_one_has_its_name(config, context, registry, monkeypatch):
    begin_study(config(), context, registry, None, silent)
    monkeypatch.chdir(config().folder)
    assert (kept_config(Path()).name, kept_config(Path()).folder) == ("cells", Path.cwd())


def test_a_study_that_was_deleted_from_its_journal_begins_anew_with_a_line(config, context, registry):
    import optuna

    study = begin_study(config(), context, registry, None, silent)
    optuna.delete_study(study_name="cells", storage=study._storage)
    lines = []
    assert begin_study(config(), context, registry, None, lines.append).user_attrs["choices"]
    assert lines == [f"The study in {config().folder} was deleted from its journal: a new one begins."]


@pytest.mark.parametrize("content", ["{", '{"data": "x", "of another version": 1}', ""])
def test_a_configuration_that_cannot_be_read_is_refused(content, tmp_path):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(AutotlError, match=r"study\.json can't be read by autotl .*Use the autotl that wrote it"):
        kept_config(tmp_path)


def test_changed_versions_are_logged_and_recorded(config, context, registry, monkeypatch):
    lines = []
    monkeypatch.setattr(setup, "library_versions", lambda registry: {"torch": "1", "gone": "1"})
    begin_study(config(), context, registry, None, lines.append)
    assert lines == []
    monkeypatch.setattr(setup, "library_versions", lambda registry: {"torch": "2", "new": "1"})
    study = begin_study(config(), context, registry, None, lines.append)
    assert "torch 1 is now 2; new 1 is new; gone 1 is gone" in lines[0]
    assert study.user_attrs["versions"] == {"torch": "2", "new": "1"}
    assert study.user_attrs["earlier_versions"] == [{"until_trial": 0, "versions": {"torch": "1", "gone": "1"}}]


PLUGIN = """
import autotl

@autotl.hookimpl
def autotl_search_finished(model):
    pass
"""


def test_a_resumed_study_says_which_plugins_have_changed(config, context, install_plugin, tmp_path):
    install_plugin("old_hand", PLUGIN)
    begin_study(config(), context, load_registry(), None, silent)
    metadata = tmp_path / "site" / "old_hand-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    install_plugin("newcomer", PLUGIN)
    lines = []
    begin_study(config(), context, load_registry(), None, lines.append)
    assert lines == [
        "Since the study last ran: old_hand 1.0 is now 1.1; newcomer 1.0 is new. "
        "The results of trials may change with them."
    ]


def test_a_torn_journal_is_repaired_with_a_line(config, context, registry):
    begin_study(config(), context, registry, None, silent)
    lines = []
    with (config().folder / "journal.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    begin_study(config(), context, registry, None, lines.append)
    assert lines == [
        "the journal ended in a torn line, which was cut; the journal as it was is beside it: journal.log.torn"
    ]


def test_splits_are_plain_numbers(config, registry):
    made = config()
    split = prepare(made, registry, SLOTS, silent).split
    content = json.loads((made.folder / "split.json").read_text())
    np.testing.assert_array_equal(content["indices"]["train"], split.train)
    assert {len(digest) for digests in content["digests"].values() for digest in digests} == {32}


def test_the_number_of_checked_images_is_reported(registry, config):
    calls = []
    prepare(config(), registry, SLOTS, silent, None, lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0


def test_a_study_without_its_configuration_is_named(tmp_path):
    with pytest.raises(AutotlError, match=r"has no study\.json, which says what was searched\. Put the file back"):
        kept_config(tmp_path)
