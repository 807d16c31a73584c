"""The command line: parse, call, print. What it does lies in the Python API; heavy imports wait inside the commands."""

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from autotl._version import __version__
from autotl.cli import (
    backbones,
    cache,
    doctor,
)
from autotl.cli import (
    components as parts,
)
from autotl.cli import (
    new_plugin as plugin_new,
)
from autotl.cli import (
    predict as models,
)
from autotl.cli import (
    search as searching,
)
from autotl.cli.plugin_commands import plugin_commands
from autotl.errors import AutotlError

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The built-in commands, and those of plugins, which are asked only where a name isn't built in, or all are
    listed."""

    complete = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._take_in_plugins(ctx)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._take_in_plugins(ctx)
        return super().get_command(ctx, cmd_name)

    def _take_in_plugins(self, ctx: Any) -> None:
        if not self.complete:
            self.complete = True
            for name, command in plugin_commands(set(self.commands), bool(ctx.params.get("strict_plugins"))).items():
                self.add_command(command, name)

    def main(self, args: Any = None, *more: Any, **keywords: Any) -> Any:
        """What a user can mend is a line in red; everything else is a bug and keeps its traceback."""
        try:
            return super().main(args, *more, **keywords)
        except AutotlError as error:
            if "--debug" in (sys.argv[1:] if args is None else args):
                raise
            Console(stderr=True).print(
                Text.assemble(("error: ", "bold red"), (_encodable(str(error)), "red")), soft_wrap=True
            )
            sys.exit(error.exit_code)


app = typer.Typer(
    cls=Commands,
    name="autotl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _leave_out(values: list[str]) -> list[str]:
    """Through the environment, so that worker processes leave the same plugins out."""
    for value in values:
        if not value.startswith("no:") or not value[3:]:
            raise typer.BadParameter(f"{value!r}: write no:NAME to leave the plugin NAME out.")
    if values:
        os.environ["AUTOTL_PLUGINS"] = ",".join(filter(None, [os.environ.get("AUTOTL_PLUGINS"), *values]))
    return values


def _print_version(asked: bool) -> None:
    if asked:
        print(f"autotl {__version__}")
        raise typer.Exit


@app.callback()
def autotl(
    ctx: typer.Context,
    plugins: Annotated[
        list[str],
        typer.Option("-p", metavar="no:NAME", help="Leave the plugin NAME out.", callback=_leave_out, is_eager=True),
    ] = [],  # noqa: B006  # typer reads the default, nobody changes it
    strict_plugins: Annotated[
        bool, typer.Option("--strict-plugins", metavar="", help="Stop at a broken plugin.", is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of every error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Finds the best image classifier that transfer learning can build from pretrained networks."""
    ctx.obj = {"strict": strict_plugins}
    if not debug:
        warnings.showwarning = _show_warning  # one calm line, not Python's two with a source line
    if strict_plugins and ctx.invoked_subcommand != "search":  # a search hands it on
        from autotl.registry import load_registry

        load_registry(strict=True)


def _encodable(text: str) -> str:
    """Names of files may hold bytes that are no text, which a terminal refuses."""
    return text.encode(errors="backslashreplace").decode()


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    Console(stderr=True).print(Text.assemble(("warning: ", "bold yellow"), _encodable(str(message))), soft_wrap=True)


for module in (searching, models, backbones, parts, plugin_new, cache, doctor):
    module.add_commands(app)


def main() -> None:
    app()
