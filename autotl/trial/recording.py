"""Record features ahead: the job of an accelerator's worker from which the trials of all workers read."""

import traceback

from autotl.atomic_io import as_disk_full
from autotl.data.augmentation import views_of
from autotl.devices import is_device_error
from autotl.engines.recorded import FeatureSource
from autotl.features.latency import latency_of
from autotl.features.sharing import StoreTimeout
from autotl.features.store import StoreUnavailable
from autotl.study.needs import Recording
from autotl.trial.runner import MAX_CAUSE_LENGTH, release_memory
from autotl.trial.state import WorkerState
from autotl.workers.messages import Recorded

__all__ = ["record"]


def record(state: WorkerState, recording: Recording) -> bool:
    """Record the features of the training and validation images, as far as they aren't. Sends Recorded.

    Returns:
        False after an accelerator error, which makes everything that this process computes later unreliable.

    Raises:
        DiskFull: the disk is full.
    """
    try:
        try:
            source = _record(state, recording)
        except StoreUnavailable as error:
            state.replace_cache(error)
            source = _record(state, recording)
    except StoreTimeout:
        state.send(Recorded(None))
        return True
    except Exception as error:
        if full := as_disk_full(error, state.context.folder):
            raise full from error
        traceback.print_exc()  # to the worker's log
        cause = f"{type(error).__name__}: {error}".strip()[:MAX_CAUSE_LENGTH]
        failed = is_device_error(error)
        state.send(Recorded(None, cause, is_device_error=failed))
        return not failed
    state.send(Recorded(source))
    release_memory()
    return True


def _record(state: WorkerState, recording: Recording) -> FeatureSource:
    features = state.extractor.of(state.registry.backbone(recording.backbone))
    latency_of(features)  # the workers that only read these features can't measure it
    levels = next(iter(state.context.choices.levels))  # any: the recorded features are those of all levels
    for view in views_of(recording.policy, recording.views, state.registry.augmentations):
        for subset in ("train", "validation"):
            features.levels(subset, levels, view)
    return state.source()
