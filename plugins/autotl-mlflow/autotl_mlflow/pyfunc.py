"""The model of a search as MLflow's pyfunc: `mlflow.pyfunc.load_model(uri).predict(paths)`."""

from typing import Any

import pandas as pd

import autotl

__all__ = ["Predictor"]


class Predictor:
    """A model that reads files: what MLflow serves and scores."""

    def __init__(self, folder: str):
        self.model = autotl.load(folder)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """For each image its most probable class, `label`, and the probability of each class, a column by its name.

        Args:
            data: paths of images, as a list or in the first column of a data frame.
            params: none are known; MLflow passes them.
        """
        paths = data.iloc[:, 0].tolist() if isinstance(data, pd.DataFrame) else list(data)
        probabilities = self.model.predict_proba(paths)
        answer = pd.DataFrame(probabilities, columns=list(self.model.classes))
        answer.insert(0, "label", [self.model.classes[i] for i in probabilities.argmax(1)])
        return answer


def _load_pyfunc(folder: str) -> Predictor:
    """What MLflow calls: the name is its own."""
    return Predictor(folder)
