"""Finds plugins, loads each in isolation, and indexes what they offer by name."""

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from autotl import hookspecs
from autotl.backbones.base import Backbone
from autotl.data.dataset import DatasetSource
from autotl.discovery import cause_of, installed, origin, takes_no_part, traced, words_left_out
from autotl.engines.base import Engine
from autotl.errors import AutotlError, BrokenPlugin, UnknownName, nearest
from autotl.heads.base import Head
from autotl.metrics import Metric
from autotl.registration import Plugin, Register
from autotl.strategies.base import Strategy

__all__ = ["Plugin", "Register", "Registry", "load_registry"]

T = TypeVar("T")

BUILT_IN = (
    "autotl.data.sources",
    "autotl.backbones.timm",
    "autotl.heads.dense",
    "autotl.heads.sklearn",
    "autotl.strategies.fast_extraction",
    "autotl.strategies.extract_augment",
    "autotl.strategies.fine_tuning",
    "autotl.engines.torch",
    "autotl.engines.openvino",
    "autotl.metrics",
)
"""Modules of this package that come in through the same hooks as anyone's plugin."""


class Registry:
    """Everything that plugins offer. `registry.heads` and its siblings map names to what is registered; `head(name)`
    and its siblings also know `plugin:name`, and say what is near where there is no such name.

    Args:
        strict: a plugin that fails in an event, or while it looks for a backbone, is a BrokenPlugin error instead of
            a warning.
    """

    def __init__(self, strict: bool = False) -> None:
        self.backbones: dict[str, Backbone] = {}
        self.heads: dict[str, Head] = {}
        self.strategies: dict[str, Strategy] = {}
        self.engines: dict[str, Engine] = {}
        self.datasets: dict[str, DatasetSource] = {}
        self.metrics: dict[str, Metric] = {}
        self.plugins: list[Plugin] = []
        self.owners: dict[str, dict[str, Plugin]] = {}
        self.strict = strict
        self.warn: Callable[[str], None] = lambda line: warnings.warn(line, stacklevel=4)
        """Says what a plugin's failure costs; a worker says it to its coordinator."""
        self._found: dict[str, Backbone] = {}
        self._warned: set[tuple[str, str]] = set()
        self.manager = pluggy.PluginManager("autotl")
        self.manager.add_hookspecs(hookspecs)

    def add(self, name: str, module: Any, distribution: str, version: str) -> None:
        """Take in one plugin. Raises what the plugin raises; what it had registered until then is taken back."""
        plugin = Plugin(name, distribution, version)
        first = next((p for p in self.plugins if p.name == name), None)
        self.plugins.append(plugin)
        components: tuple[tuple[str, dict[str, Any], type], ...] = (
            ("backbone", self.backbones, Backbone),
            ("head", self.heads, Head),
            ("strategy", self.strategies, Strategy),
            ("engine", self.engines, Engine),
            ("dataset", self.datasets, DatasetSource),
            ("metric", self.metrics, Metric),
        )
        taken = self.manager.get_plugin(name) is not None
        try:
            if taken and first:
                raise AutotlError(
                    f"The plugin name {name!r} is taken twice: by {first.distribution} and by {distribution}"
                )
            self.manager.register(module, name)
            self._check_hooks(module)
            plugin.hooks = sorted(caller.name for caller in self.manager.get_hookcallers(module) or ())
            if not plugin.hooks:
                raise TypeError(f"{module!r} has no hooks: mark its functions with @autotl.hookimpl")
            for component, things, expected in components:
                hook = f"autotl_register_{component[:-1] + 'ies' if component.endswith('y') else component + 's'}"
                register: Register[Any] = Register(
                    component, self.owners.setdefault(component, {}), things, plugin, expected
                )
                for implementation in self._implementations(hook, module):
                    with traced(name, hook):
                        implementation(register=register)
        except BaseException as error:
            plugin.broken = cause_of(error)
            if not taken:
                self.manager.unregister(name=name)
            for component, things, _ in components:
                for added in plugin.adds.pop(component, []):
                    del things[added], self.owners[component][added]
            raise

    def _check_hooks(self, module: Any) -> None:
        """Raises pluggy's own error for an unknown hook, with the name that may have been meant."""
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            known = [name for name in vars(hookspecs) if name.startswith("autotl_")]
            unknown = next((n for n in dir(module) if n.startswith("autotl_") and n not in known), "")
            raise pluggy.PluginValidationError(error.plugin, f"{error}.{nearest(unknown, known)}") from error

    def _implementations(self, hook: str, module: Any) -> Iterator[Callable[..., Any]]:
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                yield implementation.function

    # -- names

    def backbone(self, name: str) -> Backbone:
        """By registered name, or from a family that knows it; `plugin:name` asks that plugin alone.

        Raises UnknownName with what is near, or what the family has against it.
        """
        found = self.backbones.get(name) or self._found.get(name)
        if found is not None:
            return found
        plugin, inner = self._addressed(name)
        if plugin is not None and inner in plugin.adds.get("backbone", ()):
            return self.backbones[inner]
        found = self._find_backbone(name, plugin)  # a family may have the plugin's name in its own names
        alone = found is None and plugin is not None
        if alone:
            found = self._find_backbone(inner, plugin)
        if found is None:
            known = plugin.adds.get("backbone", []) if plugin else self.backbones
            raise UnknownName("backbone", inner if plugin else name, known, others=self._family_names(plugin))
        if alone and plugin is not None and self._means_another(inner, plugin):
            found.name = name  # a recipe names it so, and finds it again
        self._found[name] = found  # once found, it keeps what it has read
        return found

    def _find_backbone(self, name: str, only: Plugin | None = None) -> Backbone | None:
        """Ask family by family, the last registered first: one that fails costs a warning that names it."""
        for implementation in reversed(self.manager.hook.autotl_find_backbone.get_hookimpls()):
            if only is not None and implementation.plugin_name != only.name:
                continue
            try:
                with traced(implementation.plugin_name, f"autotl_find_backbone({name!r})"):
                    found = implementation.function(**dict.fromkeys(implementation.argnames, name))
                if found is not None and not isinstance(found, Backbone):
                    raise TypeError(f"it returned {found!r}, which is no Backbone")
            except AutotlError:
                raise
            except (Exception, SystemExit) as error:
                self._failed(implementation.plugin_name, "autotl_find_backbone", error)
            else:
                if found is not None:
                    plugin = next(p for p in self.plugins if p.name == implementation.plugin_name)
                    self.owners.setdefault("family", {})[name] = plugin
                    return found
        return None

    def _means_another(self, name: str, plugin: Plugin) -> bool:
        """Whether `name` alone would be someone else's than this plugin's."""
        if name in self.backbones:
            return self.owners["backbone"][name] is not plugin
        self._find_backbone(name)
        return self.owners.get("family", {}).get(name) is not plugin

    def family_names(self, plugin: str | None = None) -> list[str]:
        """Names that families know, of one plugin or of all, beside those that are registered."""
        meant = [p for p in self.plugins if plugin is not None and p.answers_to(plugin)]
        if plugin is not None and not meant:
            raise UnknownName("plugin", plugin, [p.name for p in self.plugins])
        return self._family_names(meant[0] if meant else None)

    def _family_names(self, only: Plugin | None = None) -> list[str]:
        names: list[str] = []
        for implementation in self.manager.hook.autotl_list_backbones.get_hookimpls():
            if only is not None and implementation.plugin_name != only.name:
                continue
            try:
                with traced(implementation.plugin_name, "autotl_list_backbones"):
                    listed: Any = implementation.function()
                    names += map(str, listed)
            except (Exception, SystemExit) as error:
                self._failed(implementation.plugin_name, "autotl_list_backbones", error)
        return names

    def _addressed(self, name: str) -> tuple[Plugin | None, str]:
        """The plugin that `plugin:name` means, and the name; None where no plugin is called so."""
        word, colon, inner = name.partition(":")
        meant = [p for p in self.plugins if colon and inner and not p.broken and p.answers_to(word)]
        return (meant[0], inner) if len(meant) == 1 else (None, name)

    def _named(self, component: str, things: Mapping[str, T], name: str) -> T:
        if name in things:
            return things[name]
        plugin, inner = self._addressed(name)
        mine = plugin.adds.get(component, []) if plugin else things
        if inner not in mine:
            raise UnknownName(component, inner, mine)
        return things[inner]

    def head(self, name: str) -> Head:
        return self._named("head", self.heads, name)

    def strategy(self, name: str) -> Strategy:
        return self._named("strategy", self.strategies, name)

    def metric(self, name: str) -> Metric:
        return self._named("metric", self.metrics, name)

    def engine(self, name: str | None, device: str) -> Engine:
        """The engine of that name, or without one the last registered that is usable on `device`."""
        if name:
            return self._named("engine", self.engines, name)
        return next(e for e in reversed(self.engines.values()) if e.usable(device))

    def owner(self, component: str, name: str) -> Plugin | None:
        """The plugin that a part comes from, also one that a family of backbones found."""
        plugin, _ = self._addressed(name)
        if plugin is None:
            plugin = self.owners.get(component, {}).get(name)
        if plugin is None and component == "backbone":
            plugin = self.owners.get("family", {}).get(name)
        return plugin

    # -- events

    def notify(self, event: str, **arguments: Any) -> None:
        """Call an event's implementations one by one: one that raises costs a warning that names it, once."""
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            try:
                with traced(implementation.plugin_name, event):
                    implementation.function(**{k: arguments[k] for k in implementation.argnames})
            except (Exception, SystemExit) as error:
                self._failed(implementation.plugin_name, event, error)

    def _failed(self, name: str, hook: str, error: BaseException) -> None:
        plugin = next(p for p in self.plugins if p.name == name)
        line = f"plugin {name!r} of {plugin.distribution} {plugin.version} failed in {hook}: {cause_of(error)}"
        if self.strict:
            raise BrokenPlugin(f"{line} (--strict-plugins)") from error
        if (name, hook) not in self._warned:
            self._warned.add((name, hook))
            self.warn(line)

    def versions(self) -> dict[str, str]:
        """Distribution and version of each plugin that takes part."""
        return {p.distribution: p.version for p in self.plugins if not p.broken}


def load_registry(without: Iterable[str] = (), strict: bool = False) -> Registry:
    """The built-ins, then every installed entry point of group `autotl`, each in isolation.

    Args:
        without: names of plugins, or of their distributions, to leave out (`-p no:NAME`); the variable
            AUTOTL_PLUGINS=`no:NAME,…` adds to them. One that leaves nothing out costs a warning.
        strict: a plugin that fails to import or register, and later in an event, is a BrokenPlugin error instead of
            a warning.
    """
    from autotl._version import __version__

    entries = installed()
    built_in = {module.removeprefix("autotl."): module for module in BUILT_IN}
    left_out = words_left_out(without, {*built_in, *(e.name for e in entries), *(origin(e)[0] for e in entries)})
    registry = Registry(strict)
    for name, module in built_in.items():
        if name not in left_out:
            registry.add(name, _marked(importlib.import_module(module)), "autotl", __version__)
    for entry in entries:
        if not {entry.name, origin(entry)[0]} & left_out:
            _load(registry, entry)
    return registry


def _load(registry: Registry, entry: EntryPoint) -> None:
    distribution, version = origin(entry)
    before = len(registry.plugins)
    try:
        with traced(entry.name, f"import {entry.value}"):
            module = entry.load()
        registry.add(entry.name, module, distribution, version)
    except (Exception, SystemExit) as error:
        cause = cause_of(error)
        if len(registry.plugins) == before:  # it failed to import
            registry.plugins.append(Plugin(entry.name, distribution, version, broken=cause))
        message = takes_no_part(entry.name, distribution, version, cause)
        if registry.strict:
            raise BrokenPlugin(f"{message} (--strict-plugins)") from error
        warnings.warn(message, stacklevel=3)


def _marked(module: ModuleType) -> ModuleType:
    """Built-in modules spell their hooks as plain functions of the hooks' names: mark them like a plugin's."""
    for name, function in list(vars(module).items()):
        if name.startswith("autotl_") and callable(function):
            hookspecs.hookimpl(function)
    return module
