"""`autotl doctor`: what is odd about labelled images, before a search is spent on them."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from autotl.data.dataset import ImageDataset

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    data: Annotated[str, typer.Argument(help="Labelled images: a folder, a CSV manifest, or a data set by name.")],
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Test images of their own.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the split, as in a search.")] = 0,
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The cache's folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON object.")] = False,
) -> None:
    """Look for what misleads in labelled images: broken files; images twice, in several subsets or under different
    labels, also where they only look the same; rare, uneven and misspelt classes.

    It changes nothing. The exit code is 1 where a search couldn't begin.
    """
    import os

    from autotl.config import default_cache
    from autotl.data.diagnosis import examine
    from autotl.registry import load_registry

    errors = Console(stderr=True)
    with errors.status("looking") as status:
        found = examine(
            data,
            load_registry().datasets,
            test=test,
            seed=seed,
            threads=os.cpu_count() or 1,
            cache=(cache or default_cache()).expanduser() / "digests",
            progress=lambda done, total: status.update(f"{done:,} of {total:,} files"),
        )
    from autotl.atomic_io import escape

    stops = any(f.code in STOPS for f in found.findings)
    if as_json:
        about = _about(found.dataset) if found.dataset else None
        print(json.dumps({"dataset": about, "findings": [asdict(f) for f in found.findings]}, indent=2))
        raise typer.Exit(int(stops))
    console = Console()
    if found.dataset:
        about = _about(found.dataset)
        subsets = " · ".join(f"{n:,} {subset}" for subset, n in about["subsets"].items())
        console.print(f"{about['images']:,} images ({subsets}), {len(about['classes']):,} classes", soft_wrap=True)
    for finding in found.findings:
        mark, style = ("!", "bold yellow") if finding.serious else ("·", "dim")
        words = finding.text.split(" For example ")[0] if finding.examples else finding.text
        console.print(Text.assemble((f"{mark} ", style), escape(words)), soft_wrap=True)
        for example in finding.examples:
            console.print(Text(f"    {escape(example)}", "dim"), soft_wrap=True)
        more = finding.count - len(finding.examples)
        if finding.examples and more > 0:
            console.print(Text(f"    and {more:,} more", "dim"))
    if not found.findings:
        console.print(Text("Nothing odd was found.", "green"))
    raise typer.Exit(int(stops))


STOPS = ("unusable", "one_class", "class_without_images", "unknown_class", "no_split")


def _about(dataset: "ImageDataset") -> dict:
    """In numbers. Images whose subset nobody gave are called `all`: a search splits them."""
    counts = Counter(subset or "all" for subset in dataset.subsets)
    labels = Counter(dataset.classes[label] for label in dataset.labels)
    return {
        "images": len(dataset),
        "subsets": {("train" if subset == "all" and len(counts) > 1 else subset): n for subset, n in counts.items()},
        "classes": {name: labels[name] for name in dataset.classes},
        "skipped": len(dataset.skipped),
    }
