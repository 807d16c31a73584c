"""Extract and augment: the frozen backbone sees several augmented views of each image, a new head learns from all.

A view is drawn from a seed of (image digest, policy, view number), so its features are recorded like the plain
image's: K views cost K extractions once, not one an epoch, and estimator heads can use them. The model may look at
a new image through the same views and average what it thinks of each.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.base import TAPS, Backbone
from autotl.data.augmentation import PLAIN, POLICIES, looks
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import Report, Result, Strategy, Task
from autotl.strategies.head_training import fit_head, head_training_defaults, suggest_head_training

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["ExtractAugment"]

MOST_VIEWS = 7
"""With the plain image, all the symmetries of a square."""


class ExtractAugment(Strategy):
    """Dearer than fast extraction, and augmentation works."""

    name = "extract_augment"
    rows_per_image = 2  # the plain image and a view
    recorded = ("policy", "views")

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        views = space.int("views", 1, MOST_VIEWS)
        if head.max_rows:  # the plain images count too
            views = max(1, min(views, head.max_rows // max(1, space.n_train) - 1))
        return {
            "policy": space.categorical("policy", POLICIES),
            "views": views,
            "averaged": space.categorical("averaged", (True, False)),
            "taps": space.categorical("taps", TAPS),
            **suggest_head_training(space, head),
        }

    def defaults(self, head: Head) -> Params:
        return {
            "policy": "flip",
            "views": 1,
            "averaged": True,
            "taps": "stages+max",
            **head_training_defaults(head),
        }

    def thorough(self, head: Head, passes: int) -> list[Params]:
        views = min(MOST_VIEWS, passes - 1)
        more = [{"policy": "dihedral", "views": views, "taps": taps} for taps in ("inner+max", "stages+max")]
        return [{**self.defaults(head), **params} for params in more] if views > 0 else []

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        params = recipe.strategy_params
        taps, policy = str(params["taps"]), str(params["policy"])
        views = looks(policy, int(params["views"] or 0))
        first = task.features.taps("train", taps, views[0])
        features = np.empty((len(views), *first.shape), first.dtype)
        features[0] = first
        for i, view in enumerate(views[1:], 1):  # one at a time: all of them twice may fill the memory
            features[i] = task.features.taps("train", taps, view)
        labels = np.tile(task.train_labels, len(views))
        looked_at = tuple(views) if params.get("averaged") else (PLAIN,)
        return fit_head(recipe, task, device, report, taps, features.reshape(-1, first.shape[1]), labels, looked_at)


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(ExtractAugment())
