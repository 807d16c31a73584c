"""Commands of plugins, loaded without the registry: it imports NumPy, and `autotl --help` has to be quick."""

import warnings
from typing import Any

import typer

from autotl.discovery import cause_of, disabled_line, disabled_names, distribution_of, installed_plugins, traced
from autotl.errors import AutotlError, BrokenPlugin

__all__ = ["plugin_commands"]


def plugin_commands(built_in: set[str], *, strict: bool) -> dict[str, Any]:
    """Commands by name, of the entry points that `load_registry` loads.

    A plugin that fails, or adds a command whose name is taken, costs a warning.

    Args:
        built_in: names of the built-in commands.
        strict: raise BrokenPlugin instead of a warning.
    """
    disabled = disabled_names()
    owners = dict.fromkeys(built_in, "autotl itself")
    commands: dict[str, Any] = {}
    for entry in installed_plugins():
        distribution, version = distribution_of(entry)
        if {entry.name, distribution} & disabled:
            continue
        try:
            added = _commands_of(entry)
            for name in added:
                if name in owners:
                    raise AutotlError(
                        f"The command name {name!r} is taken twice: by {owners[name]} and by plugin {entry.name!r}. "
                        f"Leave one out: -p no:{entry.name}"
                    )
        except (Exception, SystemExit) as error:
            message = disabled_line(entry.name, distribution, version, cause_of(error))
            if strict:
                raise BrokenPlugin(f"{message} (--strict-plugins)") from error
            warnings.warn(message, stacklevel=2)
            continue
        commands |= added
        owners |= dict.fromkeys(added, f"plugin {entry.name!r}")
    return commands


def _commands_of(entry: Any) -> dict[str, Any]:
    with traced(entry.name, f"import {entry.value}"):
        hook = getattr(entry.load(), "autotl_register_commands", None)
    if hook is None or not hasattr(hook, "autotl_impl"):  # pluggy's mark, set by @autotl.hookimpl
        return {}
    cli = typer.Typer(callback=lambda: None)  # with a callback, a single command stays a group
    with traced(entry.name, "autotl_register_commands"):
        hook(cli)
    return dict(typer.main.get_group(cli).commands)
