"""A search whose workers have been started, up to its model."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from autotl.config import StudyConfig, how_to_test
from autotl.coordinator.callbacks import PLUGIN_CALL_SECONDS
from autotl.coordinator.choose_backbones import DownloadPolicy, network_costs
from autotl.coordinator.coordinator import Coordinator
from autotl.coordinator.fetching import Fetching
from autotl.coordinator.finalization import finalize, finalize_copy
from autotl.coordinator.launching import LaunchedSearch, backbone_digests, study_service
from autotl.coordinator.probing import await_probes, with_slots
from autotl.coordinator.setup import SPLIT_FILE, ImagesChanged, begin_study, library_versions, prepare
from autotl.coordinator.supervisor import OVERTIME
from autotl.coordinator.watchdog import CallEnded, Watchdog
from autotl.data.dataset import LabelledImage
from autotl.data.splits import Split
from autotl.devices import Slot, threads_by_type
from autotl.errors import AutotlError
from autotl.events import Callback, SearchStarted
from autotl.registry import Registry
from autotl.study.kept_database import DatabaseLost, kept_database, study_exists
from autotl.study.scheduler import Scheduler
from autotl.study.study import TrialAttribute
from autotl.study.trials import StudyTrials, params_of
from autotl.trial.events import notify_ended
from autotl.workers.messages import Context

__all__ = ["search", "tried_params"]


def search(
    launched: LaunchedSearch,
    *,
    extends: Path | None,
    images: Sequence[LabelledImage] | None,
    callbacks: Sequence[Callback],
) -> Mapping[str, Any]:
    """What `result.json` holds, the leaderboard and where the model is.

    Args:
        extends: folder of the study that the search takes over trials from.
        images: the labelled images, where the configuration's `data` is only a name for them.
        callbacks: are told of events, and may stop the search.
    """
    config, registry, progress, clock = launched.config, launched.registry, launched.progress, launched.clock
    pool, watchdog, later = launched.pool, launched.watchdog, launched.later
    if extends:  # its images keep their subsets
        shutil.copyfile(extends / SPLIT_FILE, config.folder / SPLIT_FILE)
    policy = DownloadPolicy(config, progress.confirm, clock)
    try:
        context = prepare(config, registry, launched.slots, progress.log, images, progress.checking, policy)
    except ImagesChanged as error:
        if extends is None:
            raise
        raise AutotlError(
            f"The images in {config.data} are not those that study {extends.name!r} began with, so its trials can't be "
            "taken over. Leave --extend out, and give another --name."
        ) from error
    finally:
        progress.checking(0, 0)
    started = launched.started + policy.seconds_asked
    first = pool.slots
    probed = await_probes(pool, config, clock, progress.log)
    if probed != first:  # CPU workers take the place of an accelerator that doesn't work, and all have started
        later = []
    slots = [*probed, *later]
    context = with_slots(context, slots)
    with closing(Fetching(list(policy.missing), progress.log, config.without_plugins, clock)) as fetching:
        context = _with_weights(context, registry, fetching)
        study = begin_study(config, context, registry, extends, progress.log)
        trials = StudyTrials(study, config.folder, partial(_notify_ended, watchdog, registry, study))
        coordinator = Coordinator(
            config=config,
            trials=trials,
            scheduler=_scheduler(config, slots, context, registry, trials),
            pool=pool,
            clock=clock,
            progress=progress,
            interrupts=launched.interrupts,
            watchdog=watchdog,
            metric=registry.metric(config.metric),
            started=started,
            num_test=len(context.split.test),
            versions=library_versions(registry),
            callbacks=callbacks,
            plugin_callbacks=tuple(registry.callbacks.values()),
            later_slots=later,
            fetching=fetching,
        )
        coordinator.resume()
        coordinator.start(_search_started(config, slots, context))
        if pool.launcher.serves_study:
            pool.service = study_service(context.folder, context.dataset.paths)
            digests, database = backbone_digests(context, registry), kept_database(context.folder)
            context = replace(context, backbone_digests=digests, database=database)
        pool.set_up(context)
        launched.interrupts.searching = True
        try:
            coordinator.run()
            fetching.close()  # what has arrived is kept for the next search
            result = finalize(coordinator)
        except DatabaseLost as lost:
            result = finalize_copy(coordinator, context, lost)
        pool.close()
        return result


def _notify_ended(watchdog: Watchdog, registry: Registry, study: Study, trial: FrozenTrial) -> None:
    """Call the hooks of plugins for a trial whose worker is gone, in this process."""
    what = f"the plugins' hook for a {trial.state.name.lower()} trial"
    with suppress(CallEnded):  # the trial is told, and the watchdog has named the hook
        watchdog.call(what, PLUGIN_CALL_SECONDS, notify_ended, registry, study, trial)


def _with_weights(context: Context, registry: Registry, fetching: Fetching) -> Context:
    """Download what has to be here before the first trial. A search without a time limit is repeatable, so it waits for
    all. The choices of a new study begin with the backbones that are here."""
    config, choices = context.config, context.choices
    backbones = [registry.backbone(name) for name in choices.backbones]
    untimed = config.time is None
    fetching.fetch_first(backbones, all_of_them=untimed, required=untimed and config.backbones is not None)
    if study_exists(config.folder):
        return context
    here = [backbone.name for backbone in backbones if backbone.is_cached]
    later = [] if untimed else [name for name in choices.backbones if name not in here]
    return replace(context, choices=replace(choices, backbones=(*here, *later)))


def tried_params(trials: Iterable[FrozenTrial]) -> list[dict[str, Any]]:
    """The parameters that an earlier search of the study has tried: on all images, and to the end."""
    return [
        params_of(trial)
        for trial in trials
        if not {TrialAttribute.SAMPLE, TrialAttribute.OUT_OF_TIME} & trial.user_attrs.keys()
        and trial.user_attrs.get(TrialAttribute.CAUSE) != OVERTIME
    ]


def _scheduler(
    config: StudyConfig,
    slots: Sequence[Slot],
    context: Context,
    registry: Registry,
    trials: StudyTrials,
) -> Scheduler:
    scheduler = Scheduler(
        context.choices,
        registry,
        tried=tried_params(trials.all()),
        num_images=len(context.split.train) + len(context.split.validation),
        threads=threads_by_type(slots),
        greater_is_better=registry.metric(config.metric).greater_is_better,
        seed=config.seed,
        timed=config.time is not None,
    )
    scheduler.aligns = config.align
    names = context.choices.backbones
    parts = {part.name: part for name in names for part in registry.backbone(name).parts}
    scheduler.missing = {name for name, part in parts.items() if not part.is_cached}
    scheduler.excluded = {n for n in names if config.limits.exceeded(network_costs(registry.backbone(n)))}
    return scheduler


def _search_started(config: StudyConfig, slots: Sequence[Slot], context: Context) -> SearchStarted:
    dataset, split = context.dataset, context.split
    return SearchStarted(
        study=config.name,
        folder=config.folder,
        data=config.data,
        classes=tuple(dataset.classes),
        images={
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
            "skipped": len(dataset.skipped),
        },
        metric=config.metric,
        devices=tuple(slot.name for slot in slots),
        backbones=context.choices.backbones,
        warnings=(*dataset.warnings, *split.warnings, *_untested(config, split)),
    )


def _untested(config: StudyConfig, split: Split) -> list[str]:
    """A warning where nobody has asked for a search without test images, and there are none."""
    if len(split.test) or config.test == "none":
        return []
    return [
        "There is no untouched test part: the validation images choose the model, so its score on them is too good. "
        f"{how_to_test(config)}"
    ]
