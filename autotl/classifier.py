"""`ImageClassifier`: a search behind scikit-learn's estimator interface."""

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from autotl.api import IN_MEMORY, search
from autotl.config import study_config
from autotl.data.dataset import LabelledImage
from autotl.data.decoding import to_rgb
from autotl.errors import DataError, InputError
from autotl.events import Callback

if TYPE_CHECKING:
    from autotl.ui.progress import Progress

__all__ = ["ImageClassifier"]

_OTHERS = ("output", "callbacks", "verbose")


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """A search as a scikit-learn classifier, for `cross_val_score`, `GridSearchCV`, `Pipeline` and the like.

    `X` is a sequence of images: paths, PIL images, or arrays [height, width] or [height, width, channels] (see
    `autotl.data.decoding.to_rgb`); an array [n, height, width] or [n, height, width, channels]; or a pandas Series, or
    a frame of one column, of paths. `y` has one label for each image, of any one type.

    Files are used where they are. Images in memory are written to files for the worker processes, in a folder that is
    removed with the search, unless `output` is given. Without `output` each `fit` is a new search, and nothing of it
    is left on disk but recorded features in the cache. With `output` the search stays in `output/name`, and a `fit`
    with the same images resumes it: leave `output` out where several fits run on different images, as in
    cross-validation.

    The parameters are those of `autotl.search`, with these differences:

    Args:
        name: name of the study ("classifier").
        output: folder that keeps the study (a temporary folder).
        test: "none" searches on all images; None holds out 20 % of them for `result_["test"]`.
        verbose: show the progress of the search.

    Attributes:
        classes_: the labels, sorted, [num_classes].
        model_: the ImageModel; its own classes are the labels as text.
        result_: what `result.json` holds, with `leaderboard` and `members`.
        folder_: the study's folder; None without `output`.

    The tests don't run what trains networks for minutes:

    >>> classifier = ImageClassifier(time="5m", backbones=["resnet18"])
    >>> classifier.fit(["a.jpg", "b.jpg", ...], ["cat", "dog", ...])  # doctest: +SKIP
    >>> classifier.predict(["new.jpg"])  # doctest: +SKIP
    array(['cat'], dtype='<U3')
    """

    def __init__(
        self,
        *,
        name: str | None = None,
        output: str | os.PathLike[str] | None = None,
        time: str | float | None = None,
        trials: int | None = None,
        devices: str | None = None,
        backbones: str | Sequence[str] | None = None,
        strategies: str | Sequence[str] | None = None,
        heads: str | Sequence[str] | None = None,
        augmentations: str | Sequence[str] | None = None,
        losses: str | Sequence[str] | None = None,
        levels: str | Sequence[str] | None = None,
        metric: str | None = None,
        seed: int | None = None,
        test: str | None = "none",
        ensemble: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_size: str | int | None = None,
        trial_timeout: str | float | None = None,
        engine: str | None = None,
        offline: bool | None = None,
        strict_images: bool | None = None,
        without_plugins: Sequence[str] | None = None,
        strict_plugins: bool | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: bool = False,
    ):
        self.name = name
        self.output = output
        self.time = time
        self.trials = trials
        self.devices = devices
        self.backbones = backbones
        self.strategies = strategies
        self.heads = heads
        self.augmentations = augmentations
        self.losses = losses
        self.levels = levels
        self.metric = metric
        self.seed = seed
        self.test = test
        self.ensemble = ensemble
        self.cache = cache
        self.cache_size = cache_size
        self.trial_timeout = trial_timeout
        self.engine = engine
        self.offline = offline
        self.strict_images = strict_images
        self.without_plugins = without_plugins
        self.strict_plugins = strict_plugins
        self.callbacks = callbacks
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "ImageClassifier":
        """Search for the best classifier of labelled images.

        Images that can't be decoded are left out with a warning, unless `strict_images` is True.

        Raises:
            InputError: X are not images, y are not labels of at least two classes, or their lengths differ.
            AutotlError: as `autotl.search`.
        """
        images, labels = _as_images(X), _as_labels(y)
        check_consistent_length(images, labels)
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y has one class, {classes[0]!r}: a classifier needs at least two.")
        names = [str(label) for label in classes]
        keywords = self._search_keywords()
        with _scratch_folder() if self.output is None else nullcontext(self.output) as output:
            folder = study_config(IN_MEMORY, **keywords, output=output).folder  # raises AutotlError for invalid values
            try:
                labelled = _in_files(images, [names[i] for i in indices], folder / "inputs")
                result = search(
                    labelled,
                    **keywords,
                    output=output,
                    progress=_progress(verbose=self.verbose),
                    callbacks=self.callbacks,
                )
            except BaseException:
                _remove_unless_study(folder)
                raise
            model = result.model
            if self.output is None:
                model.read_into_memory()
        num_skipped = result.result["images"]["skipped"]
        if num_skipped:
            warnings.warn(f"{num_skipped} of {len(images)} images can't be decoded and were left out.", stacklevel=2)
        self.classes_ = classes
        self.model_ = model
        self.result_ = {k: v for k, v in result.result.items() if k != "model"}
        self.folder_ = None if self.output is None else result.folder
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each image, [n].

        Raises:
            NotFittedError: `fit` hasn't been called.
            InputError: X are not images.
            UndecodableImage: an image can't be read.
        """
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities, float64 [n, num_classes], columns in the order of `classes_`. Raises as `predict`."""
        check_is_fitted(self)
        columns = [self.model_.classes.index(str(label)) for label in self.classes_]
        return self.model_.predict_proba(_as_images(X))[:, columns]

    def _search_keywords(self) -> dict[str, Any]:
        """The parameters that are keys of a StudyConfig, without `output`."""
        parameters = {k: v for k, v in self.get_params(deep=False).items() if k not in _OTHERS}
        return parameters | {"name": self.name or "classifier"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # how many trials fit into a time budget depends on the machine
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    # a file that can't be removed must not cost the result of a search
    return tempfile.TemporaryDirectory(prefix="autotl-", ignore_cleanup_errors=True)


def _progress(*, verbose: bool) -> "Progress":
    from autotl.ui.progress import Progress
    from autotl.ui.reporters import choose_progress, default_progress

    progress = default_progress() if verbose else Progress()
    return choose_progress() if verbose and type(progress) is Progress else progress


def _as_images(X: Any) -> list[Any]:
    """A list of paths, PIL images and arrays. Raises InputError."""
    if isinstance(X, str | os.PathLike | Image.Image):
        raise InputError("X is a single image: pass a list of images.")
    images = _rows_of(np.asarray(X)) if hasattr(X, "__array__") else X
    if not isinstance(images, Iterable):
        raise InputError(f"X is a {type(X).__name__}, not a sequence of images.")
    images = list(images)
    for number, image in enumerate(images):
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray) and not hasattr(image, "__array__"):
            raise InputError(f"X[{number}] is a {type(image).__name__}, not a path, a PIL image or an array.")
    return images


def _rows_of(array: np.ndarray) -> list[Any]:
    if array.dtype.kind in "OUT":  # paths or images, one for each row
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim == 1:
            return list(array.tolist())
    elif array.ndim in (3, 4):
        return list(array)
    raise InputError(
        f"X is an array {list(array.shape)} of {array.dtype}, not of images: give [n, height, width], "
        "[n, height, width, channels], or one column of paths."
    )


def _as_labels(y: Any) -> np.ndarray:
    """One label for each image, [n], none of them missing. Raises InputError, or ValueError as scikit-learn does."""
    if y is None:
        raise InputError("ImageClassifier requires y to be passed, but the target y is None.")
    labels: np.ndarray = column_or_1d(y, warn=True)
    missing = [i for i, label in enumerate(labels) if _is_missing(label)]
    if missing:
        positions = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise InputError(f"y has {len(missing)} missing labels (None or NaN), at {positions}: remove these images.")
    check_classification_targets(labels)
    return labels


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)  # NaN and NaT differ from themselves
    except TypeError:  # pandas.NA has no truth value
        return True


def _in_files(images: Sequence[Any], labels: Sequence[str], folder: Path) -> list[LabelledImage]:
    """The labelled images for a search; those in memory are written to `folder`, named by a hash of their pixels."""
    labelled = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if isinstance(image, str | os.PathLike):
            path = Path(image)
        else:
            try:
                picture = to_rgb(image)
            except DataError as error:
                raise InputError(f"X[{number}]: {error}") from error
            content = f"{picture.size}".encode() + picture.tobytes()
            path = folder / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.png"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(path, compress_level=1)
        labelled.append(LabelledImage(path, label))
    return labelled


def _remove_unless_study(folder: Path) -> None:
    """Remove the written images of a search that failed before its study existed."""
    if not (folder / "journal.log").exists():
        shutil.rmtree(folder / "inputs", ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()
