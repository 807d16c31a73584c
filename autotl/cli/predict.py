"""`autotl predict` and `autotl evaluate`: use a model."""

import json
import time
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.cli.load_model import load_model
from autotl.escaping import escape
from autotl.folders import expand_home
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.model.exported_classifier import ExportedClassifier

__all__ = ["AbstainAt", "Coverage", "Device", "Model", "UnknownAt", "add_commands", "wishes_of"]


def add_commands(app: typer.Typer) -> None:
    app.command()(predict)
    app.command()(evaluate)


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, or a study's name.")]
AbstainAt = Annotated[
    str | None,
    typer.Option(metavar="1%", help="Answer 'unsure' where needed for at most this share of wrong answers."),
]
UnknownAt = Annotated[
    str | None,
    typer.Option(
        metavar="2%", help="Answer 'unknown' to images unlike the training images; the share of false alarms."
    ),
]
Coverage = Annotated[
    str | None,
    typer.Option(metavar="90%", help="Name the classes that hold the true one for this share of the images."),
]
Device = Annotated[str, typer.Option(metavar="auto", help="Device: auto, cpu, cuda:0, mps or xpu.")]


def predict(
    model: Model,
    places: Annotated[list[Path], typer.Argument(metavar="FILES-OR-FOLDER...", help="Images, or folders of them.")],
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write path,label,probability[,label2,probability2…] to a file."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes for each image.")] = 3,
    abstain_at: AbstainAt = None,
    unknown_at: UnknownAt = None,
    coverage: Coverage = None,
    device: Device = "auto",
) -> None:
    """Predict the classes of images. Their number is not limited: they are read as a stream.

    A file that can't be decoded is skipped with a message. The exit code is 1 if a file that was typed is skipped, or
    if nothing was predicted.
    """
    from autotl.config import find_model
    from autotl.data.file_listing import FileListing
    from autotl.model.device import take_device
    from autotl.model.doubt import Doubts
    from autotl.model.file_prediction import CsvFile, best_classes, find_images, more_than, require_target
    from autotl.model.image_model import MAX_UNCOMPILED

    wishes = wishes_of(abstain_at, unknown_at, coverage)
    listing = FileListing()
    # a wrong name is an error before torch is imported
    folder, images = find_model(model), find_images(places, listing)
    if csv:
        require_target(csv, *places)
    many, images = more_than(MAX_UNCOMPILED, images)
    quick = None if wishes else _quick(folder, device, many=many)
    loaded = quick or load_model(folder, take_device(device))
    doubts = Doubts(loaded, **wishes) if wishes else None  # type: ignore[arg-type]  # an export has no wishes
    errors = Console(stderr=True)
    for note in doubts.notes() if doubts else []:
        errors.print(Text(note, "yellow"), soft_wrap=True)
    columns = ["answer"] * bool({"abstain_at", "unknown_at"} & wishes.keys()) + ["classes"] * ("coverage" in wishes)
    top = min(top, len(loaded.classes))
    measure: dict[str, Any] = {"measure": doubts.measure} if doubts else {}
    skipped: list[Path] = []
    done = 0

    def skip(path: Path, *reason: Any) -> None:
        if path in typed:
            skipped.append(path)
        errors.print(Text(escape(f"skipped {path}: {' '.join(map(str, reason))}"), "yellow"), soft_wrap=True)

    typed = {expand_home(place) for place in places}
    out = CsvFile(csv, top, columns) if csv else None
    live = csv and errors.is_terminal
    with out or nullcontext(), errors.status("0 images") if live else nullcontext() as status:
        started = updated = time.monotonic()
        for path, row in loaded.stream(images, skip, many=many, **measure):
            done += 1
            best = best_classes(row[: len(loaded.classes)], loaded.classes, top)
            decision = doubts.decide(row) if doubts else None
            cells = {"answer": decision.answer, "classes": "|".join(decision.classes)} if decision else {}
            more = [cells[name] for name in columns]
            if out:
                out.write(path, best, more)
            else:
                labels = [f"{escape(label)} {probability:.3f}" for label, probability in best]
                write_line("  ".join([escape(path), *map(escape, more), *labels]))
            if status and (now := time.monotonic()) - updated > 0.5:
                updated = now
                status.update(f"{done:,} images, {done / (now - started):,.0f} images/s")
    for note in listing.notes(", ".join(str(place) for place in places if place.is_dir())):
        errors.print(Text(escape(note), "yellow"), soft_wrap=True)
    if csv:
        errors.print(Text(f"{done:,} images in {csv}"), soft_wrap=True)
    elif not done and not skipped:
        errors.print("No images found.")
    if skipped or not done:
        raise typer.Exit(1)


def _quick(folder: Path, device: str, *, many: bool) -> "ExportedClassifier | None":
    """The model's export to OpenVINO or ONNX, if it is there and few images are to be predicted on a CPU: it needs
    neither PyTorch nor scikit-learn, whose imports take seconds."""
    from autotl.devices import parse_devices

    if many or any(slot.is_accelerator for slot in parse_devices(device)):
        return None
    from autotl.model.exported_classifier import find_export
    from autotl.registry import load_registry

    return find_export(folder, load_registry().exporters)


def wishes_of(abstain_at: str | None, unknown_at: str | None, coverage: str | None) -> dict[str, float]:
    """What `autotl.model.doubt.Doubts` takes, of the flags that were typed."""
    from autotl.cli.shares import share

    given = {"abstain_at": abstain_at, "unknown_at": unknown_at, "coverage": coverage}
    return {name: share(name, text) for name, text in given.items() if text is not None}


class Subset(StrEnum):
    auto = "auto"
    test = "test"
    all = "all"


def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled images: a folder, a CSV manifest, or the name of a data set.")],
    subset: Annotated[
        Subset, typer.Option(metavar="test|all", help="Default: the test subset if the data has one, else all.")
    ] = Subset.auto,
    device: Device = "auto",
    include_trained: Annotated[
        bool, typer.Option("--all", metavar="", help="Score images that the model was trained on, too.")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Write what was predicted for each image, the worst first."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object.")] = False,
) -> None:
    """Score a model on labelled images: metrics, scores by class, and the confusion matrix."""
    from autotl.config import find_model
    from autotl.model.device import take_device
    from autotl.model.file_prediction import require_target

    folder = find_model(model)  # a wrong name is an error before torch is imported
    if csv:
        csv = require_target(csv, data)
    torch_device = take_device(device)
    from autotl import api

    outcome = api.evaluate(
        folder, data, subset=subset.value, device=torch_device, include_trained=include_trained, csv=csv
    )
    if as_json:
        write_line(json.dumps(outcome, indent=2, default=float))
        return
    from autotl.ui.summary import scores_table

    console = Console()
    skipped = [f"skipped {file['path']}: {file['reason']}" for file in outcome["skipped"]]
    for line in (*skipped, *outcome["notes"]):
        Console(stderr=True).print(Text(escape(line), "yellow"), soft_wrap=True)
    scores = outcome["scores"]
    console.print(scores_table(scores, outcome.get("baseline"), f"{scores['n']:,} images ({outcome['subset']})"), "")
    console.print(_per_class(outcome["per_class"]), "")
    console.print(_confusion(outcome["classes"], outcome["confusion"], console.width))


def _per_class(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("class", overflow="ellipsis")
    for name in rows[0]:
        if name != "class":
            table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{v:,.0f}" if name == "n" else f"{v:.3f}" for name, v in row.items() if name != "class"]
        table.add_row(Text(escape(row["class"])), *cells)
    return table


def _confusion(classes: list[str], matrix: list[list[int]], width: int) -> Table | Text:
    """The confusion matrix: rows are the true classes, columns the predicted. If it is too wide, the most frequent
    confusions."""
    cell = max(len(str(n)) for row in matrix for n in row) + 2
    if 24 + len(classes) * max(cell, 5) > width:
        return _most_confused(classes, matrix)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("true \\ predicted", overflow="ellipsis", max_width=22)
    for i, _ in enumerate(classes, 1):
        table.add_column(f"({i})", justify="right", no_wrap=True)
    for i, row in enumerate(matrix):
        cells = [
            Text(f"{n:,}" if n else "·", "bold green" if i == j else "" if n else "dim") for j, n in enumerate(row)
        ]
        table.add_row(Text(escape(f"({i + 1}) {classes[i]}")), *cells)
    return table


def _most_confused(classes: list[str], matrix: list[list[int]], limit: int = 10) -> Table | Text:
    pairs = sorted(((n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n), reverse=True)
    if not pairs:
        return Text("No image is predicted as another class.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("images", justify="right")
    table.add_column("true class", overflow="ellipsis")
    table.add_column("predicted", overflow="ellipsis")
    for n, i, j in pairs[:limit]:
        table.add_row(f"{n:,}", Text(escape(classes[i])), Text(escape(classes[j])))
    table.title = "The most frequent confusions (--json prints the whole matrix)"
    table.title_justify, table.title_style = "left", "dim"
    return table
