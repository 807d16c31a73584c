"""`autotl export`: write a model in a format that other programs run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
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
    precision: Annotated[
        str,
        typer.Option(metavar="fp32|fp16|int8", help="Fewer bits are for onnx and openvino; their loss is measured."),
    ] = "fp32",
    max_changed: Annotated[
        str, typer.Option(metavar="2%", help="Images that may get another class in fewer bits than in fp32.")
    ] = "2%",
) -> None:
    """Export a model to ONNX, OpenVINO, timm or PyTorch: images of any size go in, probabilities come out.

    The export is compared with the model on 32 images, and is kept only if its answers are the same.
    In fewer bits it is calibrated on 100 training images and compared with fp32 on up to 300 others.
    """
    from autotl.cli.shares import share
    from autotl.config import find_model

    most = share("max_changed", max_changed)
    find_model(model)  # a wrong name is an error before torch is imported
    from autotl.model.exporting import export as export_to

    console = Console()
    with Console(stderr=True).status(Text(f"exporting to {escape(to)}")):
        exported = export_to(model, to, out, check=check or None, tta=not no_tta, precision=precision, max_changed=most)
    console.print(Text(escape(exported.folder)), soft_wrap=True)
    for file in exported.files:
        console.print(Text(f"  {escape(file)}", "dim"), soft_wrap=True)
    prefix = "In fp32: " if exported.loss else ""
    for line in [prefix + exported.check.describe()] if exported.check else exported.notes:
        console.print(Text(escape(line)), soft_wrap=True)
    if exported.loss:
        console.print(Text(escape(exported.loss.describe())), soft_wrap=True)
        table = Table("", "fp32", exported.loss.precision, box=None, padding=(0, 2, 0, 0), header_style="dim")
        for row in exported.loss.rows():
            table.add_row(*row)
        console.print(table)
