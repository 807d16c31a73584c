"""A recipe: one point of the search space, complete and serialisable. The same recipe and seed give the same model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

__all__ = ["Params", "Recipe", "Space"]

Value: TypeAlias = str | int | float | bool | None
Params: TypeAlias = Mapping[str, Value]


class Space(Protocol):
    """Where heads and strategies choose their parameters. Names are prefixed with their owner's: `mlp.width`.

    `num_train` (images to train on), `num_classes` and `accelerator` (False on a CPU) let a part keep its choices to
    what can finish. Choices must depend on nothing else, so that a study stays one space.
    """

    num_train: int
    num_classes: int
    accelerator: bool

    def categorical(self, name: str, choices: Sequence[Value]) -> Any: ...

    def int(self, name: str, low: int, high: int, log: bool = False) -> int: ...

    def float(self, name: str, low: float, high: float, log: bool = False) -> float: ...


@dataclass(frozen=True)
class Recipe:
    """What a trial trains.

    `backbone`, `strategy` and `head` are registered names; the two dictionaries hold what the strategy and the head
    suggested, under their own names without the owner's prefix.
    """

    backbone: str
    strategy: str
    head: str
    seed: int
    strategy_params: Params = field(default_factory=dict)
    head_params: Params = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """Raises TypeError where `data` lacks a part or has one that recipes don't know."""
        return cls(**data)

    @property
    def digest(self) -> str:
        """16 hex digits over every part, the seed included."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """The recipe in a line: `efficientnet_lite0 · fine_tuning (unfrozen_blocks 2) · linear`."""

        def few(params: Params) -> str:
            shown = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items()]
            return f" ({', '.join(shown[:4])})" if shown else ""

        return f"{self.backbone} · {self.strategy}{few(self.strategy_params)} · {self.head}{few(self.head_params)}"
