"""`autotl doctor`: find the problems of a dataset before a search."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from autotl.atomic_io import write_atomically
from autotl.escaping import csv_cell, escape
from autotl.folders import expand_home
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.data.dataset import ImageDataset

__all__ = ["add_commands"]

SHOWN = 20
"""Likely label errors that are printed."""
COLUMNS = ("path", "label", "suggested", "label_probability", "suggested_probability", "subset")


def add_commands(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    data: Annotated[str, typer.Argument(help="Labelled images: a folder, a CSV manifest, or the name of a data set.")],
    test: Annotated[str | None, typer.Option(metavar="DATA", help="Separate test images.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split, as in a search.")] = 0,
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The cache's folder.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Likely label errors, too, by the best head of this study of the images."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the likely label errors to a file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")] = False,
) -> None:
    """Find problems of labelled images that make scores unreliable: corrupt files; duplicates and near-duplicates,
    leakage between subsets, contradictory labels; rare classes, class imbalance and misspelt class names.

    With --labels also the images whose labels are likely wrong, the likeliest first: those that have next to no
    probability for a study's best head, which wasn't trained on the image.

    Changes nothing. The exit code is 1 if a search couldn't start.
    """
    import os

    from autotl.config import default_cache, find_study
    from autotl.data.diagnosis import diagnose
    from autotl.errors import AutotlError
    from autotl.folders import claim_cache
    from autotl.model.file_prediction import require_target
    from autotl.registry import load_registry

    if csv and not labels:
        raise AutotlError("--csv is for likely label errors: give a study of these images, too: --labels NAME")
    if labels:
        find_study(labels)  # a wrong name is an error before the images are read
    if csv:
        csv = require_target(csv, data, test)
    root = expand_home(cache or default_cache())
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

    wrong: list[dict[str, Any]] | None = None
    if labels and not diagnosis.blocks_search:
        from autotl.coordinator.label_errors import find_label_errors

        with errors.status("predicting each image without it"):
            wrong = find_label_errors(labels, data=data, test=test)
        if csv:
            _write_label_errors(csv, wrong)
    summary = _summary(diagnosis.dataset) if diagnosis.dataset else None
    if as_json:
        findings = [asdict(finding) for finding in diagnosis.findings]
        more_content = {} if wrong is None else {"label_errors": wrong}
        write_line(json.dumps({"dataset": summary, "findings": findings, **more_content}, indent=2))
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
    if wrong is not None:
        _print_label_errors(console, wrong, csv)
    if not diagnosis.findings and not wrong:
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


def _print_label_errors(console: Console, wrong: list[dict[str, Any]], csv: Path | None) -> None:
    """The likeliest label errors, and where all of them are."""
    if not wrong:
        console.print(Text("No label is likely wrong.", "green"))
        return
    one = len(wrong) == 1
    text = (
        f"{len(wrong):,} {'label is' if one else 'labels are'} likely wrong. Look at the image before you change one."
    )
    console.print(Text.assemble(("! ", "bold yellow"), text), soft_wrap=True)
    for error in wrong[:SHOWN]:
        line = (
            f"    {error['path']}  {error['label']} {error['label_probability']:.3f}, "
            f"rather {error['suggested']} {error['suggested_probability']:.3f}"
        )
        console.print(Text(escape(line), "dim"), soft_wrap=True)
    if csv:
        console.print(Text(f"    all of them in {escape(csv)}", "dim"), soft_wrap=True)
    elif len(wrong) > SHOWN:
        console.print(Text(f"    and {len(wrong) - SHOWN:,} more: --csv FILE.csv", "dim"))


def _write_label_errors(file: Path, wrong: list[dict[str, Any]]) -> None:
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for error in wrong:
        writer.writerow(
            [csv_cell(f"{error[name]:.6f}" if name.endswith("probability") else error[name]) for name in COLUMNS]
        )
    write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
