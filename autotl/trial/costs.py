"""What trials cost: recorded when they run, and read back when the model is selected."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autotl.devices import is_device_error
from autotl.engines.accelerator import is_accelerator
from autotl.features.latency import Latency, latency_of
from autotl.model.costs import NetworkCost, Part, total_costs
from autotl.model.member import FILES, STATE, Member
from autotl.recipe import Recipe
from autotl.registry import Registry
from autotl.study.study import TrialAttribute
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log

__all__ = ["network_cost", "networks_of", "part_of", "record_costs", "require_affordable", "size_of", "time_backbones"]

MIN_SECONDS = 15.0
"""Remaining seconds below which no latency that was put off is measured."""


def network_cost(state: WorkerState, backbone: str) -> NetworkCost:
    """The cost of a backbone's pass on this worker's device. Its latency is measured at most once on a machine, and on
    an accelerator after the first job with the backbone, unless it is limited."""
    spec, device = state.registry.backbone(backbone), state.extractor.device
    cost = NetworkCost(spec.count_params(), spec.count_bytes())
    is_limited = state.context.config.limits.milliseconds is not None
    if is_accelerator(device) and not is_limited and backbone not in state.timed_backbones:
        state.untimed_backbones.add(backbone)
        return cost
    latency = _latency(state, backbone)
    if latency is None:
        return cost
    return replace(cost, milliseconds=latency.milliseconds, batch_milliseconds=latency.batch_milliseconds)


def time_backbones(state: WorkerState) -> bool:
    """Measure the latencies that were put off, where there is time for them. An accelerator takes seconds to plan the
    pass of a single image, which the first trials would wait for.

    Returns:
        False after an accelerator error, which makes everything that this process computes later unreliable.
    """
    while state.untimed_backbones and state.deadline.remaining() > MIN_SECONDS:
        backbone = state.untimed_backbones.pop()
        state.timed_backbones.add(backbone)
        try:
            _latency(state, backbone)
        except Exception as error:  # an accelerator's: the others are logged
            state.send(Log(f"{backbone}: its latency was not measured: {type(error).__name__}: {error}"))
            return False
    return True


def _latency(state: WorkerState, backbone: str) -> Latency | None:
    try:
        return latency_of(state.extractor.of(state.registry.backbone(backbone)))
    except Exception as error:
        if is_device_error(error):
            raise
        # an engine that can't run the network fails the trials that need it, and no others
        state.send(Log(f"{backbone}: its latency was not measured: {type(error).__name__}: {error}"))
        return None


def require_affordable(state: WorkerState, trial: optuna.Trial, recipe: Recipe) -> dict[str, NetworkCost]:
    """The cost of each backbone of a recipe, recorded as the least that the trial costs: one pass, and no head.

    Raises:
        TrialPruned: that alone exceeds a limit, or a latency that is limited could not be measured.
    """
    limits, backbone = state.context.config.limits, recipe.backbone
    networks = {name: network_cost(state, name) for name in recipe.backbones}
    costs = total_costs([Part(tuple((name, name) for name in networks), ("none-0",), 0)], networks)
    _set_attributes(trial, costs)
    if excess := limits.explain(costs):
        _constrain(state, trial, costs)
        raise optuna.TrialPruned(f"{backbone} takes {excess}")
    if not limits.keeps(costs):
        raise optuna.TrialPruned(f"the latency of {backbone} was not measured in time, and --max-latency limits it")
    return networks


def record_costs(state: WorkerState, trial: optuna.Trial, part: Part, networks: Mapping[str, NetworkCost]) -> None:
    """Set the trial's costs as attributes and, where they are limited, as Optuna's constraints."""
    costs = total_costs([part], networks)
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


def part_of(folder: Path, member: Member) -> Part:
    """What a fitted recipe that is saved in `folder` needs to predict."""
    networks = zip(member.network_keys, member.recipe.backbones, strict=True)
    return Part(tuple(networks), tuple(map(str, member.fitted.views)), size_of(folder))


def networks_of(
    trials: Iterable[FrozenTrial], backbones: Collection[str], registry: Registry
) -> dict[str, NetworkCost]:
    """The cost of a pass by backbone, as the trials have recorded it: nothing is measured. Where no trial had a
    backbone for itself, it is the mean of those that were joined.

    Args:
        backbones: names, each of one backbone.
    """
    specs = {name: registry.backbone(name) for name in backbones}
    networks = {name: NetworkCost(spec.count_params(), spec.count_bytes()) for name, spec in specs.items()}
    joined_by_trial = [(_backbones_of(trial), trial.user_attrs) for trial in trials]
    for joined, attributes in sorted(joined_by_trial, key=lambda entry: len(entry[0])):
        if attributes.get("milliseconds") is None:
            continue
        single, batch = (attributes[cost] / attributes["passes"] for cost in ("milliseconds", "batch_milliseconds"))
        for name in joined:
            if name in networks and networks[name].milliseconds is None:
                networks[name] = replace(networks[name], milliseconds=single, batch_milliseconds=batch)
    return networks


def _backbones_of(trial: FrozenTrial) -> tuple[str, ...]:
    recipe = trial.user_attrs.get(TrialAttribute.RECIPE)
    return Recipe.from_dict(recipe).backbones if recipe else ()
