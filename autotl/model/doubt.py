"""What a model doesn't know: risk that it holds by abstaining, images unlike any training image, and prediction sets.

All three are calibrated on images that the model wasn't fitted on. What they need is saved with the model, in one file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.atomic_io import write_atomically
from autotl.data.augmentation import ORIGINAL, View
from autotl.errors import AutotlError
from autotl.model.files import require_sound

if TYPE_CHECKING:
    from autotl.model.image_model import ImageModel
    from autotl.model.network import SharedNetwork

__all__ = [
    "NEIGHBOURS",
    "RISK_ASSURANCE",
    "STATED_RISKS",
    "Decision",
    "Doubt",
    "Doubts",
    "Familiar",
    "decide",
    "fit_familiar",
    "load_doubt",
    "save_doubt",
    "unit_length",
]

FILE = "doubt.safetensors"
MAX_SAMPLES = 1_000
"""Training images that are kept to compare with: 2.6 MB of 1,280 features."""
NEIGHBOURS = 3
"""The distance of an image is that of its third nearest training image, so that one odd image opens no door."""

RANGES = {
    **{"confidence": (0, 1.001), "of_label": (0, 1.001), "correct": (0, 1)},
    **{"samples": (-1.001, 1.001), "distances": (0, 2.001)},
}
"""The least and the largest value of each array, with room for rounding: probabilities, and points of unit length."""
STATED_RISKS, STATED_COVERAGES, STATED_ALARMS = (0.01, 0.02, 0.05, 0.1), (0.8, 0.9, 0.95, 0.99), (0.01, 0.02, 0.05)
"""What an export states thresholds for."""
ASSURANCE, RISK_ASSURANCE = 0.9, 0.8
"""Probability with which a share of false alarms, and a risk, hold over the choice of the images they are judged by.
With 0.9 a risk of 1 % answers next to nothing below some thousand held-out images."""


@dataclass(frozen=True, eq=False)
class Familiar:
    """Training images that others are compared with, by the distance of their features at unit length (Sun et al.,
    Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022)."""

    samples: np.ndarray
    """float16 [m, num_features], of unit length."""
    distances: np.ndarray
    """float32 [units], ascending: how far training images are from the others, each left out with all that belongs to
    it. One image of each unit: those of one are no independent measurements."""

    def likeness(self, features: np.ndarray) -> np.ndarray:
        """How usual images are: the share of training images that are as far from the others or farther, [n].

        Args:
            features: [n, num_features], the output of the network.
        """
        far = _distances(unit_length(features), self.samples.astype(np.float32))
        as_far = len(self.distances) - np.searchsorted(self.distances, far)
        return np.asarray((1 + as_far) / (1 + len(self.distances)))

    def least_likeness(self, false_alarms: float) -> float:
        """The likeness below which an image is unknown: with a probability of 90 % over the choice of the training
        images, at most this share of all images like them is below (Vovk, Conditional Validity of Inductive Conformal
        Predictors, ACML 2012). Where the training images are too few for that, it holds on average."""
        from scipy.special import betainc

        n = len(self.distances)
        farthest = np.arange(1, n + 1)
        exceeds = 1 - betainc(farthest, n + 1 - farthest, false_alarms)
        holds = farthest[exceeds <= 1 - ASSURANCE]
        number = holds[-1] if len(holds) else 1 / (n + 1) <= false_alarms
        return float((number + 0.5) / (n + 1))


def fit_familiar(features: np.ndarray, units: np.ndarray, seed: int = 0) -> Familiar:
    """What is needed to tell how far an image is from the training images.

    Args:
        features: of the training images, [n, num_features].
        units: [n]; images of the same unit (a group, near-duplicates) aren't compared with each other.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(features))[:MAX_SAMPLES])
    samples = unit_length(features[chosen]).astype(np.float16)
    rows = samples.astype(np.float32)
    own = np.asarray(units)[chosen]
    first_of_unit = np.unique(own, return_index=True)[1]
    distances = np.sort(_distances(rows, rows, own)[first_of_unit])
    return Familiar(samples, distances[np.isfinite(distances)].astype(np.float32))


def unit_length(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32, so that their products are cosines."""
    rows = np.asarray(features, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _distances(rows: np.ndarray, samples: np.ndarray, units: np.ndarray | None = None) -> np.ndarray:
    """The distance to the nearest samples, [n]; with `units`, of rows and samples alike, only to those of others."""
    squares = (rows**2).sum(1)[:, None] + (samples**2).sum(1) - 2 * rows @ samples.T
    if units is not None:
        squares[units[:, None] == units] = np.inf
    number = min(NEIGHBOURS, len(samples)) - 1
    return np.asarray(np.sqrt(np.maximum(np.partition(squares, number, axis=1)[:, number], 0)))


@dataclass(frozen=True, eq=False)
class Doubt:
    """What a model answered to images that it wasn't fitted on, and its training images."""

    confidence: np.ndarray
    """float32 [n]: the probability of the predicted class."""
    of_label: np.ndarray
    """float32 [n]: the probability of the true class."""
    correct: np.ndarray
    """uint8 [n]: 1 where the predicted class is the true one."""
    familiar: Familiar | None = None
    """None where no member has a frozen network."""
    network: str = ""
    """Digest of the frozen backbone whose output `familiar` compares."""

    @classmethod
    def of(
        cls, probabilities: np.ndarray, labels: np.ndarray, familiar: Familiar | None = None, network: str = ""
    ) -> "Doubt":
        """From probabilities of held-out images, [n, num_classes]; rows with NaN, which no fold predicted, are left
        out."""
        usable = np.isfinite(probabilities).all(1)
        rows, truth = probabilities[usable], labels[usable]
        of_label = rows[np.arange(len(rows)), truth]
        correct = rows.argmax(1) == truth
        return cls(
            rows.max(1).astype(np.float32), of_label.astype(np.float32), correct.astype(np.uint8), familiar, network
        )

    @cached_property
    def _errors(self) -> tuple[np.ndarray, np.ndarray]:
        """The confidences, highest first, and the number of errors down to each."""
        order = np.argsort(-self.confidence, kind="stable")
        return self.confidence[order], np.cumsum(1 - self.correct[order].astype(np.int64))

    def confidence_for(self, risk: float) -> float:
        """The least probability of an answer, such that at most `risk` of the answers are wrong: with 80 % confidence,
        judged by the errors among the held-out images that reach it (Clopper and Pearson, Biometrika 1934; Geifman and
        El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017). The share of errors itself would be
        too low, since the probability is chosen for it. Infinite where there is none: held-out images are too few or
        too hard."""
        return _confidence_for(self, risk)

    def answered_share(self, risk: float) -> float:
        """The share of held-out images that are answered at `risk`."""
        return float((self.confidence >= self.confidence_for(risk)).mean()) if len(self.confidence) else 0.0

    def thresholds(self) -> dict[str, dict[str, float | None]]:
        """For programs without autotl, by what is asked for: the least probability of an answer, the least one of a
        class in a prediction set, and the least likeness. None where no image is answered."""
        least = {f"{risk:.0%}": self.confidence_for(risk) for risk in STATED_RISKS}
        found: dict[str, dict[str, float | None]] = {
            "abstain_at": {name: value if math.isfinite(value) else None for name, value in least.items()},
            "coverage": {f"{share:.0%}": self.probability_for(share) for share in STATED_COVERAGES},
        }
        if self.familiar is not None:
            found["unknown_at"] = {f"{share:.0%}": self.familiar.least_likeness(share) for share in STATED_ALARMS}
        return found

    def probability_for(self, coverage: float) -> float:
        """The least probability of a class in a prediction set that holds the true class of a share `coverage` of all
        images (split conformal prediction: Sadinle, Lei and Wasserman, Least Ambiguous Set-Valued Classifiers, JASA
        2019)."""
        n = len(self.of_label)
        left_out = n - math.ceil((n + 1) * coverage)
        return float(np.sort(self.of_label)[left_out]) if left_out >= 0 else 0.0


@lru_cache(maxsize=8)
def _confidence_for(doubt: Doubt, risk: float) -> float:
    from scipy.special import betainc

    confidence, errors = doubt._errors
    answered = np.arange(1, len(confidence) + 1)
    last_of_its_value = np.append(confidence[1:] < confidence[:-1], True) if len(confidence) else np.empty(0, bool)
    # the probability of more errors than these among as many answers, each of which is wrong with probability `risk`
    more = betainc(errors + 1, np.maximum(answered - errors, 1e-9), risk)
    holds = np.flatnonzero((more >= RISK_ASSURANCE) & (errors < answered) & last_of_its_value)
    return float(confidence[holds[-1]]) if len(holds) else math.inf


@dataclass(frozen=True)
class Decision:
    """What a model answers to an image if it may say that it doesn't know."""

    label: str
    """The most probable class."""
    probability: float
    answer: str
    """`label`; "unsure" where the probability is too low for the risk that was asked for; "unknown" where the image is
    unlike any training image."""
    likeness: float | None = None
    """Share of the training images that are as far from the other training images or farther. None where it isn't
    known."""
    classes: tuple[str, ...] = ()
    """The prediction set, most probable first; empty where no coverage was asked for."""


def decide(
    doubt: Doubt,
    names: Sequence[str],
    probabilities: np.ndarray,
    likeness: float | None,
    *,
    abstain_at: float | None = None,
    unknown_at: float | None = None,
    coverage: float | None = None,
) -> Decision:
    """What to answer to one image.

    Args:
        names: of the classes.
        probabilities: [num_classes].
        likeness: from `Familiar.likeness`.
        abstain_at: the risk to hold, such as 0.01.
        unknown_at: the share of images like the training images that may be called unknown, such as 0.02.
        coverage: the share of images whose prediction set holds the true class, such as 0.9.
    """
    rows = probabilities.astype(np.float32)  # as the held-out ones are kept, so that equal ones compare as equal
    order = np.argsort(-rows, kind="stable")
    label, probability = names[order[0]], float(rows[order[0]])
    answer = label
    if abstain_at is not None and probability < doubt.confidence_for(abstain_at):
        answer = "unsure"
    if unknown_at is not None and likeness is not None and doubt.familiar is not None:
        answer = "unknown" if likeness < doubt.familiar.least_likeness(unknown_at) else answer
    classes: tuple[str, ...] = ()
    if coverage is not None:
        least = doubt.probability_for(coverage)
        classes = tuple(names[i] for i in order if i == order[0] or rows[i] >= least)
    return Decision(label, probability, answer, likeness, classes)


class Doubts:
    """The decisions of a model under one set of wishes.

    Args:
        model: with `doubt`.
        abstain_at, unknown_at, coverage: as for `decide`.

    Raises:
        AutotlError: a wish isn't between 0 and 1, or the model holds nothing to calibrate it on.
    """

    def __init__(
        self,
        model: "ImageModel",
        abstain_at: float | None = None,
        unknown_at: float | None = None,
        coverage: float | None = None,
    ):
        self.wishes = {"abstain_at": abstain_at, "unknown_at": unknown_at, "coverage": coverage}
        for name, value in self.wishes.items():
            if value is not None and not 0 < value < 1:
                raise AutotlError(f"{name} = {value:g} is not between 0 and 1: write 0.01 for 1 %.")
        if model.doubt is None:
            raise AutotlError("This model holds no held-out images to calibrate its doubts on. Search again.")
        self.model, self.doubt = model, model.doubt
        if unknown_at is not None and self.doubt.familiar is None:
            raise AutotlError(
                "Each network of this model is fine-tuned, and it has no recorded features of training images to tell "
                "unknown ones by. Omit unknown_at."
            )

    def notes(self) -> list[str]:
        """Sentences on what abstaining costs, or that it can't hold the risk."""
        risk = self.wishes["abstain_at"]
        if risk is None:
            return []
        n, share = len(self.doubt.confidence), self.doubt.answered_share(risk)
        if not share:
            return [
                f"{n:,} held-out images are too few or too hard to hold a risk of {risk:.3g}: no image is answered."
            ]
        return [f"Of {n:,} held-out images {share:.0%} are answered at a risk of {risk:.3g}."]

    def measure(self, network: "SharedNetwork", features: Mapping[View, np.ndarray]) -> list[np.ndarray]:
        """The likeness of images [n, 1] where the network is the one whose output is compared."""
        if self.doubt.familiar is None or network.frozen_digest != self.doubt.network:
            return []
        if self.doubt.familiar.samples.shape[1] != network.layout.output:
            raise AutotlError(
                f"{FILE} belongs to another model: it holds other features. Copy the model's folder again."
            )
        view = ORIGINAL if ORIGINAL in features else next(iter(features))
        return [self.doubt.familiar.likeness(features[view][:, : network.layout.output])[:, None]]

    def decide(self, row: np.ndarray) -> Decision:
        """What to answer where a prediction and what `measure` adds are `row`."""
        num_classes = len(self.model.classes)
        likeness = float(row[num_classes]) if len(row) > num_classes else None
        return decide(self.doubt, self.model.classes, row[:num_classes], likeness, **self.wishes)


def save_doubt(doubt: Doubt, folder: Path) -> None:
    from safetensors.numpy import save

    tensors = {name: getattr(doubt, name) for name in ("confidence", "of_label", "correct")}
    if doubt.familiar is not None:
        tensors |= {f"familiar.{part.name}": getattr(doubt.familiar, part.name) for part in fields(doubt.familiar)}
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, {"network": doubt.network})
    write_atomically(folder / FILE, content)


def load_doubt(folder: Path, files: Mapping[str, str]) -> Doubt | None:
    """What `save_doubt` wrote; None for a model without it.

    Args:
        files: SHA-256 of the model's files, by path.

    Raises:
        AutotlError: the file is missing, damaged, or its arrays don't fit together.
    """
    from safetensors import safe_open

    if FILE not in files:
        return None
    require_sound(folder, [FILE], files)
    try:
        with safe_open(folder / FILE, "numpy") as file:
            network = (file.metadata() or {}).get("network", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        own = {name: value for name, value in tensors.items() if "." not in name}
        parts = {name.partition(".")[2]: value for name, value in tensors.items() if "." in name}
        doubt = Doubt(**own, familiar=Familiar(**parts) if parts else None, network=network)
        _check(doubt)
    except Exception as error:  # a forged header can state types and shapes that don't exist
        reason = " ".join(str(error).split())[:200]
        raise AutotlError(
            f"{folder / FILE} is damaged or was made by hand: {type(error).__name__}: {reason} Copy the model's folder "
            "again."
        ) from error
    return doubt


def _check(doubt: Doubt) -> None:
    n = len(doubt.confidence)
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "confidence": (np.float32, (n,)),
        "of_label": (np.float32, (n,)),
        "correct": (np.uint8, (n,)),
    }
    parts: list[tuple[object, dict[str, tuple[type, tuple[int, ...]]]]] = [(doubt, shapes)]
    if (familiar := doubt.familiar) is not None:
        sizes: dict[str, tuple[type, tuple[int, ...]]] = {
            "samples": (np.float16, (len(familiar.samples), familiar.samples.shape[1])),
            "distances": (np.float32, (len(familiar.distances),)),
        }
        if not len(familiar.samples):
            raise ValueError("it has no samples.")
        parts.append((familiar, sizes))
    for part, expected in parts:
        for name, (dtype, shape) in expected.items():
            array = getattr(part, name)
            if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} doesn't fit the rest of it.")
            least, most = RANGES[name]
            if array.min(initial=0) < least or array.max(initial=0) > most:
                raise ValueError(f"{name} has values from {array.min():.3g} to {array.max():.3g}.")
    if familiar is not None and (np.diff(familiar.distances) < 0).any():
        raise ValueError("distances don't ascend.")
