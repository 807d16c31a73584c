"""A search from start to model. The process that runs it is the coordinator; it imports no torch.

Nothing that this module imports imports Optuna or scikit-learn: the workers, which take seconds to start, start first.
"""

import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from autotl.atomic_io import DiskFull, as_disk_full, format_bytes, refuse_links_out, same_disk
from autotl.backbones.weights import no_downloads
from autotl.clock import SystemClock
from autotl.config import StudyConfig, check_registered, default_cache
from autotl.coordinator.launching import LaunchedSearch, cluster_of, open_launcher
from autotl.coordinator.signals import handle_signals
from autotl.coordinator.watchdog import Watchdog
from autotl.data.dataset import LabelledImage
from autotl.data.loading import require_source
from autotl.devices import Slot, parse_devices
from autotl.errors import AutotlError
from autotl.events import Callback
from autotl.features.pool import FeaturePool
from autotl.folders import claim_cache, claim_study
from autotl.locks import FileLock, Timeout
from autotl.registry import load_registry
from autotl.study.kept_database import study_exists
from autotl.ui.progress import Progress
from autotl.workers.forking import can_fork
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
    finally:
        progress.close()


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
    if config.pool:
        FeaturePool(config.pool).require_readable()
    # a wrong name is refused before a folder is made, which may have that name
    if images is None:
        require_source(config.data, registry.datasets)
    local = [] if cluster_of(config.devices, registry) else parse_devices(config.devices, force=config.force)
    extends = config.folder if extend else None
    if extends:
        from autotl.coordinator.extend import extension_of
        from autotl.coordinator.join import search_runs
        from autotl.coordinator.setup import SPLIT_FILE

        if search_runs(extends):
            raise AutotlError(f"A search runs in {extends}: extend it when that has ended.")
        config = extension_of(config)
        refuse_links_out(extends)
        if not (extends / SPLIT_FILE).is_file():
            raise AutotlError(
                f"{extends} has no {SPLIT_FILE}, so that nothing says which images its trials have learnt from. "
                "Leave --extend out, and give another --name."
            )
    with ExitStack() as stack:
        stack.enter_context(no_downloads(when=config.forbids_downloads))  # workers inherit it
        stack.enter_context(_exclusive(config.folder))
        interrupts = stack.enter_context(handle_signals(clock))
        watchdog = stack.enter_context(Watchdog(interrupts, progress.log))
        # the workers start first: they import torch while this process imports Optuna and verifies the images
        launcher, slots = open_launcher(config, registry, local, progress.log)
        # a cluster's processes have cores of their own, so they start together
        first, later = (slots, []) if launcher.serves_study else _first_to_start(slots, config)
        pool = WorkerPool(launcher, first, clock)
        try:
            from autotl.coordinator.searching import search

            launched = LaunchedSearch(
                config, registry, progress, clock, started, interrupts, watchdog, pool, slots, later
            )
            return search(launched, extends=extends, images=images, callbacks=callbacks)
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
