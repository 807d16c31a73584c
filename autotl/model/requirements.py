"""The plugins that a model requires beside autotl: recorded when it is saved, checked before it is loaded."""

from collections.abc import Iterable
from pathlib import Path

from autotl.backbones.base import Backbone
from autotl.errors import AutotlError, UnknownName
from autotl.model.manifest import RequiredPlugin
from autotl.model.member import Member
from autotl.registry import Registry

__all__ = ["check_plugins", "required_plugins"]


def required_plugins(
    members: Iterable[Member], backbones: Iterable[Backbone], registry: Registry
) -> list[dict[str, str]]:
    """The `plugins` of `model.json`: one entry for each backbone, head, augmentation and levels of a plugin.

    Components of autotl itself aren't listed.
    """
    components = {("backbone", backbone.name): None for backbone in backbones}
    for member in members:
        components |= {("head", member.recipe.head): None, ("levels", member.fitted.levels): None}
        components |= {("augmentation", view.policy): None for view in member.fitted.views}
    required = []
    for component, name in components:
        plugin = registry.owner(component, name)
        if plugin is not None and plugin.distribution != "autotl":
            required.append(
                {
                    "component": component,
                    "name": name,
                    "plugin": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                }
            )
    return required


def check_plugins(folder: Path, required: Iterable[RequiredPlugin], registry: Registry) -> None:
    """Look up every component that the model in `folder` takes from a plugin.

    Raises:
        AutotlError: one isn't registered here; the message names its plugin and version.
    """
    for entry in required:
        if entry.component == "backbone" and entry.name.startswith("local-dir:"):
            raise AutotlError(f"{folder} lists {entry.name!r} as the backbone of a plugin: it was made by hand.")
        find = {
            "backbone": registry.backbone,
            "head": registry.head,
            "augmentation": registry.augmentation,
            "levels": registry.feature_levels,
        }[entry.component]
        try:
            find(entry.name)
        except UnknownName as error:
            raise AutotlError(
                f"The model in {folder} needs the {entry.component} {entry.name!r} of plugin {entry.plugin!r} "
                f"({entry.distribution} {entry.version}), {_why_missing(entry, registry)}"
            ) from error


def _why_missing(entry: RequiredPlugin, registry: Registry) -> str:
    install = f"Type: pip install {entry.distribution}=={entry.version}"
    installed = [p for p in registry.plugins if (p.name, p.distribution) == (entry.plugin, entry.distribution)]
    if not installed:
        return f"which isn't installed, or is left out. {install}"
    if installed[0].broken:
        return f"which is disabled: {installed[0].broken}"
    return f"and the installed version {installed[0].version} doesn't have it. {install}"
