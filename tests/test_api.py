"""The Python API. Tests marked slow run whole searches."""

import copy
import doctest
import importlib
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import joblib
import numpy as np
import optuna
import pytest

import autotl
from autotl import api
from autotl.api import SearchResult, evaluate, join, replay, search
from autotl.config import StudyConfig
from autotl.data.dataset import LabelledImage
from autotl.data.digests import digest_file
from autotl.errors import AutotlError
from autotl.events import Callback
from autotl.folders import claim_study
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted
from autotl.ui.progress import Progress

# names and types


def test_every_public_name_can_be_imported():
    for name in autotl.__all__:
        assert getattr(autotl, name) is not None
    assert set(autotl.__all__) <= set(dir(autotl))


def test_importing_autotl_loads_neither_torch_nor_numpy():
    code = "import sys, autotl; print({'torch', 'numpy', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_the_package_is_marked_as_typed():
    assert files("autotl").joinpath("py.typed").is_file()


def test_search_has_a_keyword_for_every_key_of_a_study():
    keywords = inspect.signature(search).parameters
    assert set(keywords) == set(StudyConfig.model_fields) | {"extend", "progress", "callbacks"}
    assert all(p.kind == p.KEYWORD_ONLY for name, p in keywords.items() if name != "data")
    assert all(f"\n        {name}: " in search.__doc__ for name in keywords)


DOCUMENTED = [
    "autotl.classifier",
    "autotl.clock",
    "autotl.cookies",
    "autotl.metrics",
    "autotl.recipe",
    "autotl.search_result",
]


@pytest.mark.parametrize("module", DOCUMENTED)
def test_the_examples_in_docstrings_run(module):
    outcome = doctest.testmod(importlib.import_module(module))
    assert outcome.attempted > 0
    assert outcome.failed == 0


# search


@pytest.fixture
def run(monkeypatch):
    """Instead of `run_search`: what it was called with, in the form (config, progress, keywords)."""
    calls = []

    def run_search(config, progress, **keywords):
        calls.append((config, progress, keywords))
        return {"study": config.name, "leaderboard": [{"rank": 1}], "test": None}

    monkeypatch.setattr("autotl.coordinator.run.run_search", run_search)
    return calls


VALUES = {
    "name": "x",
    "output": Path("/studies"),
    "time": 90.0,
    "trials": 3,
    "devices": "cpu*2",
    "force": True,
    "backbones": ["resnet18"],
    "strategies": ["fine_tuning"],
    "heads": ["linear"],
    "augmentations": ["flip"],
    "losses": ["cross_entropy"],
    "levels": ["last"],
    "metric": "log_loss",
    "seed": 7,
    "test": "none",
    "ensemble": 2,
    "joined": 2,
    "cache": Path("/cache"),
    "cache_size": 1000,
    "trial_timeout": 60.0,
    "max_latency": 20.0,
    "max_size": 50_000_000,
    "max_parameters": 10_000_000,
    "engine": "torch",
    "offline": True,
    "download": "never",
    "strict_images": True,
    "align": True,
    "without_plugins": ["mlflow"],
    "strict_plugins": True,
    "storage": "postgresql+psycopg://me@host/studies",
    "pool": "file:///nfs/pool",
}


def test_every_keyword_reaches_the_config(run):
    assert set(VALUES) == set(StudyConfig.model_fields) - {"data"}
    search("photos", **VALUES)
    assert run[0][0].model_dump() == {"data": "photos"} | VALUES


def test_a_keyword_that_is_none_keeps_the_value_of_a_config(run):
    search(StudyConfig(data="photos", trials=5, offline=True), trials=None, offline=False)
    config = run[0][0]
    assert (config.trials, config.offline) == (5, False)


def test_progress_and_callbacks_are_passed_on(run):
    progress, callback = Progress(), Callback()
    search("photos", progress=progress, callbacks=[callback], extend=True)
    assert run[0][1] is progress
    assert run[0][2] == {"extend": True, "images": None, "callbacks": (callback,)}


def test_a_script_shows_no_progress(run, capsys):
    search("photos")
    assert type(run[0][1]) is Progress
    assert capsys.readouterr().out == ""


def test_a_list_of_labelled_images_is_passed_on(run):
    images = [LabelledImage(Path("a.png"), "cat"), LabelledImage(Path("b.png"), "dog")]
    result = search(images, output="/studies")
    assert run[0][0].data == api.IN_MEMORY
    assert run[0][2]["images"] == images
    assert result.folder == Path("/studies/in-memory")


def test_a_list_of_something_else_is_an_error():
    with pytest.raises(AutotlError, match=r"data\[1\] is a str, not a LabelledImage"):
        search([LabelledImage(Path("a.png"), "cat"), "b.png"])


def test_a_result_does_not_depend_on_the_current_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = search("photos", output="studies")
    monkeypatch.chdir("/")
    assert result.folder == tmp_path / "studies" / "photos"
    assert result.model_path == tmp_path / "studies" / "photos" / "model"


def test_a_result_has_a_report_once_there_is_one(tmp_path):
    result = SearchResult(tmp_path, {"leaderboard": [], "test": None})
    assert result.report is None
    (tmp_path / "report.html").touch()
    assert result.report == tmp_path / "report.html"


@pytest.mark.slow
def test_a_result_of_a_search_on_labelled_images(patches, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset, _ = patches
    images = [
        LabelledImage(path, dataset.classes[label]) for path, label in zip(dataset.paths, dataset.labels, strict=True)
    ]

    class Leaves(Callback):
        def on_search_started(self, event):
            os.chdir("/")

    result = search(
        images,
        name="patches",
        output="studies",
        trials=2,
        backbones=tiny("test_resnet").name,
        strategies="fast_extraction",
        heads=["logistic_regression", "ridge"],
        engine="torch",
        devices="cpu",
        cache="cache",
        callbacks=[Leaves()],
    )
    assert Path.cwd() == Path("/")
    assert (result.folder, (tmp_path / "cache" / "features").is_dir()) == (tmp_path / "studies" / "patches", True)
    assert [row["rank"] for row in result.leaderboard] == [1, 2]
    assert result.test["n"] == 12
    assert [t.state for t in result.study.trials] == [optuna.trial.TrialState.COMPLETE] * 2
    assert result.study.best_value == result.leaderboard[0]["value"]
    assert result.model is result.model
    assert result.model.predict([images[0].path]).shape == (1,)
    assert pickle.loads(pickle.dumps(result)) == result  # noqa: S301
    with pytest.raises(AutotlError, match="were passed from Python"):
        replay("patches", 0, output=tmp_path / "studies")


# join, replay, evaluate


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The folder of a study, below the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "studies" / "photos"
    claim_study(folder)
    (folder / "journal.log").touch()
    (folder / "study.json").write_text(StudyConfig(data="elsewhere", metric="log_loss").model_dump_json())
    return folder


@pytest.mark.parametrize("form", ["name", "folder", "path"])
def test_join_takes_a_study_by_name_or_folder(form, study, monkeypatch):
    joined = []
    monkeypatch.setattr("autotl.coordinator.join.join_search", lambda config, progress: joined.append(config) or 1)
    assert join({"name": "photos", "folder": str(study), "path": study}[form], devices="cpu*2") == 1
    (config,) = joined
    assert config.folder.absolute() == study
    assert (config.metric, config.devices) == ("log_loss", "cpu*2")


def test_join_takes_the_data_of_a_search(tmp_path, monkeypatch):
    joined = []
    monkeypatch.setattr("autotl.coordinator.join.join_search", lambda config, progress: joined.append(config) or 1)
    (tmp_path / "photos").mkdir()
    join(tmp_path / "photos", output=tmp_path / "studies")
    assert joined[0].folder == tmp_path / "studies" / "photos"


@pytest.mark.parametrize("form", ["name", "folder"])
def test_replay_takes_a_study_by_name_or_folder(form, study, monkeypatch):
    monkeypatch.setattr(
        "autotl.coordinator.replay.replay_trial", lambda folder, number, **more: (folder.absolute(), more)
    )
    unmoved = {"data": None, "test": None, "images": None}
    assert replay("photos" if form == "name" else study, 3) == (study, unmoved)
    assert replay(study, 3, data=Path("moved"), test="new") == (study, unmoved | {"data": "moved", "test": "new"})
    images = [LabelledImage(Path("a.jpg"), "a")]
    assert replay(study, 3, data=images)[1] == {"data": "in-memory", "test": None, "images": images}


def test_replay_of_an_unknown_study_suggests_the_nearest(study):
    with pytest.raises(AutotlError, match="Did you mean 'photos'"):
        replay("photo", 0)


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    """The model of a study `pets`: a logistic regression on features of a tiny network. Returns the study's folder."""
    registry, backbone = load_registry(), tiny("test_resnet")
    rng = np.random.default_rng(0)
    width = backbone.build().num_features
    params = registry.head("logistic_regression").defaults()
    head = registry.head("logistic_regression").build(params, width, 3, 0)
    head.fit(rng.standard_normal((30, width)).astype(np.float32), np.arange(30) % 3)
    recipe = Recipe(backbone.name, "fast_extraction", "logistic_regression", 0, {}, params)
    member = Member(recipe, Fitted("last", head), backbone.digest, 3)
    folder = tmp_path_factory.mktemp("studies") / "studies" / "pets"
    folder.mkdir(parents=True)
    classes = ("astronaut", "chelsea", "coffee")
    ImageModel(classes, [member], {backbone.digest: backbone}, registry=registry).save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def class_folders(patches, tmp_path_factory):
    """Three patches of each photograph in class folders."""
    dataset, _ = patches
    folder = tmp_path_factory.mktemp("classes")
    for index in (0, 1, 2, 20, 21, 22, 40, 41, 42):
        target = folder / dataset.classes[dataset.labels[index]] / dataset.paths[index].name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(dataset.paths[index], target)
    return folder


@pytest.mark.parametrize("form", ["name", "study", "model", "loaded"])
def test_evaluate_takes_a_model_a_folder_or_a_study(form, model, class_folders, monkeypatch):
    monkeypatch.chdir(model.parent.parent)
    given = {"name": "pets", "study": model, "model": model / "model", "loaded": autotl.load(model, device="cpu")}[form]
    outcome = evaluate(given, class_folders, device="cpu")
    assert outcome["subset"] == "all"
    assert outcome["scores"]["n"] == 9
    assert np.array(outcome["confusion"]).sum(1).tolist() == [3, 3, 3]
    assert [row["n"] for row in outcome["per_class"]] == [3, 3, 3]


def place(class_folders, folder, **classes):
    """A data set at `folder`: for the name of each class folder to make, the one whose images it has."""
    for name, source in classes.items():
        shutil.copytree(class_folders / source, folder / name.replace("__", "/"))
    return folder


def test_evaluate_on_images_that_lack_a_class_says_so(model, class_folders, tmp_path):
    outcome = evaluate(model, place(class_folders, tmp_path / "two", coffee="coffee", chelsea="chelsea"), device="cpu")
    assert outcome["scores"]["n"] == 6
    assert outcome["notes"] == ["There are no images of 'astronaut': no score tells how they are recognised."]


def test_evaluate_leaves_images_of_other_classes_out_and_says_so(model, class_folders, tmp_path):
    images = place(class_folders, tmp_path / "new", coffee="coffee", chelsea="chelsea", moon="astronaut")
    outcome = evaluate(model, images, device="cpu")
    assert outcome["scores"]["n"] == 6
    assert outcome["notes"][0] == (
        f"{images} has images of 'moon', which is not a class of the model. Known classes: astronaut, chelsea, coffee. "
        "3 images are left out."
    )


def test_evaluate_on_test_images_says_nothing_of_other_images(model, class_folders, tmp_path):
    images = place(class_folders, tmp_path / "split", train__moon="astronaut", test__coffee="coffee")
    outcome = evaluate(model, images, device="cpu")
    assert (outcome["subset"], outcome["scores"]["n"]) == ("test", 3)
    assert not [note for note in outcome["notes"] if "moon" in note]


def test_evaluate_on_images_without_a_class_of_the_model_is_an_error(model, class_folders, tmp_path):
    images = place(class_folders, tmp_path / "other", moon="astronaut", sun="coffee")
    with pytest.raises(AutotlError, match=r"No image of .* is of a class of the model: astronaut, chelsea, coffee"):
        evaluate(model, images, device="cpu")


@pytest.mark.parametrize(("classes", "scored"), [(("coffee", "chelsea"), True), (("coffee",), False)])
def test_evaluate_gives_the_metric_of_the_search_or_says_that_it_is_undefined(
    classes, scored, model, class_folders, tmp_path
):
    loaded = autotl.load(model, device="cpu")
    loaded.about = {"metric": "auroc"}
    images = place(class_folders, tmp_path / "some", **{name: name for name in classes})
    outcome = evaluate(loaded, images, device="cpu")
    assert (next(iter(outcome["scores"])) == "auroc") == scored
    undefined = "The metric 'auroc' is undefined for 3 images of 1 class."
    assert (undefined in outcome["notes"]) == (not scored)


def test_evaluate_without_the_plugin_of_the_metric_says_so(model, class_folders):
    loaded = autotl.load(model, device="cpu")
    loaded.about = {"metric": "moon"}
    outcome = evaluate(loaded, class_folders, device="cpu")
    assert outcome["notes"] == ["The metric of the search, 'moon', is of a plugin that isn't installed."]


def test_evaluate_takes_a_list_of_labelled_images(model, class_folders):
    images = [LabelledImage(path, path.parent.name) for path in sorted(class_folders.rglob("*.png"))]
    listed, folder = (evaluate(model, data, device="cpu") for data in (images, class_folders))
    assert listed == folder
    test = [replace(image, subset="test") for image in images[:4]]
    assert evaluate(model, test + images[4:], device="cpu")["scores"]["n"] == 4
    with pytest.raises(AutotlError, match=r"data\[1\] is a PosixPath, not a LabelledImage"):
        evaluate(model, [images[0], images[1].path], device="cpu")


def test_evaluate_without_test_images_is_an_error(model, class_folders):
    with pytest.raises(AutotlError, match="has no test subset"):
        evaluate(model, class_folders, subset="test", device="cpu")


@pytest.mark.slow
def test_a_loaded_model_pickles_and_copies(model, class_folders, tmp_path):
    loaded = autotl.load(model, device="cpu")
    paths = sorted(class_folders.rglob("*.png"))
    expected = loaded.predict_proba(paths)
    joblib.dump(loaded, tmp_path / "model.joblib")
    copies = (pickle.loads(pickle.dumps(loaded)), joblib.load(tmp_path / "model.joblib"), copy.deepcopy(loaded))  # noqa: S301  # pickled here
    for again in copies:
        assert np.array_equal(again.predict_proba(paths), expected)


def test_load_takes_the_first_device_that_works(model, monkeypatch):
    asked = []
    monkeypatch.setattr("autotl.model.image_model.resolve_device", lambda device: asked.append(device) or "cpu")
    assert autotl.load(model).device == "cpu"
    assert asked == ["auto"]


def test_loading_does_not_change_the_visible_gpus(model):
    before = dict(os.environ)
    autotl.load(model)
    assert dict(os.environ) == before


# images that the model was trained on


@pytest.fixture
def trained(model, class_folders, tmp_path):
    """A model that states that it was trained on the images of one class, outside of its study."""
    loaded = autotl.load(model, device="cpu")
    loaded.trained_on = frozenset(digest_file(path) for path in (class_folders / "coffee").iterdir())
    return loaded.save(tmp_path / "elsewhere")


def test_evaluate_leaves_out_images_that_the_model_was_trained_on(trained, class_folders):
    outcome = evaluate(trained, class_folders, device="cpu")
    assert outcome["scores"]["n"] == 6
    assert np.array(outcome["confusion"]).sum(1).tolist() == [3, 3, 0]
    assert outcome["notes"][0] == (
        "3 of these 9 images were used to train the model or to select it, and are left out. Score them, too: --all"
    )


def test_evaluate_scores_them_where_it_is_asked_to(trained, class_folders):
    outcome = evaluate(trained, class_folders, device="cpu", include_trained=True)
    assert outcome["scores"]["n"] == 9
    assert "3 of these 9 images were used" in outcome["notes"][0]
    assert "the scores are optimistic" in outcome["notes"][0]


def test_evaluate_on_nothing_but_training_images_is_an_error(model, class_folders):
    loaded = autotl.load(model, device="cpu")
    loaded.trained_on = frozenset(digest_file(path) for path in class_folders.rglob("*.png"))
    with pytest.raises(AutotlError, match=r"All 9 images of .* were used to train.*--all"):
        evaluate(loaded, class_folders, device="cpu")


def test_a_model_without_its_training_images_asks_its_study(model, class_folders, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(model, study)
    seen = [digest_file(path) for path in (class_folders / "coffee").iterdir()]
    (study / "split.json").write_text(json.dumps({"digests": {"train": seen[:2], "validation": seen[2:], "test": []}}))
    assert not (study / "model" / "trained_on.digests").exists()
    assert evaluate(study, class_folders, device="cpu")["scores"]["n"] == 6


def test_the_training_images_survive_saving_and_loading_and_are_checked(trained):
    loaded = autotl.load(trained, device="cpu")
    assert len(loaded.trained_on) == 3
    assert copy.deepcopy(loaded).trained_on == loaded.trained_on
    file = trained / "trained_on.digests"
    assert file.stat().st_size == 3 * 16
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(AutotlError, match=r"trained_on\.digests is damaged"):
        autotl.load(trained, device="cpu")
    os.truncate(file, 16 << 30)  # a stranger's may be of any size; this one takes no room
    with pytest.raises(AutotlError, match=r"trained_on\.digests is damaged or was made by hand"):
        autotl.load(trained, device="cpu")
    file.unlink()
    with pytest.raises(AutotlError, match=r"trained_on\.digests is missing"):
        autotl.load(trained, device="cpu")
