"""`autotl doctor`: find the problems of a dataset before a search."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotl.escaping import escape
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.data.dataset import ImageDataset

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    data: Annotated[str, typer.Argument(help="Labelled images: a folder, a CSV manifest, or the name of a data set.")],
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Separate test images.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split, as in a search.")] = 0,
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The cache's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")] = False,
) -> None:
    """Find problems of labelled images that make scores unreliable: corrupt files; duplicates and near-duplicates,
    leakage between subsets, contradictory labels; rare classes, class imbalance and misspelt class names.

    Changes nothing. The exit code is 1 if a search couldn't start.
    """
    import os

    from autotl.config import default_cache
    from autotl.data.diagnosis import diagnose
    from autotl.folders import claim_cache
    from autotl.registry import load_registry

    root = (cache or default_cache()).expanduser()
    claim_cache(root)
    errors = Console(stderr=True)
    with errors.status("reading images") as status:
        diagnosis = diagnose(
            data,
            load_registry().datasets,
            test=test,
            seed=seed,
            threads=os.cpu_count() or 1,
            cache=root / "digests",
            progress=lambda done, total: status.update(f"{done:,} of {total:,} files"),
        )

    summary = _summary(diagnosis.dataset) if diagnosis.dataset else None
    if as_json:
        findings = [asdict(finding) for finding in diagnosis.findings]
        write_line(json.dumps({"dataset": summary, "findings": findings}, indent=2))
        raise typer.Exit(int(diagnosis.blocks_search))
    console = Console()
    if summary:
        subsets = " · ".join(f"{n:,} {subset}" for subset, n in summary["subsets"].items())
        console.print(f"{summary['images']:,} images ({subsets}), {len(summary['classes']):,} classes", soft_wrap=True)
    for finding in diagnosis.findings:
        mark, style = ("!", "bold yellow") if finding.serious else ("·", "dim")
        console.print(Text.assemble((f"{mark} ", style), escape(finding.text)), soft_wrap=True)
        for example in finding.examples:
            console.print(Text(f"    {escape(example)}", "dim"), soft_wrap=True)
        more = finding.count - len(finding.examples)
        if finding.examples and more > 0:
            console.print(Text(f"    and {more:,} more", "dim"))
    if not diagnosis.findings:
        console.print(Text("No problems found.", "green"))
    raise typer.Exit(int(diagnosis.blocks_search))


def _summary(dataset: "ImageDataset") -> dict:
    """Image counts. Images without a given subset, which a search splits, count as `all`; beside other subsets they
    are training images."""
    counts = Counter(subset or "all" for subset in dataset.subsets)
    labels = Counter(dataset.classes[label] for label in dataset.labels)
    return {
        "images": len(dataset),
        "subsets": {("train" if subset == "all" and len(counts) > 1 else subset): n for subset, n in counts.items()},
        "classes": {name: labels[name] for name in dataset.classes},
        "skipped": len(dataset.skipped),
    }
