"""The plugin contract: all hooks, with when each is called, its arguments and its limits.

A plugin is a module with any of these functions, marked `@autotl.hookimpl`, under the entry-point group `autotl`. An
implementation may leave out arguments that it doesn't need.

The registering hooks are called once in every process, for every command. They must be light: build no network, read no
weights, import no torch. Each gets a callback `register`, which may be called any number of times. A plugin that raises
while it registers is disabled, with one warning.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import optuna
    import typer

    from autotl.alignment.scores import Score
    from autotl.backbones.base import Backbone
    from autotl.backbones.levels import Levels
    from autotl.clusters import Cluster
    from autotl.data.augmentation import Augmentation
    from autotl.data.dataset import DatasetSource
    from autotl.engines.base import Engine
    from autotl.events import Callback, FinishedSearch, SavedModel
    from autotl.exports.base import Exporter
    from autotl.heads.base import Head
    from autotl.metrics import Metric
    from autotl.page.base import ReportSection
    from autotl.registration import Register
    from autotl.strategies.base import Result, Strategy
    from autotl.strategies.losses import Loss

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("autotl")
hookimpl = pluggy.HookimplMarker("autotl")

# -- at start: components


@hookspec
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    """Add pretrained networks: `register(MyBackbone())`. Those whose weights are on this machine are searched by
    default."""


@hookspec
def autotl_register_heads(register: "Register[Head]") -> None:
    """Add classifiers, dense (torch modules) or estimators (scikit-learn): `register(MyHead())`. They are searched by
    default."""


@hookspec
def autotl_register_strategies(register: "Register[Strategy]") -> None:
    """Add ways to reuse a backbone: `register(MyStrategy())`. They are searched by default."""


@hookspec
def autotl_register_augmentations(register: "Register[Augmentation]") -> None:
    """Add policies of augmentation: `register(MyAugmentation())`. They are searched by default, by the strategies that
    augment. A model that averages over views of a policy needs its plugin to predict."""


@hookspec
def autotl_register_losses(register: "Register[Loss]") -> None:
    """Add losses: `register(Loss("name", compute))`. They are searched by default, for dense heads and unfrozen
    blocks."""


@hookspec
def autotl_register_levels(register: "Register[Levels]") -> None:
    """Add feature levels, choices of the parts of a recorded vector: `register(Levels("name", ("output", "maxima")))`.
    They are searched by default. A model whose heads see them needs their plugin to predict."""


@hookspec
def autotl_register_engines(register: "Register[Engine]") -> None:
    """Add ways to run a frozen backbone fast: `register(MyEngine())`. Of the engines that are usable on a device, the
    one registered last is preferred."""


@hookspec
def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    """Add sources of labelled images: `register(MyImages())`. Of the sources that match the location that a user
    typed, the one registered last is used."""


@hookspec
def autotl_register_metrics(register: "Register[Metric]") -> None:
    """Add scores that a search can optimise: `register(Metric("name", compute))`. All are recorded for every trial."""


@hookspec
def autotl_register_scores(register: "Register[Score]") -> None:
    """Add transferability scores: `register(Score("name", compute))`. All are computed for every backbone that
    `autotl align` measures, and are in its JSON."""


@hookspec
def autotl_register_callbacks(register: "Register[Callback]") -> None:
    """Add listeners for the events of a search: `register(MyCallback())`. Their methods run in the coordinator's
    process, on its one thread; the search waits for them, for at most a minute. An exception in a method costs one
    warning, and a method that does not return is not called again."""


@hookspec
def autotl_register_launchers(register: "Register[Cluster]") -> None:
    """Add clusters whose hosts run workers: `register(MyCluster())`, for `--devices NAME:…`. The connection to a
    cluster is made by a search that asks for it, not here."""


@hookspec
def autotl_register_exporters(register: "Register[Exporter]") -> None:
    """Add formats that models are exported to: `register(MyExporter())`, for `autotl export MODEL --to NAME`. What an
    exporter wrote is run on images of the user's, and kept only if it answers as the model does."""


@hookspec
def autotl_register_report_sections(register: "Register[ReportSection]") -> None:
    """Add sections to a search's `report.html`: `register(MySection())`. They are built after each search, in the
    worker that made the model, and by `autotl report`. An exception costs a line in the report."""


@hookspec
def autotl_register_commands(cli: "typer.Typer") -> None:
    """Add commands to the command line: `@cli.command()`. Called when commands are listed or a command is typed that is
    not built in; never in a worker. A name that is already taken disables the plugin's commands."""


# -- on demand: families of backbones


@hookspec(firstresult=True)
def autotl_find_backbone(name: str) -> "Backbone | None":
    """Called with a backbone name that no plugin registered: return the backbone if the name belongs to your family (a
    hub id, for example), else None. May import what it needs. May raise AutotlError for a name of your family that it
    can't provide. The families are tried from the last registered to the first."""


@hookspec
def autotl_list_backbones() -> Iterable[str]:  # type: ignore[empty-body]  # a spec has no body
    """Called for `autotl backbones --all`, for suggestions when a name is unknown, and to load a model: return the
    names that `autotl_find_backbone` accepts, as far as they can be listed without a download.

    A saved model may name registered backbones, those listed here, and those whose `Backbone.config_files` lie in its
    own folder; a name with a prefix that isn't among them is never looked up."""


# -- events: look only; an exception costs one warning and ends neither trial nor search


@hookspec
def autotl_trial_finished(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", result: "Result") -> None:
    """Called after a trial is complete, in the worker that ran it, which waits for it, for at most 10 minutes (or
    --trial-timeout): then the worker is ended, and the trial's result is kept. `trial.user_attrs` holds the
    recipe; `result` the validation probabilities, the history and the fitted parts. Trials that were pruned or failed
    have no result, and events of their own."""


@hookspec
def autotl_trial_pruned(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", cause: str) -> None:
    """Called after a trial was pruned, or ended because its time was up, in the worker that ran it; for a worker that
    was ended, in the coordinator's process. `cause` says why. `trial.user_attrs` holds the recipe if it was drawn."""


@hookspec
def autotl_trial_failed(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", cause: str) -> None:
    """Called after a trial failed with an exception, in the worker that ran it; for a worker that crashed, in the
    coordinator's process. `cause` is the exception, or what became of the worker."""


@hookspec
def autotl_search_finished(study: "optuna.Study", model: "SavedModel | None", search: "FinishedSearch") -> None:
    """Called after the model is saved and tested and the report is written, in the worker that assembled the model.
    `search` has scores, probabilities, images, split, folder and report. The model's folder is `model/` beside the
    study's journal. The search waits until its deadline, at least 30 s (10 minutes without a time budget,
    1 s after Ctrl-C), and then ends the worker."""
