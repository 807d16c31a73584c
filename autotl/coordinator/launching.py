"""Which launcher runs a search's workers: this machine's own processes, or a cluster that a plugin knows."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.clock import Clock
from autotl.clusters import Cluster, StudySite
from autotl.config import StudyConfig
from autotl.coordinator.signals import Interrupts
from autotl.coordinator.watchdog import Watchdog
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.registry import Registry
from autotl.study.kept_database import kept_database
from autotl.ui.progress import Progress
from autotl.workers.launcher import Launcher
from autotl.workers.local import LocalLauncher
from autotl.workers.messages import Context
from autotl.workers.pool import WorkerPool
from autotl.workers.rendezvous import Rendezvous

if TYPE_CHECKING:
    from autotl.workers.service import StudyService

__all__ = ["LaunchedSearch", "backbone_digests", "cluster_of", "devices_text", "open_launcher", "study_service"]


@dataclass
class LaunchedSearch:
    """A search whose workers have been started."""

    config: StudyConfig
    registry: Registry
    progress: Progress
    clock: Clock
    started: float
    """When it began, on `clock`."""
    interrupts: Interrupts
    watchdog: Watchdog
    pool: WorkerPool
    slots: list[Slot]
    """Those of `later`, too."""
    later: list[Slot]
    """Slots whose workers start when one of the first is ready."""


def cluster_of(devices: str, registry: Registry) -> tuple[Cluster, str] | None:
    """The cluster of `dask:tcp://host:8786`, and what stands after the colon; None for devices of this machine."""
    name, colon, where = devices.strip().partition(":")
    cluster = registry.clusters.get(name) if colon else None
    if cluster is None and "://" in where:
        known = f" Known: {', '.join(sorted(registry.clusters))}." if registry.clusters else ""
        raise AutotlError(
            f"--devices {devices!r}: no plugin knows clusters called {name!r}.{known} For Dask: pip install autotl-dask"
        )
    return (cluster, where) if cluster else None


def devices_text(devices: object, registry: Registry) -> str:
    """The text of `--devices` for what a Python caller gave. Raises AutotlError for an object of no cluster."""
    if isinstance(devices, str):
        return devices
    for name, cluster in registry.clusters.items():
        if where := cluster.where(devices):
            return f"{name}:{where}"
    raise AutotlError(
        f"devices={devices!r} is neither a text such as 'cuda:0,cpu*4' nor a client of a cluster that a plugin knows. "
        "For a Dask Client: pip install autotl-dask"
    )


def open_launcher(
    config: StudyConfig, registry: Registry, local: list[Slot], log: Callable[[str], None]
) -> tuple[Launcher, list[Slot]]:
    """The launcher of a search, and its slots.

    Args:
        local: the slots on this machine, which are those of the search unless it runs on a cluster.

    Raises:
        AutotlError: the cluster can't be reached, or can't run this search.
    """
    found = cluster_of(config.devices, registry)
    if found is None:
        return LocalLauncher(config.folder / "logs", Rendezvous(config.folder)), local
    cluster, where = found
    environment = {name: os.environ[name] for name in ("AUTOTL_OFFLINE", "AUTOTL_PLUGINS") if name in os.environ}
    launcher = cluster.connect(where, StudySite(config.folder.absolute(), config.cache, log, environment))
    slots = launcher.new_slots()
    if not slots:
        launcher.close()
        raise AutotlError(f"--devices {config.devices!r}: the cluster has no workers. Start some, and try again.")
    log(f"{config.devices}: {', '.join(slot.name for slot in slots)}")
    return launcher, slots


def study_service(folder: Path, images: Sequence[Path]) -> "StudyService":
    """What answers the workers of a cluster, for the study in `folder`."""
    from autotl.study.storage import Journal
    from autotl.workers.service import StudyService

    with suppress(OSError):
        (folder / "cache").mkdir(exist_ok=True)
    return StudyService(folder, None if kept_database(folder) else Journal(folder), images)


def backbone_digests(context: Context, registry: Registry) -> dict[str, str]:
    """The digests of a search's backbones whose weights are on this machine, by name."""
    backbones = [registry.backbone(name) for name in context.choices.backbones]
    return {backbone.name: backbone.digest for backbone in backbones if backbone.is_cached}
