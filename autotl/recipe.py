"""A recipe: one point of the search space, complete and serialisable. The same recipe gives the same model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

__all__ = ["JOIN", "Params", "Recipe", "Space"]

Value: TypeAlias = str | int | float | bool | None
Params: TypeAlias = Mapping[str, Value]
JOIN = " + "
"""Between the names of backbones whose features are joined in one head: `resnet18 + vit_tiny`."""


class Space(Protocol):
    """Where heads and strategies draw their parameters. A study prefixes names with the owner's: `mlp.width`.

    Ranges and choices may depend on the attributes here, so that trials stay affordable, and on nothing else: the
    search space of a study must not change.
    """

    num_train: int
    """Number of training images."""
    num_classes: int
    accelerator: bool
    """Whether trials run on a device other than a CPU."""
    augmentations: tuple[str, ...]
    """Names of the augmentation policies that are searched; "none" isn't among them."""
    losses: tuple[str, ...]
    """Names of the losses that are searched."""
    levels: tuple[str, ...]
    """Names of the feature levels that are searched."""

    def categorical(self, name: str, choices: Sequence[Value]) -> Any:
        """One of `choices`."""

    def int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """An integer in [low, high]; with `log` drawn uniformly on a logarithmic scale."""

    def float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]; with `log` drawn uniformly on a logarithmic scale."""


@dataclass(frozen=True)
class Recipe:
    """What a trial trains: registered names, parameters and a seed.

    >>> recipe = Recipe("resnet18", "fine_tuning", "linear", 1, {"unfrozen_blocks": 2}, {"dropout": 0.25})
    >>> recipe.describe()
    'resnet18 · fine_tuning (unfrozen_blocks 2) · linear (dropout 0.25)'
    >>> Recipe("resnet18 + resnet18,size=288", "fast_extraction", "linear", 1).backbones
    ('resnet18', 'resnet18,size=288')
    >>> Recipe.from_dict(recipe.to_dict()) == recipe
    True
    """

    backbone: str
    """The name of a backbone, or several with JOIN between them, whose features one head sees side by side."""
    strategy: str
    head: str
    seed: int
    strategy_params: Params = field(default_factory=dict)
    """What the strategy suggested, under names without prefix."""
    head_params: Params = field(default_factory=dict)
    """What the head suggested, under names without prefix."""

    @property
    def backbones(self) -> tuple[str, ...]:
        """The name of each backbone."""
        return tuple(self.backbone.split(JOIN))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """The inverse of `to_dict`. Raises TypeError where a required key is missing, or a key is unknown."""
        return cls(**data)

    @property
    def digest(self) -> str:
        """16 hex digits of a hash over all fields, the seed included."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """The recipe in one line, with at most four parameters each of strategy and head:
        `efficientnet_lite0 · fine_tuning (unfrozen_blocks 2) · linear`."""

        def first_of(params: Params) -> str:
            shown = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items()]
            return f" ({', '.join(shown[:4])})" if shown else ""

        strategy = f"{self.strategy}{first_of(self.strategy_params)}"
        return f"{self.backbone} · {strategy} · {self.head}{first_of(self.head_params)}"
