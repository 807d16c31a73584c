"""Commands that plugins add. Asked without the registry, which needs NumPy: `autotl --help` has to be quick."""

import os
import warnings
from importlib.metadata import entry_points
from typing import Any

import typer

from autotl.errors import AutotlError

__all__ = ["plugin_commands"]


def plugin_commands(built_in: set[str], strict: bool) -> dict[str, Any]:
    """Each plugin's commands by name, from the entry points that `load_registry` would load.

    Raises AutotlError for a name taken twice and, with `strict`, for a plugin that fails.
    """
    left_out = os.environ.get("AUTOTL_PLUGINS", "").split(",")
    owners = dict.fromkeys(built_in, "autotl itself")
    commands: dict[str, Any] = {}
    for entry in sorted(entry_points(group="autotl"), key=lambda e: e.name):
        if f"no:{entry.name}" in left_out:
            continue
        cli = typer.Typer(callback=lambda: None)  # with a callback, a single command stays a group
        try:
            hook = getattr(entry.load(), "autotl_register_commands", None)
            if hook is not None and hasattr(hook, "autotl_impl"):  # marked with @autotl.hookimpl
                hook(cli)
        except Exception as error:
            message = f"plugin {entry.name!r} takes no part: {type(error).__name__}: {error}"
            if strict:
                raise AutotlError(f"{message} (--strict-plugins)") from error
            warnings.warn(message, stacklevel=2)
            continue
        for name, command in typer.main.get_group(cli).commands.items():
            if name in owners:
                raise AutotlError(
                    f"The command name {name!r} is taken twice: by {owners[name]} and by plugin {entry.name!r}. "
                    f"Leave one out: -p no:{entry.name}"
                )
            owners[name], commands[name] = f"plugin {entry.name!r}", command
    return commands
