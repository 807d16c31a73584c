"""Which plugins a model needs, beside autotl itself: written into its folder, and asked for before it is loaded."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from autotl.backbones.base import Backbone
from autotl.errors import AutotlError, UnknownName
from autotl.model.member import Member
from autotl.registry import Registry

__all__ = ["check_plugins", "plugins_of"]


def plugins_of(members: Iterable[Member], backbones: Iterable[Backbone], registry: Registry) -> list[dict[str, str]]:
    """What the model's backbones and heads come from, as JSON: component, name, plugin, distribution, version. autotl's own
    parts aren't listed."""
    parts = {("backbone", b.name): None for b in backbones} | {("head", m.recipe.head): None for m in members}
    found = []
    for component, name in parts:
        plugin = registry.owner(component, name)
        if plugin is not None and plugin.distribution != "autotl":
            found.append(
                {
                    "component": component,
                    "name": name,
                    "plugin": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                }
            )
    return found


def check_plugins(folder: Path, needed: Iterable[dict[str, Any]], registry: Registry) -> None:
    """Raises AutotlError, with the plugin's name and version, where a part that the model needs isn't here."""
    for part in needed:
        if part["component"] == "backbone" and part["name"].startswith("local-dir:"):
            raise AutotlError(f"{folder} says that a plugin brings {part['name']!r}: it was made by hand.")
        find = registry.backbone if part["component"] == "backbone" else registry.head
        try:
            find(part["name"])
        except UnknownName as error:
            raise AutotlError(
                f"The model in {folder} needs the {part['component']} {part['name']!r} of plugin {part['plugin']!r} "
                f"({part['distribution']} {part['version']}), {_why(part, registry)}"
            ) from error


def _why(part: dict[str, Any], registry: Registry) -> str:
    install = f"Type: pip install {part['distribution']}=={part['version']}"
    here = [p for p in registry.plugins if (p.name, p.distribution) == (part["plugin"], part["distribution"])]
    if not here:
        return f"which isn't installed, or is left out. {install}"
    if here[0].broken:
        return f"which takes no part here: {here[0].broken}"
    return f"and version {here[0].version}, which is installed, doesn't have it. {install}"
