"""Diagnosis of a dataset, errors included: the findings that `autotl doctor` shows."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotl.data.dataset import DatasetSource, Finding, ImageDataset, Skipped
from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.errors import DataError

__all__ = ["Diagnosis", "diagnose"]

MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` returns. `dataset` is None if no image could be loaded."""

    dataset: ImageDataset | None
    findings: tuple[Finding, ...]
    """The serious ones first."""


def diagnose(
    location: str,
    sources: Mapping[str, DatasetSource],
    *,
    test: str | None = None,
    seed: int = 0,
    threads: int = 2,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Load and split a dataset as a search does, but turn errors into findings and continue.

    Arguments are those of `load_dataset`; `seed` is the seed of the split. Problems of the data raise nothing.
    """
    findings: list[Finding] = []
    try:
        dataset = load_dataset(
            location, sources, test=test, threads=threads, cache=cache, progress=progress, tolerate=findings.append
        )
    except DataError as error:
        return Diagnosis(None, (*findings, Finding("unusable", True, str(error), 1)))
    findings += dataset.findings
    findings += _undecodable(dataset.skipped)
    if not any(finding.code in ("one_class", "class_without_images") for finding in findings):
        findings += _split(dataset, seed)
    return Diagnosis(dataset, tuple(sorted(findings, key=lambda finding: not finding.serious)))


def _undecodable(skipped: Sequence[Skipped]) -> list[Finding]:
    """One finding for each reason."""
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for image in skipped:
        by_reason[image.reason].append(image)
    return [
        Finding(
            "undecodable",
            False,
            f"{len(images):,} {'file is' if len(images) == 1 else 'files are'} left out: {reason}",
            len(images),
            tuple(str(image.path) for image in images[:MAX_EXAMPLES]),
        )
        for reason, images in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def _split(dataset: ImageDataset, seed: int) -> list[Finding]:
    """The warnings of the split that a search would make, or its error."""
    try:
        split = make_split(dataset, seed)
    except DataError as error:
        return [Finding("no_split", True, str(error), 1)]
    return [Finding("split_warning", True, text, 1) for text in split.warnings]
