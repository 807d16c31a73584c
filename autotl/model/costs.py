"""What it costs to predict an image: milliseconds, megabytes, parameters and passes, of a trial or of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["COSTS", "NetworkCost", "Part", "total_costs"]

COSTS = ("milliseconds", "batch_milliseconds", "megabytes", "parameters", "passes")
"""Names of costs: in a trial's attributes, the leaderboard and `result.json`."""


@dataclass(frozen=True)
class NetworkCost:
    """One pass of a backbone's network over one image. A fine-tuned network costs as much as the pretrained one."""

    parameters: int
    num_bytes: int
    """Of its weights as saved."""
    milliseconds: float | None = None
    """One image at a time; None where it isn't measured."""
    batch_milliseconds: float | None = None
    """Per image in a batch."""


@dataclass(frozen=True)
class Part:
    """What one fitted recipe needs to predict."""

    backbone: str
    network_key: str
    """Parts with the same key share the passes of one network."""
    views: tuple[str, ...]
    num_bytes: int
    """Of its head and of unfrozen blocks, as saved."""


def total_costs(parts: Iterable[Part], networks: Mapping[str, NetworkCost]) -> dict[str, Any]:
    """The costs of parts that are averaged: each distinct network is run once for each distinct view, a backbone's
    weights are saved once, and the weights of unfrozen blocks beside them.

    Args:
        networks: by name of the backbone.

    Returns:
        A value for each of COSTS; milliseconds are None where a network wasn't measured.

    >>> networks = {"a": NetworkCost(4_000_000, 16_000_000, 5.0, 3.0)}
    >>> frozen, tuned = Part("a", "a", ("none-0", "flip-1"), 10_000), Part("a", "a/7", ("none-0",), 2_000_000)
    >>> total_costs([frozen, tuned], networks)["passes"], total_costs([frozen, tuned], networks)["milliseconds"]
    (3, 15.0)
    >>> total_costs([frozen, tuned], networks)["megabytes"], total_costs([frozen, tuned], networks)["parameters"]
    (18.01, 8000000)
    """
    parts = list(parts)
    passes = {(part.network_key, view): networks[part.backbone] for part in parts for view in part.views}
    backbones = {part.backbone: networks[part.backbone].num_bytes for part in parts}
    own = {part.network_key: networks[part.backbone].parameters for part in parts}

    def time_of(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(sum(known), 4) if len(known) == len(values) else None

    return {
        "milliseconds": time_of([network.milliseconds for network in passes.values()]),
        "batch_milliseconds": time_of([network.batch_milliseconds for network in passes.values()]),
        "megabytes": round((sum(backbones.values()) + sum(part.num_bytes for part in parts)) / 1e6, 3),
        "parameters": sum(own.values()),
        "passes": len(passes),
    }
