"""ImageClassifier as a scikit-learn estimator. Tests marked slow run whole searches; the others a quick stand-in."""

import inspect
import io
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError, SkipTestWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from autotl import devices
from autotl.classifier import ImageClassifier, _study_folder
from autotl.config import StudyConfig, study_config
from autotl.coordinator.setup import _write_skipped
from autotl.data.dataset import Skipped
from autotl.data.decoding import decode, to_rgb
from autotl.errors import AutotlError, DataError, InputError
from autotl.events import Callback
from autotl.hardware import Machine


class NearestMean:
    """A nearest-mean classifier of pixels. Its classes are in reverse order, as a model's may be."""

    def __init__(self, images):
        self.classes = tuple(sorted({image.label for image in images}, reverse=True))
        pixels = self.pixels([image.path for image in images])
        labels = np.array([image.label for image in images])
        self.means = np.stack([pixels[labels == name].mean(0) for name in self.classes])
        self.in_memory = False

    def pixels(self, images):
        opened = [
            Image.open(i) if isinstance(i, str | os.PathLike) else decode(i) if isinstance(i, bytes) else to_rgb(i)
            for i in images
        ]
        return np.stack([np.asarray(i.convert("RGB"), float).ravel() / 255 for i in opened])

    def read_into_memory(self):
        self.in_memory = True

    def predict_proba(self, images):
        distances = ((self.pixels(images)[:, None] - self.means) ** 2).sum(2)
        similarity = np.exp(-(distances - distances.min(1, keepdims=True)))
        return similarity / similarity.sum(1, keepdims=True)


@pytest.fixture
def searches(monkeypatch):
    """Instead of searches: what `search` was called with, in the form (images, keywords)."""
    calls = []

    def search(images, **keywords):
        calls.append((images, keywords))
        result = {"images": {"skipped": 0}, "test": None, "model": "somewhere"}
        folder = Path(keywords["output"]) / keywords["name"]
        return SimpleNamespace(result=result, folder=folder, model=NearestMean(images), model_path=folder / "model")

    monkeypatch.setattr("autotl.classifier.search", search)
    return calls


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def pictures(n=12):
    """Dark and bright images [n, 8, 8, 3], alternately, and their labels."""
    rng = np.random.default_rng(0)
    bright = np.arange(n) % 2
    return (rng.integers(0, 100, (n, 8, 8, 3)) + 150 * bright[:, None, None, None]).astype(np.uint8), bright


# scikit-learn's own checks


class RowClassifier(ImageClassifier):
    """Reads each row of a matrix as an image of one line, because scikit-learn's checks fit matrices."""

    def fit(self, X, y):
        return super().fit(self.lines(validate_data(self, X)), y)

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(self.lines(validate_data(self, X, reset=False)))

    def lines(self, X):
        return list(1 / (1 + np.exp(-np.clip(X, -50, 50)[:, None, :])))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = False
        tags.non_deterministic = False  # the stand-in for a search is deterministic: it takes further checks
        return tags


EXPECTED_FAILURES: dict[str, str] = {}
"""Names of checks that may fail, each with its reason. None has to."""


@parametrize_with_checks([RowClassifier()], expected_failed_checks=lambda estimator: EXPECTED_FAILURES)
def test_scikit_learns_checks_pass_on_matrices_that_are_read_as_images(estimator, check, searches):
    check(estimator)


def test_scikit_learns_checks_of_an_estimator_without_matrices_pass():
    """scikit-learn skips the checks that fit matrices for an estimator whose input is images."""
    with pytest.warns(SkipTestWarning, match="requires input"):
        check_estimator(ImageClassifier())


def test_the_parameters_are_the_keys_of_a_study_but_data():
    parameters = set(inspect.signature(ImageClassifier).parameters)
    assert parameters == set(StudyConfig.model_fields) - {"data"} | {"callbacks", "verbose", "device"}


# labels

LABELS = {
    "integers": [10, 2],
    "negative integers": [-1, 1],
    "floats": [1.0, 2.0],
    "booleans": [False, True],
    "text": ["10", "2"],
    "long text": ["a long name", "Z"],
}


@pytest.mark.parametrize("pair", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("container", [list, np.array, pd.Series])
def test_labels_come_back_as_they_were_in_sorted_order(pair, container, searches):
    images, bright = pictures()
    labels = np.array(pair)[bright]
    classifier = ImageClassifier().fit(images, container(labels))
    assert classifier.classes_.tolist() == sorted(pair)
    predicted = classifier.predict(images)
    assert predicted.tolist() == labels.tolist()
    assert predicted.dtype.kind == labels.dtype.kind or labels.dtype.kind == "U"  # pandas gives objects for text
    assert classifier.score(images, container(labels)) == 1


def test_numbers_as_text_are_sorted_as_scikit_learn_sorts_them(searches):
    """scikit-learn's metrics take the columns to be in this order."""
    images, _ = pictures()
    labels = np.array(["9", "10", "img2", "img10"])[np.arange(12) % 4]
    classifier = ImageClassifier().fit(images, labels)
    assert classifier.classes_.tolist() == classifier.result_["classes"] == ["10", "9", "img10", "img2"]
    probabilities = classifier.predict_proba(images)
    true = [row[classifier.classes_.tolist().index(label)] for row, label in zip(probabilities, labels, strict=True)]
    assert log_loss(labels, probabilities) == pytest.approx(-np.log(true).mean())


def test_the_columns_of_probabilities_are_in_the_order_of_classes(searches):
    images, bright = pictures()
    probabilities = ImageClassifier().fit(images, bright).predict_proba(images)
    assert probabilities.shape == (12, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == bright).all()


def test_a_column_of_labels_is_raveled_with_scikit_learns_warning(searches):
    images, bright = pictures()
    with pytest.warns(DataConversionWarning):
        classifier = ImageClassifier().fit(images, pd.DataFrame({"label": bright}))
    assert classifier.predict(images).shape == (12,)


def test_unusable_labels_are_an_error_before_the_search(searches):
    images, _ = pictures(4)
    with pytest.raises(InputError, match=r"y has 2 missing labels \(None or NaN\), at 1, 3"):
        ImageClassifier().fit(images, ["a", None, "b", float("nan")])
    assert not searches


def test_a_single_class_is_an_error(searches):
    images, _ = pictures(4)
    with pytest.raises(InputError, match=r"y has one class, .*'a'.*: a classifier needs at least two"):
        ImageClassifier().fit(images, ["a"] * 4)


def test_another_number_of_labels_than_images_is_an_error(searches):
    images, bright = pictures(4)
    with pytest.raises(InputError, match=r"inconsistent numbers of samples: \[4, 3\]"):
        ImageClassifier().fit(images, bright[:3])


# images


def test_files_are_used_where_they_are(searches, tmp_path, temporary):
    images, bright = pictures()
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    ImageClassifier().fit([str(path) for path in paths], bright)
    (listed, keywords), *_ = searches
    assert [image.path for image in listed] == paths
    assert not Path(keywords["output"]).exists()
    assert not list(temporary.iterdir())


def encoded(images):
    """The contents of image files."""
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


@pytest.mark.parametrize(
    "form",
    [
        list,
        lambda x: [Image.fromarray(i) for i in x],
        lambda x: x,
        encoded,
        lambda x: list(map(io.BytesIO, encoded(x))),
    ],
    ids=["list", "PIL", "array", "bytes", "files"],
)
def test_images_in_memory_are_in_files_during_the_search_alone(form, searches, temporary):
    images, bright = pictures()
    classifier = ImageClassifier().fit(form(images), bright)
    assert classifier.predict(form(images)).tolist() == bright.tolist()
    assert all(image.path.parts[-2:-1] == ("inputs",) for image in searches[0][0])
    assert classifier.model_.in_memory
    assert classifier.folder_ is None
    assert not list(temporary.iterdir())


def test_with_output_the_study_stays_without_copies_of_the_images(searches, tmp_path, temporary):
    images, bright = pictures(4)
    classifier = ImageClassifier(output=tmp_path / "studies", name="cells").fit(
        [*images, images[0]], [*bright, bright[0]]
    )
    assert len({image.path for image in searches[0][0]}) == 4
    assert classifier.folder_ == tmp_path / "studies" / "cells"
    assert not list(classifier.folder_.iterdir())
    assert not list(temporary.iterdir())
    assert not classifier.model_.in_memory


def test_with_output_each_fit_has_a_study_of_its_own(searches, tmp_path):
    classifier = ImageClassifier(output=tmp_path)
    folders = [classifier.fit(*pictures(4 * n)).folder_.name for n in (1, 2, 1)]
    assert folders == ["classifier", "classifier-2", "classifier-3"]


def test_a_grid_search_with_output_keeps_its_fits_apart(searches, tmp_path):
    grid = GridSearchCV(ImageClassifier(output=tmp_path), {"seed": [0, 1]}, cv=2, error_score="raise")
    assert grid.fit(*pictures()).best_score_ == 1
    assert len({keywords["name"] for _, keywords in searches}) == len(searches) == 5


def test_predictions_run_on_the_device_that_was_given(searches, tmp_path, monkeypatch):
    loaded = []

    def load(path, device):
        loaded.append((path, device))
        return "the model"

    monkeypatch.setattr("autotl.model.image_model.load", load)
    classifier = ImageClassifier(output=tmp_path, device="cpu").fit(*pictures(4))
    assert classifier.model_ == "the model"
    assert loaded == [(tmp_path / "classifier" / "model", "cpu")]
    assert "device" not in searches[0][1]


def test_a_device_that_does_not_work_is_refused_before_the_search(searches, monkeypatch):
    monkeypatch.setattr(devices, "detect", lambda: Machine(2, 2**34))
    with pytest.raises(AutotlError, match="no GPU 'cuda:0'"):
        ImageClassifier(device="cuda:0").fit(*pictures(4))
    assert searches == []


def test_a_search_that_fails_at_once_leaves_nothing(tmp_path, monkeypatch):
    def search(*args, **keywords):
        raise AutotlError("no such head")

    monkeypatch.setattr("autotl.classifier.search", search)
    with pytest.raises(AutotlError, match="no such head"):
        ImageClassifier(output=tmp_path / "studies", name="cells").fit(*pictures(4))
    assert not list((tmp_path / "studies").iterdir())


def test_invalid_parameters_are_an_error_before_anything_is_written(searches, tmp_path):
    with pytest.raises(AutotlError, match="trials = 0"):
        ImageClassifier(output=tmp_path / "studies", trials=0).fit(*pictures(4))
    assert not searches
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("frame", [pd.Series, lambda x: pd.DataFrame({"path": x}), np.array, tuple])
def test_paths_may_be_a_series_a_column_an_array_or_a_tuple(frame, searches, tmp_path):
    images, bright = pictures(4)
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    assert ImageClassifier().fit(frame(paths), bright).predict(frame(paths)).tolist() == bright.tolist()


WRONG = {
    "a path": ("a.png", "a single image"),
    "a matrix": (np.zeros((4, 9)), r"an array \[4, 9\] of float64, not of images"),
    "a frame of two columns": (pd.DataFrame({"a": ["x"] * 4, "b": ["y"] * 4}), r"an array \[4, 2\]"),
    "a number": (5, "a int, not a sequence of images"),
    "a list with a number": (["a.png", "b.png", 3, "d.png"], r"X\[2\] is a int, not a path"),
    "floats above 1": ([np.zeros((4, 4)), np.full((4, 4), 7.0), *np.zeros((2, 4, 4))], r"X\[1\]: .*from 0 to 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_an_image_is_an_error(name, searches):
    images, message = WRONG[name]
    with pytest.raises(InputError, match=message) as error:
        ImageClassifier().fit(images, [0, 1, 0, 1])
    assert isinstance(error.value, DataError)
    assert isinstance(error.value, ValueError)
    assert not searches


def test_images_that_are_left_out_are_named_in_a_warning(monkeypatch, tmp_path):
    def search(images, **keywords):
        folder = Path(keywords["output"]) / keywords["name"]
        folder.mkdir(parents=True)
        _write_skipped(folder, SimpleNamespace(skipped=[Skipped(Path("b.png"), "it is empty")]))
        return SimpleNamespace(result={"images": {"skipped": 1}}, folder=folder, model=NearestMean(images))

    monkeypatch.setattr("autotl.classifier.search", search)
    with pytest.warns(UserWarning, match=r"1 of 4 images .* left out: b\.png \(it is empty\)"):
        ImageClassifier().fit(*pictures(4))


def test_one_picture_never_has_several_answers(searches):
    """An array of one picture looks like a stack of grey ones, one for each row or channel."""
    classifier = ImageClassifier().fit(*pictures())
    picture = pictures()[0][0]
    for single in (picture, picture.transpose(2, 0, 1)):
        with pytest.raises(InputError, match=r"single image|one image with its channels first"):
            classifier.predict(single)


def test_few_grey_images_are_a_stack_for_a_classifier_that_was_fitted_with_one(searches):
    images, bright = pictures()
    grey = images.mean(3).astype(np.uint8)
    classifier = ImageClassifier().fit(grey, bright)
    assert [len(classifier.predict(grey[:n])) for n in (1, 3, 4, 12)] == [1, 3, 4, 12]


# as an estimator


def test_an_estimator_that_is_not_fitted_raises_not_fitted_error():
    with pytest.raises(NotFittedError):
        ImageClassifier().predict(["a.png"])


def test_the_search_gets_all_parameters(searches):
    callback = Callback()
    ImageClassifier(trials=3, heads=["linear"], seed=7, callbacks=(callback,)).fit(*pictures(4))
    _, keywords = searches[0]
    assert (keywords["trials"], keywords["heads"], keywords["seed"], keywords["test"]) == (3, ["linear"], 7, "none")
    assert keywords["callbacks"] == (callback,)


def test_a_clone_has_the_parameters_and_is_not_fitted(searches):
    classifier = ImageClassifier(trials=3, seed=7).fit(*pictures(4))
    copy = clone(classifier)
    assert copy.get_params() == classifier.get_params()
    assert not hasattr(copy, "classes_")


META_ESTIMATORS = {
    "calibration": lambda classifier: CalibratedClassifierCV(classifier, cv=2),
    "votes": lambda classifier: VotingClassifier([("a", classifier), ("b", classifier)], voting="soft"),
    "stacking": lambda classifier: StackingClassifier([("a", classifier)], cv=2),
    "a threshold": lambda classifier: FixedThresholdClassifier(classifier, threshold=0.5),
}


@pytest.mark.parametrize("build", META_ESTIMATORS.values(), ids=META_ESTIMATORS.keys())
def test_a_meta_estimator_fits_and_predicts(build, searches):
    images, bright = pictures()
    names = np.array(["10", "9"])[bright]
    assert build(ImageClassifier()).fit(list(images), names).score(list(images), names) == 1


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc", "neg_log_loss", "f1_macro", "balanced_accuracy"])
def test_scikit_learns_scorers_rank_right_predictions_high(scoring, searches):
    images, bright = pictures()
    names = np.array([10, 9])[bright]
    scores = cross_val_score(ImageClassifier(), list(images), names, cv=2, scoring=scoring, error_score="raise")
    assert scores.min() > -0.1 if scoring == "neg_log_loss" else scores.min() == 1


# whole searches


@pytest.fixture(scope="module")
def settings(tiny):
    """A search of one trial on a tiny network."""
    return {
        "backbones": tiny("test_resnet").name,
        "strategies": "fast_extraction",
        "heads": ["logistic_regression"],
        "engine": "torch",
        "devices": "cpu",
        "trials": 1,
    }


@pytest.fixture(scope="module")
def photographs(patches):
    """Paths of patches of three photographs, and the names of the photographs."""
    dataset, _ = patches
    return [str(path) for path in dataset.paths], [dataset.classes[label] for label in dataset.labels]


@pytest.fixture(scope="module")
def fitted(settings, photographs):
    return ImageClassifier(**settings).fit(*photographs)


@pytest.mark.slow
def test_a_fitted_classifier_predicts(fitted, photographs):
    paths, labels = photographs
    assert fitted.classes_.tolist() == ["astronaut", "chelsea", "coffee"]
    assert fitted.score(paths, labels) > 0.8
    assert fitted.result_["trials"]["complete"] == 1
    assert fitted.result_["test"] is None


@pytest.mark.slow
def test_a_pickled_classifier_predicts_the_same_in_a_new_process(fitted, photographs, tmp_path):
    paths, _ = photographs
    (tmp_path / "classifier.pickle").write_bytes(pickle.dumps((fitted, paths)))
    code = (
        "import pickle, numpy as np; classifier, paths = pickle.load(open('classifier.pickle', 'rb')); "
        "np.save('probabilities.npy', classifier.predict_proba(paths)); print(*classifier.predict(paths[:1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == fitted.predict(paths[:1]).tolist()
    np.testing.assert_allclose(np.load(tmp_path / "probabilities.npy"), fitted.predict_proba(paths), atol=1e-6)


@pytest.mark.slow
def test_a_grid_search_over_heads(settings, photographs):
    paths, labels = photographs
    halves = [(np.arange(0, 60, 2), np.arange(1, 60, 2))]
    heads = [["logistic_regression"], ["lda"]]
    search = GridSearchCV(ImageClassifier(**settings), {"heads": heads}, cv=halves, refit=False, error_score="raise")
    search.fit(paths, labels)
    assert search.best_params_["heads"] in heads
    assert search.cv_results_["mean_test_score"].min() > 0.5


@pytest.mark.slow
def test_a_pipeline_that_crops_images_searches_in_memory_and_leaves_no_temporary_files(
    settings, photographs, temporary
):
    paths, labels = photographs

    def crop(paths):
        return np.stack([np.asarray(Image.open(path))[:64, :64] for path in paths])

    pipeline = make_pipeline(FunctionTransformer(crop), ImageClassifier(**settings)).fit(paths, labels)
    assert not list(temporary.iterdir())
    assert pipeline.score(paths, labels) > 0.8
    assert not list(temporary.iterdir())


def test_an_output_that_cannot_be_written_is_an_error_in_words(searches, tmp_path):
    images, bright = pictures()
    (tmp_path / "file").touch()
    with pytest.raises(AutotlError, match=r"file.* can't be written: .*another output"):
        ImageClassifier(output=tmp_path / "file" / "studies").fit(images, bright)


def test_parameters_may_be_numbers_of_numpy():
    """As those of a grid: {"seed": numpy.arange(3)}."""
    keywords = ImageClassifier(seed=np.int64(3), trials=np.int32(2), time=np.float32(5), metric=np.str_("accuracy"))
    assert study_config("images", **keywords._search_keywords()).seed == 3


def test_an_output_that_is_no_name_is_refused_in_words(tmp_path):
    folder = _study_folder(tmp_path / "a\0b", "name", tmp_path)
    with pytest.raises(AutotlError, match="can't be written: embedded null byte"), folder:
        pass
