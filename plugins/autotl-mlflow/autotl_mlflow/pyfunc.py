"""The model of a search in MLflow's pyfunc form: `mlflow.pyfunc.load_model(uri).predict(paths)`."""

from typing import Any

import pandas as pd

import autotl

__all__ = ["Predictor"]


class Predictor:
    """A model that predicts image files, for MLflow to serve and evaluate."""

    def __init__(self, folder: str):
        self.model = autotl.load(folder)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The most probable class of each image in the column `label`, and a column of probabilities for each class.

        Args:
            data: paths of images, as a list or in the first column of a data frame.
            params: ignored; MLflow passes it.
        """
        paths = data.iloc[:, 0].tolist() if isinstance(data, pd.DataFrame) else list(data)
        probabilities = self.model.predict_proba(paths)
        table = pd.DataFrame(probabilities, columns=list(self.model.classes))
        table.insert(0, "label", [self.model.classes[i] for i in probabilities.argmax(1)])
        return table


def _load_pyfunc(folder: str) -> Predictor:
    """Load the model. MLflow calls this function by this name."""
    return Predictor(folder)
