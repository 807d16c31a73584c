"""`autotl explain`: heat maps of images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotl.cli.load_model import load_model
from autotl.cli.predict import Device, Model
from autotl.errors import find_named
from autotl.escaping import escape
from autotl.ui.output import write_line

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    model: Model,
    places: Annotated[list[Path], typer.Argument(metavar="FILES-OR-FOLDER...", help="Images, or folders of them.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the pictures, one PNG for each image.")],
    label: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class to explain (default: the predicted one).")
    ] = None,
    device: Device = "auto",
) -> None:
    """Show which places of images speak for a class: writes each image beside its heat map.

    A file that can't be decoded is skipped with a message. The exit code is 1 if nothing was explained.
    """
    from autotl.config import find_model
    from autotl.data.file_listing import FileListing
    from autotl.model.device import take_device
    from autotl.model.file_prediction import find_images, unused_name

    listing = FileListing()
    # a wrong name is an error before torch is imported
    folder, images = find_model(model), find_images(places, listing)
    torch_device = take_device(device)
    from autotl.data.decoding import UndecodableImage

    loaded = load_model(folder, torch_device)
    if label is not None:
        find_named("class", label, dict.fromkeys(loaded.classes))
    out.mkdir(parents=True, exist_ok=True)
    errors, written = Console(stderr=True), set[Path]()
    for path in images:
        try:
            (heat,) = loaded.explain([path], label)
        except UndecodableImage as error:
            errors.print(Text(escape(f"skipped {error}"), "yellow"), soft_wrap=True)
            continue
        file = unused_name(out / f"{path.stem}.png", written)
        heat.save(file)
        write_line("  ".join([escape(path), f"{escape(heat.label)} {heat.probability:.3f}", escape(file)]))
    for note in listing.notes(", ".join(str(place) for place in places if place.is_dir())):
        errors.print(Text(escape(note), "yellow"), soft_wrap=True)
    if not written:
        errors.print("No image was explained.")
        raise typer.Exit(1)
