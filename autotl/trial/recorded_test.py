"""What the networks of a model compute of the test images, recorded while trials still run.

Nothing is chosen by it: it is first read when the model is complete. Without it the test images would have to be
predicted in the last seconds of a search, for which a duration would have to be guessed.
"""

import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import product

import numpy as np

from autotl.atomic_io import as_disk_full, write_atomically
from autotl.backbones.base import Backbone
from autotl.data.augmentation import ORIGINAL, View
from autotl.devices import is_device_error
from autotl.errors import AutotlError, find_named
from autotl.features.joined import JoinedFeatures
from autotl.features.sharing import StoreTimeout
from autotl.features.store import StoreUnavailable
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.study.fold_file import read_fold_file
from autotl.study.study import TEST_FILE
from autotl.trial.refit import EarlierModel
from autotl.trial.runner import MAX_CAUSE_LENGTH, release_memory
from autotl.trial.selection import Candidate, choose_members, kept_candidates
from autotl.trial.state import WorkerState
from autotl.trial.tested_features import MAX_IMAGES
from autotl.workers.messages import Recorded, RecordTest, member_folder

__all__ = ["MANY_IMAGES", "frozen_outputs", "record_test", "recorded_passes", "recorded_probabilities"]

MANY_IMAGES = 256
"""Number of test images from which compiling a network for an engine is worth its time."""
MAX_ATTEMPTS = 3
CHUNK = 512
"""Images whose recorded features are in memory at once."""


def record_test(state: WorkerState, job: RecordTest) -> bool:
    """Record what the model needs of the test images, if the trials that are complete now are the last ones: the
    features of its frozen networks, and the probabilities of its fine-tuned members. Sends Recorded.

    Returns:
        False after an accelerator error, which makes everything that this process computes later unreliable.

    Raises:
        DiskFull: the disk is full.
    """
    try:
        for member in _choose_members(state, job):
            _record(state, member)
    except (StoreTimeout, StoreUnavailable, FileNotFoundError):  # what is missing is computed at the end
        state.send(Recorded(None))
        return True
    except Exception as error:
        if full := as_disk_full(error, state.context.folder):
            raise full from error
        traceback.print_exc()  # to the worker's log
        failed = is_device_error(error)
        cause = f"{type(error).__name__}: {error}".strip()[:MAX_CAUSE_LENGTH]
        state.send(Recorded(None, cause, is_device_error=failed))
        return not failed
    state.send(Recorded(None))
    release_memory()
    return True


def _choose_members(state: WorkerState, job: RecordTest) -> list[Member]:
    """The members that would be chosen now. While they are, a better trial may end, and the fitted model of a worse one
    is removed; none after MAX_ATTEMPTS."""
    for _ in range(MAX_ATTEMPTS):
        candidates = kept_candidates(state)
        if not candidates:  # none within the limits
            return []
        limits = job.seconds_per_image, job.time_limit, EarlierModel.of(state).folders
        with suppress(AutotlError):
            return choose_members(state, candidates, *limits, recorded_passes(state, candidates))[0]
    return []


def _record(state: WorkerState, member: Member) -> None:
    backbone = state.registry.backbone(member.recipe.backbone)
    if member.fitted.backbone_state is None:
        for view in member.fitted.views:
            JoinedFeatures.of(state.extractor, backbone).levels("test", member.fitted.levels, view)
        return
    file = member_folder(state.context.folder, member.trial) / TEST_FILE
    if file.exists():
        return
    probabilities = _predicted(state, member, backbone)
    write_atomically(file, lambda opened: np.save(opened, probabilities))


def _predicted(state: WorkerState, member: Member, backbone: Backbone) -> np.ndarray:
    """A fine-tuned member's probabilities of the test images, [n, num_classes]. Raises StoreTimeout."""
    dataset, test = state.context.dataset, state.context.split.test
    model = ImageModel(
        dataset.classes,
        [member],
        {member.backbone_digest: backbone},
        registry=state.registry,
        device=state.context.slot.device,
        threads=state.context.slot.threads,
        conversions=state.extractor.conversions,
    )
    rows = []
    for _, row in model.stream([dataset.paths[i] for i in test], many=len(test) > MANY_IMAGES, checked=True):
        rows.append(row)
        if state.deadline.passed():
            raise StoreTimeout("the time was up before the test images were predicted")
    return np.stack(rows)


def recorded_passes(state: WorkerState, candidates: Iterable[Candidate]) -> set[tuple[str, str]]:
    """The network and the view of each pass over the test images that is recorded, as `Candidate` names them."""
    passes: set[tuple[str, str]] = set()
    for candidate in candidates:
        for (key, backbone), view in product(candidate.networks, candidate.views):
            if (key, view) in passes:
                continue
            if candidate.tuned:
                is_recorded = (candidate.folder / TEST_FILE).exists()
            else:
                policy, number = view.rsplit("-", 1)
                features = state.extractor.of(state.registry.backbone(backbone))
                is_recorded = features.recorded("test", View(policy, int(number))) is not None
            if is_recorded:
                passes.add((key, view))
    return passes


def recorded_probabilities(
    state: WorkerState, members: Sequence[Member], refitted: Sequence[int]
) -> tuple[np.ndarray, list[Member]]:
    """What is recorded of the test images: the sum of the members' probabilities, each times its weight,
    [num_test, num_classes]; and the members for which something is missing.

    Args:
        refitted: the trials whose members are no longer those that the trials have left.
    """
    total = np.zeros((len(state.context.split.test), len(state.context.dataset.classes)))
    missing = []
    for member in members:
        is_tuned = member.fitted.backbone_state is not None
        part = _of_tuned(state, member, refitted) if is_tuned else _of_frozen(state, member)
        if part is None or part.shape != total.shape or not np.isfinite(part).all():
            missing.append(member)
        else:
            total += member.weight * part
    return total, missing


def _of_tuned(state: WorkerState, member: Member, refitted: Sequence[int]) -> np.ndarray | None:
    file = member_folder(state.context.folder, member.trial) / TEST_FILE
    if member.trial in refitted or not file.exists():
        return None
    shape = len(state.context.split.test), len(state.context.dataset.classes)
    try:
        return read_fold_file(file.parent, shape, TEST_FILE)
    except (OSError, ValueError):  # torn, or a stranger's
        return None


def _of_frozen(state: WorkerState, member: Member) -> np.ndarray | None:
    parts = JoinedFeatures.of(state.extractor, state.registry.backbone(member.recipe.backbone)).parts
    recorded = {view: [part.recorded("test", view) for part in parts] for view in member.fitted.views}
    if any(samples is None for of_view in recorded.values() for samples in of_view):
        return None
    levels = find_named("levels", member.fitted.levels, state.registry.levels)
    rows = []
    for start in range(0, len(state.context.split.test), CHUNK):
        views = []
        for of_view in recorded.values():
            chunks = [samples[start : start + CHUNK].astype(np.float32) for samples in of_view if samples is not None]
            columns = [c[:, s] for c, part in zip(chunks, parts, strict=True) for s in part.layout.slices(levels)]
            views.append(np.concatenate(columns, axis=1))
        rows.append(member.probabilities(views))
    return np.concatenate(rows)


def frozen_outputs(state: WorkerState, members: Sequence[Member], order: np.ndarray) -> tuple[np.ndarray | None, str]:
    """The recorded outputs of the frozen backbone with the largest weight for the first test images in `order`,
    float16 [m, num_features], and the backbone's digest. None where there is none, or something isn't recorded."""
    weights: dict[str, float] = {}
    names: dict[str, str] = {}
    for member in members:
        if member.fitted.backbone_state is None and ORIGINAL in member.fitted.views:
            for digest, name in zip(member.backbone_digests, member.recipe.backbones, strict=True):
                weights[digest], names[digest] = weights.get(digest, 0.0) + member.weight, name
    if not weights:
        return None, ""
    digest = max(weights, key=lambda key: weights[key])
    extracted = state.extractor.of(state.registry.backbone(names[digest]))
    samples = extracted.recorded("test", ORIGINAL)
    return None if samples is None else samples[order[:MAX_IMAGES]][:, : extracted.layout.output], digest
