"""Fast feature extraction: the backbone runs once over the images; a new head is trained on the recorded features."""

from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import Report, Result, Strategy, Task
from autotl.strategies.head_training import fit_head, head_training_defaults, suggest_head_training

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["FastExtraction"]


class FastExtraction(Strategy):
    """Cheap, no GPU needed, no augmentation."""

    name = "fast_extraction"
    cross_validated = True

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        return {"levels": space.categorical("levels", space.levels), **suggest_head_training(space, head)}

    def defaults(self, head: Head) -> Params:
        return {"levels": "last", **head_training_defaults(head)}

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        levels = str(recipe.strategy_params["levels"])
        return fit_head(recipe, task, device, report, levels, task.features.levels("train", levels), task.train_labels)


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(FastExtraction())
