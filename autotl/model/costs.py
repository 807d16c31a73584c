"""What it costs to predict an image: milliseconds, megabytes, parameters and passes, of a trial or of a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autotl.backbones.joined import with_size

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

    networks: tuple[tuple[str, str], ...]
    """The key and the backbone of each network. Parts share the passes of networks with the same key."""
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
    >>> frozen = Part((("a", "a"),), ("none-0", "flip-1"), 10_000)
    >>> tuned = Part((("a/7", "a"),), ("none-0",), 2_000_000)
    >>> total_costs([frozen, tuned], networks)["passes"], total_costs([frozen, tuned], networks)["milliseconds"]
    (3, 15.0)
    >>> total_costs([frozen, tuned], networks)["megabytes"], total_costs([frozen, tuned], networks)["parameters"]
    (18.01, 8000000)
    >>> networks["a,size=288"] = networks["a"]
    >>> larger = Part((("a,size=288", "a,size=288"),), ("none-0",), 0)
    >>> total_costs([frozen, larger], networks)["megabytes"]
    16.01
    """
    parts = list(parts)
    backbone_of = {key: backbone for part in parts for key, backbone in part.networks}
    passes = {
        (key, view): networks[backbone_of[key]] for part in parts for key, _ in part.networks for view in part.views
    }
    # those of a network for images of another size, `NAME,size=SIZE`, are the same
    files = {(with_size(name) or (name,))[0]: networks[name].num_bytes for name in backbone_of.values()}
    own = {key: networks[backbone].parameters for key, backbone in backbone_of.items()}

    def time_of(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(sum(known), 4) if len(known) == len(values) else None

    return {
        "milliseconds": time_of([network.milliseconds for network in passes.values()]),
        "batch_milliseconds": time_of([network.batch_milliseconds for network in passes.values()]),
        "megabytes": round((sum(files.values()) + sum(part.num_bytes for part in parts)) / 1e6, 3),
        "parameters": sum(own.values()),
        "passes": len(passes),
    }
