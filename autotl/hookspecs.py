"""The whole plugin contract. A plugin is a module with any of these functions, marked `@autotl.hookimpl` and named
under the entry-point group `autotl`. The registering hooks are called once, at start, and must be light: build no
network, read no weights, import no torch. Each gets a `register` callback: call it as often as you like.
"""

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import optuna
    import typer

    from autotl.backbones.backbone import Backbone
    from autotl.data.dataset import DatasetSource
    from autotl.features.engine import Engine
    from autotl.heads.head import Head
    from autotl.metrics import Metric
    from autotl.model.model import ImageModel
    from autotl.register import Register
    from autotl.strategies.strategy import Result, Strategy

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("autotl")
hookimpl = pluggy.HookimplMarker("autotl")


@hookspec
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    """Add pretrained networks: `register(MyBackbone())`."""


@hookspec(firstresult=True)
def autotl_find_backbone(name: str) -> "Backbone | None":
    """Called with a backbone name that nobody registered: return it where your family has it (a hub id, say)."""


@hookspec
def autotl_register_heads(register: "Register[Head]") -> None:
    """Add classifiers: dense ones (torch modules) or estimators (scikit-learn)."""


@hookspec
def autotl_register_strategies(register: "Register[Strategy]") -> None:
    """Add ways to reuse a backbone."""


@hookspec
def autotl_register_engines(register: "Register[Engine]") -> None:
    """Add ways to run a frozen backbone fast. The last one registered that is usable on a device is preferred."""


@hookspec
def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    """Add places that labelled images come from."""


@hookspec
def autotl_register_metrics(register: "Register[Metric]") -> None:
    """Add scores that a search can optimise."""


@hookspec
def autotl_register_commands(cli: "typer.Typer") -> None:
    """Add commands to the command line."""


@hookspec
def autotl_trial_finished(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", result: "Result") -> None:
    """A trial was finished and told, in the worker that ran it. Only look: exceptions cost a warning."""


@hookspec
def autotl_search_finished(study: "optuna.Study", model: "ImageModel | None") -> None:
    """The search is over and its model saved (None where no trial succeeded), in the process that assembled it."""
