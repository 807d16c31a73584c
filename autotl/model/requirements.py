"""The plugins that a model requires beside autotl: recorded when it is saved, checked before it is loaded."""

from collections.abc import Callable, Iterable
from pathlib import Path

from autotl.backbones.base import Backbone
from autotl.errors import AutotlError, UnknownName
from autotl.escaping import escape
from autotl.model.manifest import ModelManifest, RequiredPlugin
from autotl.model.member import Member
from autotl.registry import Registry

__all__ = ["check_plugins", "missing_plugin", "required_plugins"]


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


def check_plugins(folder: Path, manifest: ModelManifest, registry: Registry) -> None:
    """Look up every head, augmentation and levels that the model in `folder` takes from a plugin.

    Its backbones are looked up later, by `autotl.model.saved_backbone`: their names may be a stranger's.

    Raises:
        AutotlError: one isn't registered here, and the message names its plugin and version; or the model lists a
            backbone that it doesn't have.
    """
    find: dict[str, Callable[[str], object]] = {
        "head": registry.head,
        "augmentation": registry.augmentation,
        "levels": registry.feature_levels,
    }
    backbones = {entry.name for entry in manifest.backbones}
    for entry in manifest.plugins:
        if entry.component == "backbone":
            if entry.name not in backbones:
                raise AutotlError(
                    f"{folder} lists {escape(entry.name)[:100]!r} as the backbone of a plugin, and has no such "
                    "backbone: it was made by hand."
                )
            continue
        try:
            find[entry.component](entry.name)
        except UnknownName as error:
            raise missing_plugin(folder, entry, registry) from error


def missing_plugin(folder: Path, entry: RequiredPlugin, registry: Registry) -> AutotlError:
    """The error of a model with a component that isn't registered here: names the plugin that has it."""
    return AutotlError(
        f"The model in {folder} needs the {entry.component} {escape(entry.name)[:100]!r} of plugin "
        f"{escape(entry.plugin)[:100]!r} ({entry.distribution} {entry.version}), {_why_missing(entry, registry)}"
    )


def _why_missing(entry: RequiredPlugin, registry: Registry) -> str:
    install = f"Type: pip install {entry.distribution}=={entry.version}"
    installed = [p for p in registry.plugins if (p.name, p.distribution) == (entry.plugin, entry.distribution)]
    if not installed:
        return f"which isn't installed, or is left out. {install}"
    if installed[0].broken:
        return f"which is disabled: {installed[0].broken}"
    return f"and the installed version {installed[0].version} doesn't have it. {install}"
