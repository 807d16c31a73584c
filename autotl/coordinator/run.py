"""A search from start to model. The process that runs it is the coordinator; it imports no torch."""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from autotl.atomic_io import DiskFull, as_disk_full, format_bytes, refuse_links_out, same_disk
from autotl.backbones.weights import no_downloads
from autotl.clock import SystemClock
from autotl.config import StudyConfig, check_registered, default_cache, how_to_test
from autotl.coordinator.callbacks import PLUGIN_CALL_SECONDS
from autotl.coordinator.choose_backbones import DownloadPolicy, network_costs
from autotl.coordinator.coordinator import Coordinator
from autotl.coordinator.extend import extension_of
from autotl.coordinator.fetching import Fetching
from autotl.coordinator.finalization import finalize
from autotl.coordinator.join import search_runs
from autotl.coordinator.launching import backbone_digests, cluster_of, open_launcher, study_service
from autotl.coordinator.probing import await_probes, with_slots
from autotl.coordinator.setup import SPLIT_FILE, begin_study, library_versions, prepare
from autotl.coordinator.signals import handle_signals
from autotl.coordinator.watchdog import CallEnded, Watchdog
from autotl.data.dataset import LabelledImage
from autotl.data.loading import require_source
from autotl.data.splits import Split
from autotl.devices import Slot, parse_devices, threads_by_type
from autotl.errors import AutotlError
from autotl.events import Callback, SearchStarted
from autotl.folders import claim_cache, claim_study
from autotl.locks import FileLock, Timeout
from autotl.registry import Registry, load_registry
from autotl.study.scheduler import Scheduler
from autotl.study.storage import study_exists
from autotl.study.study import TrialAttribute
from autotl.study.trials import StudyTrials
from autotl.trial.events import notify_ended
from autotl.ui.progress import Progress
from autotl.workers.forking import can_fork
from autotl.workers.messages import Context
from autotl.workers.pool import WorkerPool

__all__ = ["run_search"]

SHORT_SEARCH = 60.0
"""Seconds up to which a search starts one CPU worker before the others."""


def run_search(
    config: StudyConfig,
    progress: Progress,
    *,
    extend: bool = False,
    images: Sequence[LabelledImage] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Mapping[str, Any]:
    """Search, and return what `result.json` holds, the leaderboard and where the model is.

    Args:
        extend: search in a new study, which takes over the fitting trials of the one that `config` names.
        images: the labelled images, where `config.data` is only a name for them.
        callbacks: are told of events, and may stop the search.

    Raises:
        AutotlError: what the user can mend; NoTrialSucceeded where no trial did.
        KeyboardInterrupt: Ctrl-C came twice, or before there was a model.
    """
    # a callback may change the current folder
    config = config.model_copy(update={"output": config.output.absolute(), "cache": config.cache.absolute()})
    try:
        return _run(config, progress, extend=extend, images=images, callbacks=callbacks)
    except (DiskFull, OSError) as error:
        full = as_disk_full(error, config.folder)
        if full is None:
            raise
        raise DiskFull(f"{full} {_how_to_free_space(full.path, config)}", full.path) from error


def _how_to_free_space(path: Path, config: StudyConfig) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    from autotl.features.store import FeatureStore, StoreUnavailable

    features = config.cache / "features"
    option = "--cache" if path.is_relative_to(config.cache) else "--output"
    if path.is_relative_to(HF_HUB_CACHE):
        option = "the environment variable HF_HOME"
    freed = 0
    with suppress(StoreUnavailable, DiskFull, OSError):
        if features.is_dir() and same_disk(features, path):
            freed = FeatureStore(features).freeable_bytes()
    cache = f" --cache {shlex.quote(str(config.cache))}" if config.cache != default_cache().absolute() else ""
    remedy = f"`autotl cache clear{cache}` would free {format_bytes(freed)} there" if freed else "Free space there"
    return (
        f"{remedy}, or use another disk with {option}. Finished trials are kept: run the same command again once there "
        "is space."
    )


def _run(
    config: StudyConfig,
    progress: Progress,
    *,
    extend: bool,
    images: Sequence[LabelledImage] | None,
    callbacks: Sequence[Callback],
) -> Mapping[str, Any]:
    clock = SystemClock()
    started = clock.now()
    registry = load_registry(config.without_plugins, strict=config.strict_plugins)
    check_registered(config, registry)
    claim_cache(config.cache)
    # a wrong name is refused before a folder is made, which may have that name
    if images is None:
        require_source(config.data, registry.datasets)
    local = [] if cluster_of(config.devices, registry) else parse_devices(config.devices, force=config.force)
    extends = config.folder if extend else None
    if extends:
        if search_runs(extends):
            raise AutotlError(f"A search runs in {extends}: extend it when that has ended.")
        config = extension_of(config)
    with ExitStack() as stack:
        stack.enter_context(no_downloads(when=config.forbids_downloads))  # workers inherit it
        stack.enter_context(_exclusive(config.folder))
        interrupts = stack.enter_context(handle_signals(clock))
        if extends:  # its images keep their subsets
            shutil.copyfile(extends / SPLIT_FILE, config.folder / SPLIT_FILE)
        watchdog = stack.enter_context(Watchdog(interrupts, progress.log))
        # the workers start first: they import torch while the images are verified
        launcher, slots = open_launcher(config, registry, local, progress.log)
        # a cluster's processes have cores of their own, so they start together
        first, later = (slots, []) if launcher.serves_study else _first_to_start(slots, config)
        pool = WorkerPool(launcher, first, clock)
        try:
            policy = DownloadPolicy(config, progress.confirm, clock)
            try:
                context = prepare(config, registry, slots, progress.log, images, progress.checking, policy)
            finally:
                progress.checking(0, 0)
            started += policy.seconds_asked
            probed = await_probes(pool, config, clock, progress.log)
            if probed != first:  # CPU workers take the place of an accelerator that doesn't work, and all have started
                later = []
            slots = [*probed, *later]
            context = with_slots(context, slots)
            fetching = Fetching(list(policy.missing), progress.log, config.without_plugins, clock)
            stack.callback(fetching.close)
            context = _with_weights(context, registry, fetching)
            study = begin_study(config, context, registry, extends, progress.log)
            trials = StudyTrials(study, config.folder, partial(_notify_ended, watchdog, registry, study))
            search = Coordinator(
                config=config,
                trials=trials,
                scheduler=_scheduler(config, slots, context, registry, trials),
                pool=pool,
                clock=clock,
                progress=progress,
                interrupts=interrupts,
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
            search.resume()
            search.start(_search_started(config, slots, context))
            if launcher.serves_study:
                pool.service = study_service(context.folder, context.dataset.paths)
                context = replace(context, backbone_digests=backbone_digests(context, registry))
            pool.set_up(context)
            interrupts.searching = True
            search.run()
            fetching.close()  # what has arrived is kept for the next search
            result = finalize(search)
            pool.close()
            return result
        finally:
            pool.close(immediately=True)
            shutil.rmtree(config.folder / "cache", ignore_errors=True)


def _first_to_start(slots: list[Slot], config: StudyConfig) -> tuple[list[Slot], list[Slot]]:
    """The slots whose workers start at once, and those whose workers start when one of the first is ready.

    Forked workers all start at once. Workers that each import the libraries are all late if they start together: CPU
    workers have nothing to do before an accelerator has recorded features, and in a short search without accelerators
    the first worker has the cores to itself.
    """
    if can_fork():
        return slots, []
    accelerators = [slot for slot in slots if slot.is_accelerator]
    if accelerators:
        return accelerators, [slot for slot in slots if not slot.is_accelerator]
    is_short = config.time is not None and config.time <= SHORT_SEARCH
    num_first = 1 if is_short else len(slots)
    return slots[:num_first], slots[num_first:]


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
        tried=[trial.params for trial in trials.all() if TrialAttribute.SAMPLE not in trial.user_attrs],
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


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the study's lock: a study has one coordinator at a time. A search that fails before its study exists leaves
    no folder."""
    is_new = not os.path.lexists(folder)
    claim_study(folder)
    refuse_links_out(folder)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise AutotlError(
            f"A search runs in {folder} already. Add workers to it with --join, or give this one another --name."
        ) from None
    except OSError as error:
        raise as_disk_full(error, folder) or AutotlError(
            f"{folder} can't be locked: {error.strerror or error}. Give another --output."
        ) from error
    try:
        yield
    finally:
        if is_new and not study_exists(folder):
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()
