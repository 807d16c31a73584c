"""All problems of a dataset, including those at which a search stops: what `autotl doctor` reports."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotl.data.dataset import DatasetSource, Finding, ImageDataset, Skipped
from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.errors import DataError

__all__ = ["BLOCKING_CODES", "Diagnosis", "diagnose"]

BLOCKING_CODES = ("unusable", "one_class", "class_without_images", "unknown_class", "split_failed")
"""Codes of the findings with which a search can't start."""
MAX_EXAMPLES = 5


@dataclass(frozen=True)
class Diagnosis:
    """`dataset` holds the images that could be loaded; None if there are none."""

    dataset: ImageDataset | None
    findings: tuple[Finding, ...]
    """Serious findings first."""

    @property
    def blocks_search(self) -> bool:
        """Whether a search on this dataset would stop with an error."""
        return any(finding.code in BLOCKING_CODES for finding in self.findings)


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
    """Load, audit and split a dataset as a search does, but continue where a search would stop.

    Problems of the data become findings and raise nothing. `seed` is the seed of the split; the other arguments are
    those of `load_dataset`.
    """
    findings: list[Finding] = []
    try:
        dataset = load_dataset(
            location, sources, test=test, threads=threads, cache=cache, progress=progress, on_problem=findings.append
        )
    except DataError as error:
        return Diagnosis(None, (*findings, Finding("unusable", str(error), 1, serious=True)))
    findings += dataset.findings
    findings += _undecodable(dataset.skipped)
    if not any(finding.code in ("one_class", "class_without_images") for finding in findings):
        findings += _split_findings(dataset, seed)
    return Diagnosis(dataset, tuple(sorted(findings, key=lambda finding: not finding.serious)))


def _undecodable(skipped: Sequence[Skipped]) -> list[Finding]:
    """One finding for each reason, the most frequent first."""
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for image in skipped:
        by_reason[image.reason].append(image)
    return [
        Finding(
            "undecodable",
            f"{len(images):,} {'file was' if len(images) == 1 else 'files were'} left out: {reason}",
            len(images),
            tuple(str(image.path) for image in images[:MAX_EXAMPLES]),
            serious=False,
        )
        for reason, images in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def _split_findings(dataset: ImageDataset, seed: int) -> list[Finding]:
    """The warnings or the error of the split that a search would make."""
    try:
        split = make_split(dataset, seed)
    except DataError as error:
        return [Finding("split_failed", str(error), 1, serious=True)]
    return [Finding("split_warning", text, 1, serious=True) for text in split.warnings]
