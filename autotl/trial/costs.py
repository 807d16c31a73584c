"""What trials cost: recorded when they run, and read back when the model is selected."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autotl.devices import is_device_error
from autotl.features.latency import latency_of
from autotl.model.costs import NetworkCost, Part, total_costs
from autotl.model.member import FILES, STATE
from autotl.registry import Registry
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log

__all__ = ["network_cost", "networks_of", "part_of", "record_costs", "require_affordable", "size_of"]


def network_cost(state: WorkerState, backbone: str) -> NetworkCost:
    """The cost of a backbone's pass on this worker's device. Its latency is measured at most once on a machine."""
    spec = state.registry.backbone(backbone)
    try:
        latency = latency_of(state.extractor.of(spec))
    except Exception as error:
        if is_device_error(error):
            raise
        latency = None  # an engine that can't run the network fails the trials that need it, and no others
        state.send(Log(f"{backbone}: its latency was not measured: {type(error).__name__}: {error}"))
    if latency is None:
        return NetworkCost(spec.count_params(), spec.count_bytes())
    return NetworkCost(spec.count_params(), spec.count_bytes(), latency.milliseconds, latency.batch_milliseconds)


def require_affordable(state: WorkerState, trial: optuna.Trial, backbone: str) -> NetworkCost:
    """The backbone's cost, recorded as the least that the trial costs: one pass, and no head.

    Raises:
        TrialPruned: that alone exceeds a limit, or a latency that is limited could not be measured.
    """
    limits, network = state.context.config.limits, network_cost(state, backbone)
    costs = total_costs([Part(backbone, backbone, ("none-0",), 0)], {backbone: network})
    _set_attributes(trial, costs)
    if excess := limits.explain(costs):
        _constrain(state, trial, costs)
        raise optuna.TrialPruned(f"{backbone} takes {excess}")
    if not limits.keeps(costs):
        raise optuna.TrialPruned(f"the latency of {backbone} was not measured in time, and --max-latency limits it")
    return network


def record_costs(state: WorkerState, trial: optuna.Trial, part: Part, network: NetworkCost) -> None:
    """Set the trial's costs as attributes and, where they are limited, as Optuna's constraints."""
    costs = total_costs([part], {part.backbone: network})
    _set_attributes(trial, costs)
    _constrain(state, trial, costs)


def _set_attributes(trial: optuna.Trial, costs: Mapping[str, Any]) -> None:
    for name, value in costs.items():
        trial.set_user_attr(name, value)


def _constrain(state: WorkerState, trial: optuna.Trial, costs: Mapping[str, Any]) -> None:
    limits = state.context.config.limits
    for name, excess in limits.constraints(costs).items():
        trial.set_constraint(name, excess)
    if limits:
        trial.set_user_attr("feasible", limits.keeps(costs))  # Optuna Dashboard doesn't show constraints


def size_of(folder: Path) -> int:
    """The bytes of the head and of unfrozen blocks in a member's folder."""
    files = [folder / name for name in (*FILES, STATE)]
    return sum(file.stat().st_size for file in files if file.exists())


def part_of(folder: Path, backbone: str, network_key: str, views: Iterable[str]) -> Part:
    """What the fitted recipe saved in `folder` needs to predict."""
    return Part(backbone, network_key, tuple(views), size_of(folder))


def networks_of(
    trials: Iterable[FrozenTrial], backbones: Collection[str], registry: Registry
) -> dict[str, NetworkCost]:
    """The cost of a pass by backbone, as the trials have recorded it: nothing is measured."""
    specs = {name: registry.backbone(name) for name in backbones}
    networks = {name: NetworkCost(spec.count_params(), spec.count_bytes()) for name, spec in specs.items()}
    for trial in trials:
        name, attributes = trial.params.get("backbone"), trial.user_attrs
        if name in networks and networks[name].milliseconds is None and attributes.get("milliseconds") is not None:
            single, batch = (attributes[cost] / attributes["passes"] for cost in ("milliseconds", "batch_milliseconds"))
            networks[name] = replace(networks[name], milliseconds=single, batch_milliseconds=batch)
    return networks
