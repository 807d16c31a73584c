"""Finds plugins, loads each in isolation, and indexes what they offer by name."""

import importlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from autotl import hookspecs
from autotl.backbones.backbone import Backbone
from autotl.data.dataset import DatasetSource
from autotl.errors import AutotlError, UnknownName
from autotl.features.engine import Engine
from autotl.heads.head import Head
from autotl.metrics import Metric
from autotl.register import Plugin, Register
from autotl.strategies.strategy import Strategy

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
    "autotl.features.engine",
    "autotl.features.openvino",
    "autotl.metrics",
)
"""Modules of this package that come in through the same hooks as anyone's plugin."""


class Registry:
    """Everything that plugins offer. `registry.heads` and its siblings map names to what is registered."""

    def __init__(self) -> None:
        self.backbones: dict[str, Backbone] = {}
        self.heads: dict[str, Head] = {}
        self.strategies: dict[str, Strategy] = {}
        self.engines: dict[str, Engine] = {}
        self.datasets: dict[str, DatasetSource] = {}
        self.metrics: dict[str, Metric] = {}
        self.plugins: list[Plugin] = []
        self.owners: dict[str, dict[str, Plugin]] = {}
        self._found: dict[str, Backbone] = {}
        self.manager = pluggy.PluginManager("autotl")
        self.manager.add_hookspecs(hookspecs)

    def add(self, name: str, module: Any, distribution: str, version: str) -> None:
        """Take in one plugin. Raises what the plugin raises; what it had registered until then is taken back."""
        plugin = Plugin(name, distribution, version)
        self.plugins.append(plugin)
        kinds: tuple[tuple[str, dict[str, Any], type], ...] = (
            ("backbone", self.backbones, Backbone),
            ("head", self.heads, Head),
            ("strategy", self.strategies, Strategy),
            ("engine", self.engines, Engine),
            ("dataset", self.datasets, DatasetSource),
            ("metric", self.metrics, Metric),
        )
        taken = self.manager.get_plugin(name) is not None
        try:
            self.manager.register(module, name)
            self.manager.check_pending()
            if not self.manager.get_hookcallers(module):
                raise TypeError(f"{module!r} has no hooks: mark its functions with @autotl.hookimpl")
            for kind, things, expected in kinds:
                hook = f"autotl_register_{kind[:-1] + 'ies' if kind.endswith('y') else kind + 's'}"
                register: Register[Any] = Register(kind, self.owners.setdefault(kind, {}), things, plugin, expected)
                for implementation in self._implementations(hook, module):
                    implementation(register=register)
        except BaseException as error:
            plugin.broken = _cause(error)
            if not taken:
                self.manager.unregister(name=name)
            for kind, things, _ in kinds:
                for added in plugin.adds.pop(kind, []):
                    del things[added], self.owners[kind][added]
            raise

    def _implementations(self, hook: str, module: Any) -> Iterator[Callable[..., Any]]:
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            if implementation.plugin is module:
                yield implementation.function

    def backbone(self, name: str) -> Backbone:
        """By registered name, or from a family that knows it. Raises UnknownName, or what the family has against it."""
        found = self.backbones.get(name) or self._found.get(name) or self._find_backbone(name)
        if found is None:
            raise UnknownName("backbone", name, self.backbones)
        self._found[name] = found  # once found, it keeps what it has read
        return found

    def _find_backbone(self, name: str) -> Backbone | None:
        """Ask family by family, the last registered first: one that fails costs a warning that names it."""
        for implementation in reversed(self.manager.hook.autotl_find_backbone.get_hookimpls()):
            try:
                found = implementation.function(**dict.fromkeys(implementation.argnames, name))
                if found is not None and not isinstance(found, Backbone):
                    raise TypeError(f"it returned {found!r}, which is no Backbone")
            except AutotlError:
                raise
            except Exception as error:
                _warn_of(implementation.plugin_name, "autotl_find_backbone", error)
            else:
                if found is not None:
                    return found
        return None

    def head(self, name: str) -> Head:
        return _get("head", self.heads, name)

    def strategy(self, name: str) -> Strategy:
        return _get("strategy", self.strategies, name)

    def metric(self, name: str) -> Metric:
        return _get("metric", self.metrics, name)

    def engine(self, name: str | None, device: str) -> Engine:
        """The engine of that name, or without one the last registered that is usable on `device`."""
        if name:
            return _get("engine", self.engines, name)
        return next(e for e in reversed(self.engines.values()) if e.usable(device))

    def notify(self, event: str, **arguments: Any) -> None:
        """Call an event's implementations one by one: one that raises costs a warning that names it."""
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            try:
                implementation.function(**{k: arguments[k] for k in implementation.argnames})
            except Exception as error:
                _warn_of(implementation.plugin_name, event, error)

    def versions(self) -> dict[str, str]:
        """Distribution and version of each plugin that takes part."""
        return {p.distribution: p.version for p in self.plugins if not p.broken}


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _warn_of(plugin: str, hook: str, error: Exception) -> None:
    warnings.warn(f"plugin {plugin!r} failed in {hook}: {error!r}", stacklevel=3)


def _get(kind: str, things: dict[str, T], name: str) -> T:
    if name not in things:
        raise UnknownName(kind, name, things)
    return things[name]


def load_registry(without: Iterable[str] = (), strict: bool = False) -> Registry:
    """The built-ins, then every installed entry point of group `autotl`, each in isolation.

    Args:
        without: names of plugins to leave out (`-p no:NAME`); the variable AUTOTL_PLUGINS=`no:NAME,…` adds to them.
        strict: a plugin that fails to import or register is an AutotlError instead of a warning.
    """
    from autotl import __version__

    left_out = set(without) | {
        word[3:] for word in os.environ.get("AUTOTL_PLUGINS", "").split(",") if word.startswith("no:")
    }
    registry = Registry()
    for module in BUILT_IN:
        if module.removeprefix("autotl.") not in left_out:
            registry.add(
                module.removeprefix("autotl."), _marked(importlib.import_module(module)), "autotl", __version__
            )
    for entry in sorted(entry_points(group="autotl"), key=lambda e: e.name):
        if entry.name not in left_out:
            _load(registry, entry, strict)
    return registry


def _load(registry: Registry, entry: EntryPoint, strict: bool) -> None:
    distribution = entry.dist.name if entry.dist else "unknown"
    version = entry.dist.version if entry.dist else "unknown"
    before = len(registry.plugins)
    try:
        registry.add(entry.name, entry.load(), distribution, version)
    except (Exception, SystemExit) as error:
        cause = _cause(error)
        if len(registry.plugins) == before:  # it failed to import
            registry.plugins.append(Plugin(entry.name, distribution, version, broken=cause))
        message = f"plugin {entry.name!r} of {distribution} {version} takes no part: {cause}"
        if strict:
            raise AutotlError(f"{message} (--strict-plugins)") from error
        warnings.warn(message, stacklevel=3)


def _marked(module: ModuleType) -> ModuleType:
    """Built-in modules spell their hooks as plain functions of the hooks' names: mark them like a plugin's."""
    for name, function in list(vars(module).items()):
        if name.startswith("autotl_") and callable(function):
            hookspecs.hookimpl(function)
    return module
