"""`autotl plugin new`: writes a package with a new plugin."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from autotl.cli.scaffold import COMPONENTS, new_plugin

__all__ = ["add_commands"]

plugin = typer.Typer(help="Write a plugin of your own.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    app.add_typer(plugin, name="plugin")


@plugin.callback()
def group() -> None:
    """Write a plugin of your own."""


@plugin.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the plugin and of the component that it adds.")],
    component: Annotated[
        str,
        typer.Option(
            "--component",
            metavar="COMPONENT",
            help=f"{', '.join(COMPONENTS)}.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Folder in which the package's folder is created.")
    ] = Path(),
) -> None:
    """Write a package that installs, passes its own tests and adds one component to autotl.

    [dim]Example: autotl plugin new our_cells --component backbone[/]
    """

    folder = new_plugin(name, component, output)
    console = Console()
    console.print(Text.assemble(("wrote ", "green"), str(folder)), soft_wrap=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        console.print(Text(f"  {path.relative_to(folder)}", "dim"))
    place = shlex.quote(str(folder))
    console.print(f"next: pip install -e {place} && pytest {place} && autotl plugins", soft_wrap=True, markup=False)
