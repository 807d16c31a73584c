"""`ImageClassifier`: a search behind scikit-learn's estimator interface."""

import csv
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from autotl.api import search
from autotl.atomic_io import as_disk_full
from autotl.config import study_config
from autotl.data.dataset import LabelledImage, join_names
from autotl.data.decoding import to_rgb
from autotl.data.digests import digest_bytes
from autotl.data.inputs import IN_MEMORY, as_images, as_labels
from autotl.errors import AutotlError, DataError, InputError
from autotl.events import Callback
from autotl.folders import expand_home
from autotl.model.device import resolve_device

if TYPE_CHECKING:
    from autotl.ui.progress import Progress

__all__ = ["ImageClassifier"]

_OTHERS = ("output", "callbacks", "verbose", "device")


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """A search as a scikit-learn classifier, for `cross_val_score`, `GridSearchCV`, `Pipeline` and the like.

    `X` is a sequence of images: paths, PIL images, contents of files (bytes or open files), arrays or tensors (see
    `autotl.data.decoding.to_rgb`); or an array or tensor [n, height, width], [n, height, width, channels] or
    [n, channels, height, width]; or a pandas Series, or a
    frame of one column, of paths. `y` has one label for each image, of any one type that scikit-learn's classifiers
    take.

    Files are used where they are. Images in memory are in temporary files during the search, for the worker processes.
    Each `fit` is a new search. Without `output` nothing of it is left on disk but recorded features in the cache. With
    `output` the first study is `output/name`, and further ones are `output/name-2`, `output/name-3` and so on, so that
    no `fit` meets another one's study; `autotl.search` resumes one.

    The parameters are those of `autotl.search`, with these differences:

    Args:
        name: name of the study ("classifier").
        output: folder that keeps the study (a temporary folder).
        test: "none" searches on all images; None holds out 20 % of them for `result_["test"]`.
        verbose: show the progress of the search.
        device: where `predict` and `predict_proba` run: "auto" (the first accelerator that works, else the CPU), "cpu",
            "mps", "cuda", "cuda:N" or "xpu".

    Attributes:
        classes_: the labels, sorted, [num_classes].
        model_: the ImageModel. Its own classes are the labels as text, numbers by value and names in natural order.
        result_: what `result.json` holds, with `leaderboard` and `members`; its `classes` in the order of `classes_`.
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
        force: bool | None = None,
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
        joined: int | None = None,
        cache: str | os.PathLike[str] | None = None,
        cache_size: str | int | None = None,
        trial_timeout: str | float | None = None,
        max_latency: str | float | None = None,
        max_size: str | int | None = None,
        max_parameters: str | int | None = None,
        engine: str | None = None,
        offline: bool | None = None,
        download: Literal["never", "ask", "always"] | None = None,
        strict_images: bool | None = None,
        align: bool | None = None,
        pool: str | None = None,
        storage: str | None = None,
        without_plugins: Sequence[str] | None = None,
        strict_plugins: bool | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: bool = False,
        device: str = "auto",
    ):
        self.name = name
        self.output = output
        self.time = time
        self.trials = trials
        self.devices = devices
        self.force = force
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
        self.joined = joined
        self.cache = cache
        self.cache_size = cache_size
        self.trial_timeout = trial_timeout
        self.max_latency = max_latency
        self.max_size = max_size
        self.max_parameters = max_parameters
        self.engine = engine
        self.offline = offline
        self.download = download
        self.strict_images = strict_images
        self.align = align
        self.pool = pool
        self.storage = storage
        self.without_plugins = without_plugins
        self.strict_plugins = strict_plugins
        self.callbacks = callbacks
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any) -> "ImageClassifier":
        """Search for the best classifier of labelled images.

        Images that can't be decoded are left out with a warning, unless `strict_images` is True.

        Raises:
            InputError: X are not images, y are not labels of at least two classes, or their lengths differ.
            AutotlError: as `autotl.search`.
        """
        from autotl.model.image_model import load  # imports torch

        images, labels = as_images(X, "X", single=False, stacked=True), as_labels(y)
        try:
            check_consistent_length(images, labels)
        except ValueError as error:
            raise InputError(f"X and y don't fit together: {error}") from error
        if not images:
            raise InputError("X has no images: a classifier needs at least two classes of them.")
        classes, indices = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"y has one class, {classes[0]!r}: a classifier needs at least two.")
        names = [str(label) for label in classes]
        keywords = self._search_keywords()
        study_config(IN_MEMORY, **keywords, output=self.output)  # raises AutotlError for invalid values
        if self.device != "auto":
            resolve_device(self.device)  # raises AutotlError for a device that doesn't work, before the search
        with _scratch_folder() as scratch, _study_folder(self.output, keywords["name"], scratch) as folder:
            result = search(
                _in_files(images, [names[i] for i in indices], scratch / "inputs"),
                **keywords | {"name": folder.name, "output": folder.parent},
                progress=_progress(verbose=self.verbose),
                callbacks=self.callbacks,
            )
            model = result.model if self.device == "auto" else load(result.model_path, self.device)
            if self.output is None:
                model.read_into_memory()
            skipped = _skipped(folder)
        if skipped:
            warnings.warn(
                f"{len(skipped)} of {len(images)} images can't be decoded and were left out: {join_names(skipped)}.",
                stacklevel=2,
            )
        self.classes_ = classes
        self.model_ = model
        self.result_ = {k: v for k, v in result.result.items() if k != "model"} | {"classes": names}
        self.folder_ = None if self.output is None else result.folder
        self._stacked = getattr(X, "ndim", 0) == 3
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
        images = as_images(X, "X", single=False, stacked=self._stacked)
        return self.model_.predict_proba(images)[:, columns]

    def _search_keywords(self) -> dict[str, Any]:
        """The parameters that are keys of a StudyConfig, without `output`."""
        given = {k: v for k, v in self.get_params(deep=False).items() if k not in _OTHERS}
        # a grid of parameters is often an array
        parameters = {k: v.item() if isinstance(v, np.generic) else v for k, v in given.items()}
        return parameters | {"name": self.name or "classifier"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # how many trials fit into a time budget depends on the machine
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    # a file that can't be removed must not cost the result of a search
    with tempfile.TemporaryDirectory(prefix="autotl-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _study_folder(output: str | os.PathLike[str] | None, name: str, scratch: Path) -> Iterator[Path]:
    """An empty folder of this search alone: `name` in `scratch`, or the first of `name`, `name-2`, … in `output` that
    doesn't exist. It is removed again if the search fails before its study exists."""
    if output is None:
        yield scratch / name
        return
    output = expand_home(Path(output)).absolute()
    try:
        folder = _new_folder(output, name)
    except (OSError, ValueError) as error:  # ValueError: a NUL character, which no name has
        reason = getattr(error, "strerror", None) or error
        raise as_disk_full(error, output) or AutotlError(
            f"{output} can't be written: {reason}. Give ImageClassifier another output."
        ) from error
    try:
        yield folder
    except BaseException:
        from autotl.study.kept_database import study_exists

        if not study_exists(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _new_folder(output: Path, name: str) -> Path:
    """Make the first of `name`, `name-2`, … in `output` that doesn't exist. Raises OSError."""
    output.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        folder = output / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):  # another fit may have just taken the name
            folder.mkdir()
            break
    return folder


def _progress(*, verbose: bool) -> "Progress":
    from autotl.ui.progress import Progress
    from autotl.ui.reporters import choose_progress, default_progress

    progress = default_progress() if verbose else Progress()
    return choose_progress() if verbose and type(progress) is Progress else progress


def _in_files(images: Sequence[Any], labels: Sequence[str], folder: Path) -> list[LabelledImage]:
    """The labelled images for a search; those in memory are written to `folder`, named by a hash of their pixels."""
    labelled = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        if isinstance(image, str | os.PathLike):
            path = Path(image)
        elif isinstance(image, bytes):
            path = folder / f"X-{number}.image"  # as it is: formats are told by content
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        else:
            try:
                picture = to_rgb(image)
            except DataError as error:
                raise InputError(f"X[{number}]: {error}") from error
            content = f"{picture.size}".encode() + picture.tobytes()
            path = folder / f"{digest_bytes(content)}.png"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                picture.save(path, compress_level=1)
        labelled.append(LabelledImage(path, label))
    return labelled


def _skipped(folder: Path) -> list[str]:
    """The files that the search in `folder` left out, each with the reason."""
    file = folder / "skipped.csv"
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
        return [f"{row['path']} ({row['reason']})" for row in csv.DictReader(rows)]
