"""Everything that is odd about a dataset, errors included: what `autotl doctor` shows."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotl.data.dataset import DatasetSource, Finding, ImageDataset, Skipped
from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.errors import DataError

__all__ = ["Diagnosis", "examine"]

EXAMPLES = 5


@dataclass(frozen=True)
class Diagnosis:
    """`dataset` is what could be looked at; None where that is nothing."""

    dataset: ImageDataset | None
    findings: tuple[Finding, ...]
    """The serious first."""


def examine(
    location: str,
    sources: Mapping[str, DatasetSource],
    *,
    test: str | None = None,
    seed: int = 0,
    threads: int = 2,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Look at a dataset as a search would, and go on where it would stop. Arguments as for `load_dataset`; `seed` is
    that of the split. Raises nothing for what is wrong with the data."""
    found: list[Finding] = []
    try:
        dataset = load_dataset(
            location, sources, test=test, threads=threads, cache=cache, progress=progress, tolerate=found.append
        )
    except DataError as error:
        return Diagnosis(None, (*found, Finding("unusable", True, str(error), 1)))
    found += dataset.findings
    found += _undecodable(dataset.skipped)
    if not any(finding.code in ("one_class", "class_without_images") for finding in found):
        found += _split(dataset, seed)
    return Diagnosis(dataset, tuple(sorted(found, key=lambda finding: not finding.serious)))


def _undecodable(skipped: Sequence[Skipped]) -> list[Finding]:
    """One finding for each reason."""
    by_reason: dict[str, list[Skipped]] = defaultdict(list)
    for image in skipped:
        by_reason[image.reason].append(image)
    return [
        Finding(
            "undecodable",
            False,
            f"{len(some):,} {'file is' if len(some) == 1 else 'files are'} left out: {reason}",
            len(some),
            tuple(str(image.path) for image in some[:EXAMPLES]),
        )
        for reason, some in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    ]


def _split(dataset: ImageDataset, seed: int) -> list[Finding]:
    """What a search would say of the subsets that it makes."""
    try:
        split = make_split(dataset, seed)
    except DataError as error:
        return [Finding("no_split", True, str(error), 1)]
    return [Finding("split", True, text, 1) for text in split.warnings]
