"""The whole plugin contract. A plugin is a module with any of these functions, marked `@autotl.hookimpl` and named
under the entry-point group `autotl`; each says when it is called, with what, and what it may do.

At start, in every process and for every command, the registering hooks are called once each. They must be light: build
no network, read no weights, import no torch. Each gets a `register` callback: call it as often as you like. A plugin
that raises here takes no part, which costs the user one line.

An implementation may leave out arguments that it doesn't need.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import optuna
    import typer

    from autotl.backbones.base import Backbone
    from autotl.data.dataset import DatasetSource
    from autotl.engines.base import Engine
    from autotl.heads.base import Head
    from autotl.metrics import Metric
    from autotl.model.image_model import ImageModel
    from autotl.registration import Register
    from autotl.strategies.base import Result, Strategy

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("autotl")
hookimpl = pluggy.HookimplMarker("autotl")

# -- at start: what there is to search


@hookspec
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    """Add pretrained networks: `register(MyBackbone())`. They are searched by default where their weights are here."""


@hookspec
def autotl_register_heads(register: "Register[Head]") -> None:
    """Add classifiers, dense ones (torch modules) or estimators (scikit-learn): `register(MyHead())`. Every search
    that doesn't name its heads tries them."""


@hookspec
def autotl_register_strategies(register: "Register[Strategy]") -> None:
    """Add ways to reuse a backbone: `register(MyStrategy())`. Every search that doesn't name its strategies tries
    them."""


@hookspec
def autotl_register_engines(register: "Register[Engine]") -> None:
    """Add ways to run a frozen backbone fast: `register(MyEngine())`. The last one registered that is usable on a
    device is preferred there."""


@hookspec
def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    """Add places that labelled images come from: `register(MyImages())`. The last one registered that matches what
    the user typed is asked."""


@hookspec
def autotl_register_metrics(register: "Register[Metric]") -> None:
    """Add scores that a search can optimise: `register(Metric("name", compute))`. All are recorded of every trial."""


@hookspec
def autotl_register_commands(cli: "typer.Typer") -> None:
    """Add commands to the command line: `@cli.command()`. Called where commands are listed, or one is typed that isn't
    built in; never in a worker. A name that is taken keeps its first owner."""


# -- on demand: backbones by families of names


@hookspec(firstresult=True)
def autotl_find_backbone(name: str) -> "Backbone | None":
    """Called with a backbone name that nobody registered: return it where your family has it (a hub id, say), else
    None. May import what it needs; may raise AutotlError for a name that is its own and can't be had. The last
    registered family is asked first."""


@hookspec
def autotl_list_backbones() -> Iterable[str]:  # type: ignore[empty-body]  # a spec has no body
    """Called for `autotl backbones --all`, and to suggest what may have been meant by an unknown name: the names that
    `autotl_find_backbone` knows, where they can be listed. Fetches nothing."""


# -- events: what happens in a search. Only look; an exception costs one warning, never the trial or the study


@hookspec
def autotl_trial_finished(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", result: "Result") -> None:
    """Called after a trial was trained and told, in the worker that ran it, before its next. `trial.user_attrs` holds
    the recipe; `result` the validation probabilities, the history and the fitted parts. A trial that failed or was
    pruned leaves no result, and isn't told of. What it takes, the search waits for."""


@hookspec
def autotl_search_finished(study: "optuna.Study", model: "ImageModel | None") -> None:
    """Called when the search is over and its model saved, in the worker that assembled it. The model predicts; its
    folder is `model/` beside the study's journal."""
