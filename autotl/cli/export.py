"""`autotl export`: write a model in a format that other programs run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotl.escaping import escape

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    app.command()(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder, or a study's name.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="onnx, openvino, timm or torch, or a format of a plugin.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Default: model-FORMAT beside the model.")
    ] = None,
    check: Annotated[
        list[Path],
        typer.Option("--check", metavar="IMAGES", help="Images to check the export with (default: the study's)."),
    ] = [],  # noqa: B006  # typer reads the default, and nothing changes it
    no_tta: Annotated[
        bool, typer.Option("--no-tta", metavar="", help="Leave out the views of an image that members average over.")
    ] = False,
) -> None:
    """Export a model to ONNX, OpenVINO, timm or PyTorch: images of any size go in, probabilities come out.

    The export is compared with the model on 32 images, and is kept only if its answers are the same.
    """
    from autotl.config import find_model

    find_model(model)  # a wrong name is an error before torch is imported
    from autotl.model.exporting import export as export_to

    console = Console()
    with Console(stderr=True).status(f"exporting to {escape(to)}"):
        exported = export_to(model, to, out, check=check or None, tta=not no_tta)
    console.print(Text(escape(exported.folder)), soft_wrap=True)
    for file in exported.files:
        console.print(Text(f"  {escape(file)}", "dim"), soft_wrap=True)
    for line in [exported.check.describe()] if exported.check else exported.notes:
        console.print(Text(escape(line)), soft_wrap=True)
