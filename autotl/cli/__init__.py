"""The command line: parses, calls the Python API, prints. Heavy imports are inside of the commands."""

import errno
import io
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
    align,
    backbones,
    cache,
    components,
    devices,
    doctor,
    explain,
    export,
    new_plugin,
    predict,
    search,
    serve,
)
from autotl.cli.plugin_commands import plugin_commands
from autotl.errors import AutotlError
from autotl.escaping import escape_lines
from autotl.hardware import brief_waits
from autotl.ui.output import reserve_stdout

__all__ = ["app", "main"]

FILE_ERRNOS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENOLCK),
}
"""Faults of the file system, not of the program."""
OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Faults of a file that standard output was sent to."""
FOR_PROGRAMS = {"--json", "--quiet", "-q"}
"""Flags with which a program reads the standard output of a built-in command."""


class Commands(TyperGroup):
    """The built-in commands and those of plugins. Plugins are loaded only if all commands are listed, or if the typed
    one is not built in."""

    plugins_added = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_plugin_commands(ctx)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_plugin_commands(ctx)
        return super().get_command(ctx, cmd_name)

    def _add_plugin_commands(self, ctx: Any) -> None:
        if not self.plugins_added:
            self.plugins_added = True
            for name, command in plugin_commands(
                set(self.commands), strict=bool(ctx.params.get("strict_plugins"))
            ).items():
                self.add_command(command, name)

    def main(self, args: Any = None, *more: Any, **keywords: Any) -> Any:
        """Print an AutotlError in one red line; other exceptions are bugs and keep their traceback."""
        debug = "--debug" in (sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # the terminal may be unable to encode a name
        try:
            return super().main(args, *more, **keywords)
        except AutotlError as error:
            if debug:
                raise
            _print_error(str(error))
            sys.exit(error.exit_code)
        except OSError as error:  # a folder or file that the user named is missing, unwritable, too long or the like
            if error.filename is None and error.errno == errno.ENOENT and not debug and _is_nowhere():
                _print_error("The current folder was removed: change to another one, with cd.")
                sys.exit(1)
            if error.filename is None and error.errno in OUTPUT_ERRNOS and not debug:
                _print_error(f"The output can't be written: {error.strerror}. Send it to another disk.")
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again at exit
                sys.exit(1)
            if error.filename is None or error.errno not in FILE_ERRNOS or debug:
                raise
            _print_error(f"{os.fsdecode(error.filename)} can't be used: {error.strerror}. Name another file or folder.")
            sys.exit(1)


def _is_nowhere() -> bool:
    """Whether the current folder doesn't exist any more."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return True
    return False


def _print_error(text: str) -> None:
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), (escape_lines(text), "red")), soft_wrap=True)


app = typer.Typer(
    cls=Commands,
    name="autotl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _disable_plugins(values: list[str]) -> list[str]:
    """Pass `-p no:NAME` on through the environment, which worker processes inherit."""
    for value in values:
        if not value.startswith("no:") or not value[3:]:
            raise typer.BadParameter(f"{value!r}: write no:NAME to leave the plugin NAME out.")
    if values:
        os.environ["AUTOTL_PLUGINS"] = ",".join(filter(None, [os.environ.get("AUTOTL_PLUGINS"), *values]))
    return values


def _print_version(requested: bool) -> None:
    if requested:
        print(f"autotl {__version__}")
        raise typer.Exit


@app.callback()
def autotl(
    ctx: typer.Context,
    plugins: Annotated[
        list[str],
        typer.Option(
            "-p", metavar="no:NAME", help="Leave the plugin NAME out.", callback=_disable_plugins, is_eager=True
        ),
    ] = [],  # noqa: B006  # typer reads the default, and nothing changes it
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
        warnings.showwarning = _show_warning  # one line, without Python's source line
    if strict_plugins and ctx.invoked_subcommand != "search":  # a search loads plugins itself
        from autotl.registry import load_registry

        load_registry(strict=True)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    Console(stderr=True).print(Text.assemble(("warning: ", "bold yellow"), escape_lines(message)), soft_wrap=True)


for module in (
    *(search, align, predict, explain, export, serve, backbones, components, new_plugin, cache, doctor, devices),
):
    module.add_commands(app)


def main() -> None:
    """Entry point of the program `autotl`."""
    os.environ.update(brief_waits(os.environ))
    if os.environ.get("COLUMNS", "").strip("0") == "" and "COLUMNS" in os.environ:  # of a terminal without a size
        del os.environ["COLUMNS"]  # rich would print nothing
    arguments = sys.argv[1:]
    command = next((a for i, a in enumerate(arguments) if a[:1] != "-" and arguments[i - 1 : i] != ["-p"]), None)
    is_read = bool(FOR_PROGRAMS & set(arguments)) or command == "predict"
    if is_read and command in typer.main.get_command(app).commands:  # type: ignore[attr-defined]
        reserve_stdout()
    app()
