"""The elpv dataset: electroluminescence images of functional and defective solar cells (Deitsch et al. 2019)."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import autotl
from autotl.data.dataset import DatasetSource, LabelledImage
from autotl.errors import DataError

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["Elpv", "autotl_register_datasets"]

PROBABILITY_LABELS = ("functional", "probably functional", "probably defective", "defective")
"""Labels of the experts' probabilities of a defect: 0, 1/3, 2/3 and 1."""


def two_classes(probability: float) -> str:
    return "defective" if probability >= 0.5 else "functional"


def four_classes(probability: float) -> str:
    return PROBABILITY_LABELS[round(probability * 3)]


class Elpv(DatasetSource):
    """The images of PyPI's elpv-dataset.

    Args:
        label: the class for the probability that a cell is defective.
    """

    def __init__(self, name: str, label: Callable[[float], str]):
        self.name, self.label = name, label

    def matches(self, location: str) -> bool:
        return location == self.name

    def images(self, location: str) -> list[LabelledImage]:
        """The images in the order of labels.csv: 75 % in the subset `train`, 25 % in `test`.

        Raises:
            DataError: elpv-dataset is not installed.
        """
        folder = _folder()
        rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
        probabilities = [float(probability) for _, probability, _ in rows]
        test_indices = _test_indices(probabilities, [cell_type for _, _, cell_type in rows])
        return [
            LabelledImage(folder / path, self.label(probability), "test" if i in test_indices else "train")
            for i, ((path, _, _), probability) in enumerate(zip(rows, probabilities, strict=True))
        ]


def _folder() -> Path:
    """The data folder of elpv-dataset. The package isn't imported: that would import libraries that aren't needed."""
    spec = find_spec("elpv_dataset")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    if folder is None or not (folder / "labels.csv").is_file():
        raise DataError("The elpv images are not installed. Type: pip install elpv-dataset")
    return folder


def _test_indices(probabilities: list[float], cell_types: list[str]) -> set[int]:
    """The fixed test subset, a quarter of the images, stratified by probability and cell type."""
    import numpy as np
    from sklearn.model_selection import StratifiedShuffleSplit

    strata = np.array([f"{p:.2f} {cell_type}" for p, cell_type in zip(probabilities, cell_types, strict=True)])
    split = StratifiedShuffleSplit(1, test_size=0.25, random_state=0)
    _, test = next(split.split(np.zeros(len(strata)), strata))
    return set(test.tolist())


@autotl.hookimpl
def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    register(Elpv("elpv", two_classes))
    register(Elpv("elpv4", four_classes))
