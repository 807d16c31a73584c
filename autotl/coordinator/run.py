"""A search from start to model. The process that runs this is the coordinator; it imports no torch."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autotl.atomic_io import DiskFull, disk_full, format_bytes, refuse_links_out, same_disk
from autotl.backbones.weights import allow_downloads
from autotl.config import StudyConfig, check_names, default_cache
from autotl.coordinator.coordinator import Coordinator
from autotl.coordinator.extend import extension_of
from autotl.coordinator.join import search_runs
from autotl.coordinator.signals import listening
from autotl.devices import parse_devices
from autotl.errors import AutotlError
from autotl.registry import load_registry
from autotl.ui.progress import Progress
from autotl.workers.pool import LocalWorkers

__all__ = ["run_search"]


def run_search(config: StudyConfig, progress: Progress, extend: bool = False) -> dict[str, Any]:
    """Search, and return what `result.json` holds and where the model is. `extend`: in a new study, which takes over
    the trials of the one that `config` names.

    Raises AutotlError for what the user can mend, NoTrialSucceeded where no trial did, and KeyboardInterrupt where
    Ctrl-C came before there was a model, or twice.
    """
    try:
        return _run(config, progress, extend)
    except (DiskFull, OSError) as error:
        full = disk_full(error, config.folder)
        if full is None:
            raise
        raise DiskFull(f"{full} {_room_for(full.path, config)}", full.path) from error


def _room_for(path: Path, config: StudyConfig) -> str:
    """How to make room where `path` lies, and what becomes of the search."""
    from autotl.features.store import FeatureStore, StoreUnavailable

    features = config.cache / "features"
    elsewhere = "--cache" if path.is_relative_to(config.cache) else "--output"
    freed = 0
    with suppress(StoreUnavailable, DiskFull, OSError):
        if features.is_dir() and same_disk(features, path):
            freed = FeatureStore(features).could_free()
    cache = f" --cache {config.cache}" if config.cache != default_cache() else ""
    ways = f"`autotl cache clear{cache}` would free {format_bytes(freed)} there" if freed else "Make room there"
    return (
        f"{ways}, or put it on another disk with {elsewhere}. Trials that are finished are kept: the same command "
        "goes on once there is room."
    )


def _run(config: StudyConfig, progress: Progress, extend: bool) -> dict[str, Any]:
    began = time.monotonic()
    registry = load_registry(config.without_plugins, config.strict_plugins)
    check_names(config, registry)
    if config.offline:
        allow_downloads(False)  # workers inherit it
    slots = parse_devices(config.devices)
    extends = config.folder if extend else None
    if extends:
        if search_runs(extends):
            raise AutotlError(f"A search runs in {extends}: extend it when that has ended.")
        config = extension_of(config, registry)
    with _only_one(config.folder), listening() as interrupts:
        if extends:  # its images keep their parts
            shutil.copyfile(extends / "split.json", config.folder / "split.json")
        workers = LocalWorkers(slots, config.folder)  # they import torch while we look at the images
        try:
            search = Coordinator(config, progress, registry, slots, workers, began, interrupts, extends)
            search.prepare()
            interrupts.searching = True
            search.run()
            result = search.finish()
            workers.close()
            return result
        finally:
            workers.close(at_once=True)
            shutil.rmtree(config.folder / "cache", ignore_errors=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """A study has one coordinator at a time. A search that fails before its study begins leaves no folder."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links_out(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise AutotlError(
            f"A search runs in {folder} already. Add workers to it with --join, or give this one another --name."
        ) from None
    finally:
        if made and not (folder / "journal.log").exists():
            shutil.rmtree(folder, ignore_errors=True)
