"""What was predicted for labelled images, worst first."""

from pathlib import Path

import numpy as np

from autotl.model.prediction_table import write_predictions


def test_the_image_with_the_least_probable_label_comes_first(tmp_path):
    paths = [Path("a.png"), Path("=b.png"), Path("c.png")]
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    write_predictions(tmp_path / "out.csv", paths, np.array([0, 0, 1]), probabilities, ("cat", "dog"))
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "path,label,predicted,probability,probability_of_label",
        "'=b.png,cat,dog,0.800000,0.200000",
        "c.png,dog,dog,0.600000,0.600000",
        "a.png,cat,cat,0.900000,0.900000",
    ]
