"""What a worker keeps between its jobs: plugins, the study, networks, and memory maps of features."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np
import optuna

from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.engines import micro_batch
from autotl.engines.accelerator import is_accelerator
from autotl.engines.recorded import FeatureSource, RecordedEngine
from autotl.features.extractor import FeatureExtractor
from autotl.features.pool import FeaturePool
from autotl.features.resident import ResidentCache, free_memory
from autotl.features.store import FeatureStore, StoreUnavailable
from autotl.registry import Registry, load_registry
from autotl.study.artifacts import upload_picture
from autotl.study.storage import open_storage
from autotl.study.study import load_study
from autotl.trial.study_link import StudyLink, require_same_weights
from autotl.workers.messages import Context, FromWorker, HookCalled, Log, PluginFailed

__all__ = ["Send", "WorkerState"]

Send: TypeAlias = Callable[[FromWorker], None]


@dataclass
class WorkerState:
    """State of one worker, from Setup to the end of its process.

    Args:
        send: sends a message to the coordinator.
        deadline: when trials have to be done. The coordinator may move it at any time.
    """

    context: Context
    send: Send
    deadline: Deadline
    registry: Registry
    study: optuna.Study
    extractor: FeatureExtractor
    link: StudyLink | None = None
    """To the study of a coordinator on another host."""
    _readers: dict[FeatureSource, FeatureExtractor] = field(default_factory=dict)
    """Extractors that only read, by whose features they read."""
    untimed_backbones: set[str] = field(default_factory=set)
    """Backbones whose latency is measured after the running job."""
    timed_backbones: set[str] = field(default_factory=set)

    @classmethod
    def set_up(cls, context: Context, send: Send, deadline: Deadline, link: StudyLink | None = None) -> "WorkerState":
        """Load plugins, open the study and prepare the extraction of features.

        Raises:
            AutotlError: an unreadable study, StudyDeleted, or BrokenPlugin under --strict-plugins.
        """
        from autotl.data.device_images import can_decode

        context = link.localize(context) if link else context
        config, slot = context.config, context.slot
        registry = load_registry(config.without_plugins, strict=config.strict_plugins)
        if link:
            require_same_weights(context, registry)
        registry.on_plugin_failure = lambda plugin, hook, text: send(PluginFailed(plugin, hook, text))
        registry.on_notify = lambda plugin, hook: send(HookCalled(plugin, hook))
        folder, copy = context.folder, context.copy
        storage = link.storage(context.database) if link else open_storage(folder, wait=True, copy=copy)
        study = load_study(context.folder, config.seed, config.limits, storage, config.name if link else "")
        study_cache = context.folder / "cache"  # the coordinator removes it when the search ends
        engine = registry.engine(config.engine, slot.device)
        extractor = FeatureExtractor(
            dataset=context.dataset,
            split=context.split,
            store=FeatureStore(study_cache / "features", config.cache_size),
            boundary_store=FeatureStore(study_cache / "boundary", config.cache_size),
            engine=engine,
            device=slot.device,
            threads=slot.threads,
            conversions=study_cache / "engines",
            deadline=deadline,
            on_progress=send,
            log=lambda line: send(Log(line)),
            augmentations=registry.augmentations,
            feature_levels=registry.levels,
            pool=_pool(config, link),
            first_bucket=crc32(slot.name.encode()),
            decodes=engine.takes_tensors and can_decode(slot.device),
            resident=ResidentCache(lambda: free_memory(slot.device)) if is_accelerator(slot.device) else None,
        )
        micro_batch.persist_to(context.folder / "micro_batches" / f"{slot.place.replace(':', '-')}.json")
        try:
            extractor.store = FeatureStore(config.cache / "features", config.cache_size)
            extractor.conversions = config.cache / "engines"
        except StoreUnavailable as error:
            send(Log(_cache_warning(error)))
        return cls(context, send, deadline, registry, study, extractor, link)

    @property
    def study_folder(self) -> Path:
        """The study's folder, on the coordinator's machine where that is another one."""
        return self.link.home if self.link else self.context.folder

    def publish(self, *names: str) -> None:
        """Send files and folders that this worker has written to the study's folder, where that is on another host."""
        if self.link:
            self.link.publish(*names)

    def upload_picture(self, trial: optuna.Trial | None, name: str, svg: str) -> None:
        """Upload a drawing as an artifact of a trial, or of the study where `trial` is None."""
        artifact = upload_picture(self.study, trial, self.context.folder, name, svg)
        self.publish(f"artifacts/{artifact}")

    def source(self) -> FeatureSource:
        """What another worker needs to know to read the features that this one records."""
        extractor = self.extractor
        engine, device = extractor.engine, extractor.device
        return FeatureSource(
            extractor.store.root.parent.absolute(),
            engine.name,
            engine.version(),
            engine.precision(device),
            device.split(":")[0],
            extractor.decodes,
        )

    def reading(self, source: FeatureSource) -> "WorkerState":
        """The state with an extractor that reads another device's recorded features, and raises NotRecorded where
        some are missing. Its networks are built once for all trials."""
        if source not in self._readers:
            self._readers[source] = replace(
                self.extractor,
                store=FeatureStore(source.cache / "features", self.context.config.cache_size),
                conversions=source.cache / "engines",
                engine=RecordedEngine(source),
                device=source.device_type,
                decodes=source.decodes,
            )
        return replace(self, extractor=self._readers[source])

    def replace_cache(self, error: StoreUnavailable) -> None:
        """Extract features into the study's own folder from now on, since the cache can't be written any more.

        Raises `error` if the study's own folder was in use already.
        """
        study_cache = self.context.folder / "cache"
        if self.extractor.store.root == study_cache / "features":
            raise error
        store = FeatureStore(study_cache / "features", self.context.config.cache_size)
        self.extractor.move_to(store, study_cache / "engines")
        self.send(Log(_cache_warning(error)))

    def labels(self, subset: Literal["train", "validation", "test", "development"]) -> np.ndarray:
        """Class indices of the images of a subset, or of all but the test images, [n]."""
        return self.context.dataset.labels[getattr(self.context.split, subset)]


def _pool(config: StudyConfig, link: StudyLink | None) -> FeaturePool | None:
    if not config.pool:
        return None
    return FeaturePool(config.pool, link.claim, link.release) if link else FeaturePool(config.pool)


def _cache_warning(error: StoreUnavailable) -> str:
    return f"warning: {error} This search keeps its features in its own folder and removes them when it ends."
