"""Dense heads: torch modules, which are trained on recorded features or together with the base."""

from typing import TYPE_CHECKING, Any

from autotl.heads.base import Head
from autotl.recipe import Params, Space

if TYPE_CHECKING:
    from torch import nn

    from autotl.registration import Register

__all__ = ["MLP", "Linear"]


class Linear(Head):
    """Normalised features, dropout, one linear layer: the usual head of transfer learning."""

    name = "linear"
    type = "dense"

    def suggest(self, space: Space) -> dict[str, Any]:
        return {"dropout": space.float("dropout", 0.0, 0.7)}

    def defaults(self) -> Params:
        return {"dropout": 0.2}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> "nn.Module":
        from autotl.heads import layers

        hyperparameters: dict[str, Any] = dict(params)
        with layers.seeded(seed):
            return layers.linear(num_features, num_classes, **hyperparameters)


class MLP(Head):
    """Normalised features and one or two hidden layers.

    Deeper and wider ones were no more accurate on recorded features, and took three times as long.
    """

    name = "mlp"
    type = "dense"

    def suggest(self, space: Space) -> dict[str, Any]:
        return {
            "depth": space.int("depth", 1, 2),
            "width": space.int("width", 64, 512, log=True),
            "dropout": space.float("dropout", 0.0, 0.7),
            "normalization": space.categorical("normalization", ("batch", "layer", "none")),
            "activation": space.categorical("activation", ("relu", "gelu", "silu")),
        }

    def defaults(self) -> Params:
        return {"depth": 1, "width": 256, "dropout": 0.3, "normalization": "batch", "activation": "gelu"}

    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> "nn.Module":
        from autotl.heads import layers

        hyperparameters: dict[str, Any] = dict(params)
        with layers.seeded(seed):
            return layers.mlp(num_features, num_classes, **hyperparameters)


def autotl_register_heads(register: "Register[Head]") -> None:
    register(Linear())
    register(MLP())
