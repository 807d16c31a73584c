"""Train a recorded trial again."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna

from autotl.backbones.weights import no_downloads
from autotl.config import StudyConfig
from autotl.errors import AutotlError

__all__ = ["replay_trial"]


def replay_trial(folder: Path, number: int, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The trial's recipe trained again in this process: `recorded` and `replayed` score, `metric`, `recipe`."""
    from autotl.coordinator.setup import kept_config

    config = kept_config(folder)
    with no_downloads() if config.offline else nullcontext():
        return _replay(config, number, say)


def _replay(config: StudyConfig, number: int, say: Callable[[str], None]) -> dict[str, Any]:
    import torch

    from autotl.coordinator.setup import prepare
    from autotl.devices import parse_devices
    from autotl.recipe import Recipe
    from autotl.registry import load_registry
    from autotl.trial.runner import Bench, train

    registry = load_registry(config.without_plugins, strict=config.strict_plugins)
    context = prepare(config, registry, parse_devices(config.devices), say)
    bench = Bench.set_up(context, lambda *message: None, lambda: float("inf"))
    trials = {t.number: t for t in bench.study.get_trials(deepcopy=False)}
    trial = trials.get(number)
    if trial is None or trial.state != optuna.trial.TrialState.COMPLETE:
        done = sorted(n for n, t in trials.items() if t.state == optuna.trial.TrialState.COMPLETE)
        raise AutotlError(f"Study {config.name!r} has no finished trial {number}. Finished: {done}")
    torch.set_num_threads(context.slot.threads)
    recipe = Recipe.from_dict(trial.user_attrs["recipe"])
    result = train(bench, recipe, float("inf"), lambda fraction, score: None)
    score = bench.registry.metric(config.metric)(bench.labels("validation"), result.probabilities)
    return {"recorded": trial.value, "replayed": score, "metric": config.metric, "recipe": recipe.to_dict()}
