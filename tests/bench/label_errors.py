"""How many flipped labels are found, and how many of what it names were flipped.

Run from a checkout: python tests/bench/label_errors.py FOLDER... [--head kernel_ridge] [--recorded FOLDER]

In each data set 5 % of the labels are flipped to another class at random. A head with its defaults is fitted on
recorded features of four of five group-aware folds, and predicts the images of the fifth.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from autotl.data.dataset import ImageDataset
from autotl.data.label_errors import likely_errors
from autotl.data.loading import load_dataset
from autotl.data.splits import Split
from autotl.features.extractor import FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import logits, probabilities
from autotl.registry import load_registry
from autotl.trial.out_of_fold import cross_predict, fold_numbers

FLIPPED = 0.05
LEVELS = "stages+max"


def recorded(location: Path, folder: Path, backbone: str = "efficientnet_lite0") -> tuple[ImageDataset, np.ndarray]:
    """A data set and the features of all its images, [n, num_features]."""
    registry = load_registry()
    dataset = load_dataset(str(location), registry.datasets)
    none = np.empty(0, np.int64)
    stores = (FeatureStore(folder / name) for name in ("features", "boundary"))
    extractor = FeatureExtractor(
        dataset, Split(np.arange(len(dataset)), none, none, 0), *stores,
        engine=registry.engine(None, "cpu"), device="cpu", threads=2, conversions=folder / "engines",
    )  # fmt: skip
    return dataset, extractor.of(registry.backbone(backbone)).levels("train", LEVELS)


def flip(labels: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    """The labels with FLIPPED of them changed to another class."""
    chosen = rng.permutation(len(labels))[: round(FLIPPED * len(labels))]
    flipped = labels.copy()
    flipped[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return flipped


def predict_out_of_fold(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, head: str, num_classes: int
) -> np.ndarray:
    spec = load_registry().head(head)

    def predict(train: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        estimator = spec.build(spec.defaults(), features.shape[1], num_classes, 0)
        estimator.fit(features[train], labels[train])
        rows = logits(estimator, features[held_out], num_classes)
        return probabilities(rows, fit_temperature(rows, labels[held_out]))

    return cross_predict(folds, predict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--head", default="kernel_ridge")
    parser.add_argument("--recorded", type=Path)
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(
            f"{FLIPPED:.0%} of labels flipped, head {arguments.head}, mean of {arguments.draws} draws ± standard error"
        )
        print("data set            images  accuracy  flipped found  of those named: flipped")
        for location in arguments.folders:
            dataset, features = recorded(location, arguments.recorded or Path(scratch))
            num_classes = len(dataset.classes)
            everything = np.arange(len(dataset))
            found = []
            for draw in range(arguments.draws):
                labels = flip(dataset.labels, num_classes, np.random.default_rng(draw))
                folds = fold_numbers(dataset, everything, draw)
                rows = predict_out_of_fold(features, labels, folds, arguments.head, num_classes)
                named = [error.image for error in likely_errors(labels, rows)]
                wrong = labels != dataset.labels
                accuracy = np.mean(rows.argmax(1) == dataset.labels)
                found.append((accuracy, wrong[named].sum() / wrong.sum(), wrong[named].mean() if named else np.nan))
            (accuracy, recall, precision), errors = np.mean(found, 0), np.std(found, 0, ddof=1) / len(found) ** 0.5
            print(
                f"{location.name:18} {len(dataset):7,}  {accuracy:8.3f}  {recall:6.3f} ± {errors[1]:.3f}  "
                f"{precision:6.3f} ± {errors[2]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
