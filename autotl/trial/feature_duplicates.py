"""Near-duplicates that only a network sees (mirrored, turned and cropped copies, photographs of one thing), where the
split has torn them. Folds are in use by the time that features are recorded, so they are said and not mended."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autotl.clock import Deadline
from autotl.data.audit import MAX_EXAMPLES, SERIOUS_SHARE
from autotl.data.dataset import Finding, ImageDataset
from autotl.data.near_duplicates import MAX_COMPARED, near_duplicates_by_features
from autotl.data.splits import Split, units_of
from autotl.model.member import Member
from autotl.trial.state import WorkerState
from autotl.workers.messages import Log

__all__ = ["add_feature_duplicates", "torn_pairs"]

SECONDS_PER_PAIR = 4e-8
"""To compare the features of two images, on one slow core."""
MAX_SHARE = 0.5
"""Of the remaining time that the comparison may take."""
TEST = -2
"""The part of test images; other parts are folds."""


def add_feature_duplicates(state: WorkerState, members: Sequence[Member], deadline: Deadline) -> WorkerState:
    """The state with a finding of its dataset more, where the features of a frozen network that the model has are
    recorded and there is time to compare them. A serious finding is told at once."""
    frozen = next((member for member in members if member.fitted.backbone_state is None), None)
    dataset, split = state.context.dataset, state.context.split
    indices = np.concatenate([split.development, split.test])
    most = MAX_SHARE * deadline.remaining()
    if frozen is None or len(indices) > MAX_COMPARED or SECONDS_PER_PAIR * len(indices) ** 2 > most:
        return state
    extracted = state.extractor.of(state.registry.backbone(frozen.recipe.backbones[0]))
    samples = extracted.recorded(indices)
    if samples is None:  # the test images are predicted without recording anything
        indices = split.development
        samples = extracted.recorded(indices)
    if samples is None:
        return state
    features = samples[:][:, extracted.layout.output].astype(np.float32)
    finding = _finding(dataset, split, torn_pairs(features, indices, dataset, split))
    if finding is None:
        return state
    told = (finding.line(),) if finding.serious else ()
    for line in told:
        state.send(Log(line))
    dataset = replace(dataset, findings=(*dataset.findings, finding), warnings=(*dataset.warnings, *told))
    return replace(state, context=replace(state.context, dataset=dataset))


def torn_pairs(features: np.ndarray, indices: np.ndarray, dataset: ImageDataset, split: Split) -> np.ndarray:
    """int64 [m, 2]: images of the dataset that are near-duplicates by features [n, num_features] alone, and lie in
    different parts: in different folds, or one of them is a test image.

    Args:
        indices: of the images that the features belong to, [n].
    """
    pairs = indices[near_duplicates_by_features(features)]
    units, parts = units_of(dataset, np.arange(len(dataset))), np.full(len(dataset), TEST)
    parts[split.development] = split.development_folds
    by_looks = units[pairs[:, 0]] == units[pairs[:, 1]]
    return pairs[~by_looks & (parts[pairs[:, 0]] != parts[pairs[:, 1]])]


def _finding(dataset: ImageDataset, split: Split, pairs: np.ndarray) -> Finding | None:
    if not len(pairs):
        return None
    is_test = np.isin(pairs, split.test)
    tested = np.unique(pairs[is_test & ~is_test[:, ::-1]])
    where = f"; {len(tested):,} of {len(split.test):,} test images are near a training image" if len(tested) else ""
    text = (
        f"{len(pairs):,} {'pair' if len(pairs) == 1 else 'pairs'} of images with nearly the same features (mirrored, "
        f"turned or cropped copies, or photographs of one thing) {'is' if len(pairs) == 1 else 'are'} torn by the split"
        f"{where}: scores may be optimistic. A manifest's column group keeps such images on one side."
    )
    examples = tuple(f"{dataset.paths[i]} and {dataset.paths[j]}" for i, j in pairs[:MAX_EXAMPLES])
    serious = len(pairs) >= SERIOUS_SHARE * len(dataset)
    example = f"For example {examples[0]}."
    return Finding("near_duplicates_by_features", text, len(pairs), examples, example, serious=serious)
