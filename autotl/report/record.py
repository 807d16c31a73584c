"""Everything that a report's sections read: a search's trials, images, predictions and recorded features.

What is dear to compute is computed once, when a section first asks for it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.alignment.card import Alignment
from autotl.alignment.outcome import read_alignment
from autotl.alignment.sample import stratified_order
from autotl.alignment.scores import loo_neighbours
from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split, connected_units
from autotl.metrics import Metric
from autotl.model.doubt import unit_length
from autotl.recipe import JOIN
from autotl.registry import Registry
from autotl.report.held_out import HeldOut
from autotl.report.recorded import RecordedFeatures, nearest
from autotl.report.thumbnails import Thumbnails
from autotl.study.fold_file import read_fold_file
from autotl.study.study import TrialAttribute

__all__ = ["KNN_NEIGHBOURS", "SearchRecord"]

KNN_NEIGHBOURS = 5
MAX_BASE = 8_000
"""Training images that neighbours are looked up among: 40 MB of features."""
MAX_QUERIES = 1_000
"""Images that a k-NN is scored on. With MAX_BASE half a second of one core."""
MAX_DEPTH_QUERIES = 512
"""The same for each depth of each backbone."""


@dataclass
class SearchRecord:
    """What is known about a search, finished or running."""

    folder: Path
    """The study's folder."""
    config: StudyConfig
    registry: Registry
    study: optuna.Study
    result: Mapping[str, Any] | None = None
    """What `result.json` holds, with the `members` of the model; None while there is no model."""
    dataset: ImageDataset | None = None
    """None where the images are gone."""
    split: Split | None = None
    tested: HeldOut | None = None
    """The model's predictions of test images."""
    deadline: Deadline = field(default_factory=Deadline)
    """When the report has to be done."""
    running: bool = False
    """Whether the search goes on."""
    cache: Path | None = None
    """The folder of recorded features; None for that of the configuration."""
    heat_maps: Callable[[Sequence[Path], Sequence[int]], Sequence[np.ndarray | None]] | None = None
    """Where the model looked for a class: takes image files and a class index for each; returns for each a map in
    [0, 1], float32 [height, width] over the whole image, or None. None where no heat maps can be made."""

    @property
    def metric(self) -> Metric:
        """The score that the search optimised."""
        return self.registry.metric(self.config.metric)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        if self.dataset is not None:
            return self.dataset.classes
        return tuple(map(str, self.study.user_attrs.get("choices", {}).get("classes", ())))

    # -- trials

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        """The complete trials, by number."""
        return [t for t in self.trials if t.state == TrialState.COMPLETE and TrialAttribute.RECIPE in t.user_attrs]

    @property
    def best(self) -> FrozenTrial | None:
        """The complete trial with the best validation score."""
        if not self.complete:
            return None
        sign = 1 if self.metric.greater_is_better else -1
        return max(self.complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))

    @cached_property
    def weights(self) -> dict[int, float]:
        """The weight of each trial in the model; where there is none, the best trial whose predictions are kept."""
        members = (self.result or {}).get("members")
        if members:
            return {int(member["trial"]): float(member["weight"]) for member in members}
        kept = [t for t in self.complete if t.number in self.trial_probabilities]
        sign = 1 if self.metric.greater_is_better else -1
        best = max(kept, key=lambda trial: sign * (trial.value or 0.0), default=None)
        return {best.number: 1.0} if best else {}

    @cached_property
    def out_of_fold(self) -> dict[int, np.ndarray]:
        """Probabilities of the development images, [n, num_classes], of the trials whose model was kept; NaN for images
        that a trial hasn't predicted out of fold."""
        if self.split is None:
            return {}
        of_fold, found = self.split.development_folds, {}
        for trial in self.complete:
            try:
                folder = self.folder / "trials" / f"{trial.number:05}"
                array = read_fold_file(folder, (len(of_fold), len(self.classes)))
            except (OSError, ValueError):
                continue
            if np.isfinite(array[of_fold == 0]).all():
                found[trial.number] = array.astype(np.float64)
        return found

    @cached_property
    def trial_probabilities(self) -> dict[int, np.ndarray]:
        """The same of the validation images, which every trial has predicted."""
        if self.split is None:
            return {}
        of_fold = self.split.development_folds
        return {number: rows[of_fold == 0] for number, rows in self.out_of_fold.items()}

    # -- predictions

    @cached_property
    def validated(self) -> HeldOut | None:
        """The predictions of the validation images by the model's members, before they were refitted."""
        weights = {number: w for number, w in self.weights.items() if number in self.trial_probabilities}
        if self.split is None or not weights or not sum(weights.values()):
            return None
        total = sum(w * self.trial_probabilities[number] for number, w in weights.items())
        return HeldOut(self.split.validation, np.asarray(total) / sum(weights.values()))

    @cached_property
    def cross_validated(self) -> HeldOut | None:
        """The same of all development images that every member has predicted out of fold."""
        weights = {number: w for number, w in self.weights.items() if number in self.out_of_fold}
        if self.split is None or not weights or not sum(weights.values()):
            return None
        total = np.asarray(sum(w * self.out_of_fold[number] for number, w in weights.items())) / sum(weights.values())
        rows = np.isfinite(total).all(1)
        return HeldOut(self.split.development[rows], total[rows])

    @property
    def held_out(self) -> HeldOut | None:
        """Predictions of images that were not trained on: the test images, else the validation images."""
        return self.tested or self.validated

    @property
    def held_out_name(self) -> str:
        return "test" if self.tested else "validation"

    def labels(self, held_out: HeldOut) -> np.ndarray:
        """The class indices of the images, [n]."""
        return np.asarray(self.dataset.labels[held_out.images]) if self.dataset else np.empty(0, np.int64)

    # -- features

    @cached_property
    def alignment(self) -> Alignment | None:
        """How near the images are to what each backbone knows; None where the search hasn't measured it."""
        return read_alignment(self.folder)

    @cached_property
    def recorded(self) -> RecordedFeatures:
        return RecordedFeatures(self.cache or self.config.cache)

    @cached_property
    def feature_backbone(self) -> tuple[str, str]:
        """Name and digest of the backbone whose features images are compared by; ("", "") where there is none: that
        which the test images were predicted with, else that of the best trial."""
        sign = -1 if self.metric.greater_is_better else 1
        ranked = sorted(self.complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))
        joined = (t.user_attrs[TrialAttribute.RECIPE]["backbone"] for t in ranked)
        names = dict.fromkeys(name for parts in joined for name in parts.split(JOIN))
        digests = {name: digest for name in names if (digest := self._digest(name))}
        if self.tested is not None and self.tested.backbone:
            for name, digest in digests.items():
                if digest == self.tested.backbone:
                    return name, digest
        return next(iter(digests.items()), ("", ""))

    def _digest(self, backbone: str) -> str:
        try:
            return self.registry.backbone(backbone).digest
        except Exception:  # a plugin that is gone, weights that are gone
            return ""

    @cached_property
    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and validation images with recorded features, at most MAX_BASE: their indices, and their features
        of length 1."""
        none = np.empty(0, np.int64), np.empty((0, 0), np.float32)
        _, digest = self.feature_backbone
        if self.split is None or self.dataset is None or not digest:
            return none
        images = np.concatenate([self.split.train, self.split.validation])
        if len(images) > MAX_BASE:
            images = np.sort(np.random.default_rng(0).choice(images, MAX_BASE, replace=False))
        found, features = self.recorded.outputs(digest, [self.dataset.digests[i] for i in images])
        return (images[found], unit_length(features)) if len(found) else none

    @property
    def is_sampled(self) -> bool:
        """Whether `known` holds a sample of the images only."""
        return self.split is not None and len(self.split.train) + len(self.split.validation) > MAX_BASE

    @cached_property
    def features_of_test(self) -> np.ndarray:
        """Features of length 1 of the first predicted test images; empty where none are kept."""
        tested, (_, digest) = self.tested, self.feature_backbone
        known = self.known[1]
        if tested is None or tested.features is None or tested.backbone != digest or not len(known):
            return np.empty((0, 0), np.float32)
        return (
            unit_length(tested.features) if tested.features.shape[1] == known.shape[1] else np.empty((0, 0), np.float32)
        )

    def similar(self, images: Sequence[int], k: int = 3) -> dict[int, list[tuple[int, float]]]:
        """The most similar training images of some images, with cosines; an image isn't among its own."""
        assert self.split is not None
        known, features = self.known
        training = np.isin(known, self.split.train)
        if not training.any():
            return {}
        rows = {int(image): features[i] for i, image in enumerate(known)}
        if self.tested is not None:
            rows |= {int(i): f for i, f in zip(self.tested.images, self.features_of_test, strict=False)}
        asked = [i for i in images if i in rows]
        if not asked:
            return {}
        base = known[training]
        numbers, cosines = nearest(np.stack([rows[i] for i in asked]), features[training], k + 1)
        return {
            image: [(int(base[n]), float(c)) for n, c in zip(ns, cs, strict=True) if base[n] != image][:k]
            for image, ns, cs in zip(asked, numbers, cosines, strict=True)
        }

    @cached_property
    def knn(self) -> HeldOut | None:
        """Predictions of `held_out` images by a vote of the nearest training images in recorded features; None where
        features are missing. On test images validation images vote, too, since the model was refitted on both."""
        if self.dataset is None or self.split is None or self.held_out is None or self.deadline.passed():
            return None
        if not len(self.known[0]):
            return None
        known, features = self.known
        if self.tested is not None:
            queries = self.features_of_test[:MAX_QUERIES]
            images, base = self.tested.images[: len(queries)], np.ones(len(known), bool)
        else:
            chosen = np.flatnonzero(np.isin(known, self.split.validation))[:MAX_QUERIES]
            queries, images, base = features[chosen], known[chosen], np.isin(known, self.split.train)
        if not len(queries) or not base.any():
            return None
        numbers, cosines = nearest(queries, features[base], KNN_NEIGHBOURS)
        return HeldOut(images, self._votes(self.dataset.labels[known[base]][numbers], cosines))

    def _votes(self, labels: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Shares of votes [n, num_classes], each vote with the weight of its cosine."""
        votes = np.zeros((len(labels), len(self.classes)))
        np.add.at(votes, (np.arange(len(labels))[:, None], labels), np.maximum(cosines, 1e-9))
        return votes / votes.sum(1, keepdims=True)

    def knn_of(self, backbone: str) -> tuple[float, int]:
        """Accuracy of a k-NN on another backbone's recorded features, each image left out in turn, and the number of
        images; (nan, 0) where features are missing."""
        if self.dataset is None or self.split is None or self.deadline.passed():
            return math.nan, 0
        images = np.concatenate([self.split.train, self.split.validation])
        if len(images) > MAX_QUERIES:
            images = np.random.default_rng(0).choice(images, MAX_QUERIES, replace=False)
        found, features = self.recorded.outputs(self._digest(backbone), [self.dataset.digests[i] for i in images])
        if len(found) < 2:
            return math.nan, 0
        labels, rows = self.dataset.labels[images[found]], unit_length(features)
        numbers, cosines = nearest(rows, rows, KNN_NEIGHBOURS + 1)
        others = numbers != np.arange(len(rows))[:, None]
        votes = self._votes(labels[numbers], np.where(others, cosines, 0.0))
        return float((votes.argmax(1) == labels).mean()), len(rows)

    def accuracy_by_depth(self, backbone: str) -> tuple[int, list[float]]:
        """The number of images, and for each recorded level, from input to output, the accuracy of a k-NN on its
        features, each image left out in turn; no levels where they aren't recorded."""
        if self.dataset is None or self.split is None or self.deadline.passed():
            return 0, []
        images = np.concatenate([self.split.train, self.split.validation])
        images = images[stratified_order(self.dataset.labels[images])[:MAX_DEPTH_QUERIES]]
        digests = [self.dataset.digests[i] for i in images]
        found, levels = self.recorded.by_depth(self._digest(backbone), digests)
        if len(found) < 2:
            return 0, []
        labels, units = self.dataset.labels[images[found]], self.units[images[found]]
        return len(found), [float((loo_neighbours(rows, labels, units) == labels).mean()) for rows in levels]

    @cached_property
    def units(self) -> np.ndarray:
        """The unit of each image: images of one unit, copies for example, don't vote for each other."""
        assert self.dataset is not None
        return connected_units(self.dataset)

    # -- pictures

    @cached_property
    def thumbnails(self) -> Thumbnails:
        return Thumbnails(self.dataset.paths if self.dataset else (), self.deadline)

    def name_of(self, image: int) -> str:
        """The file of an image, with its folder."""
        assert self.dataset is not None
        path = self.dataset.paths[image]
        return f"{path.parent.name}/{path.name}"
