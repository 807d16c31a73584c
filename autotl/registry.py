"""Loads plugins, each in isolation, and finds their components by name."""

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any, TypeVar

import pluggy

from autotl import hookspecs
from autotl.alignment.scores import Score
from autotl.backbones.base import Backbone
from autotl.backbones.joined import JoinedBackbone, with_size
from autotl.backbones.levels import Levels
from autotl.clusters import Cluster
from autotl.data.augmentation import Augmentation
from autotl.data.dataset import DatasetSource
from autotl.discovery import cause_of, disabled_line, disabled_names, distribution_of, installed_plugins, traced
from autotl.engines.base import Engine
from autotl.errors import AutotlError, BrokenPlugin, UnknownName, nearest
from autotl.events import Callback
from autotl.exports.base import Exporter
from autotl.heads.base import Head
from autotl.metrics import Metric
from autotl.page.base import ReportSection
from autotl.recipe import JOIN
from autotl.registration import Plugin, Register
from autotl.strategies.base import Strategy
from autotl.strategies.losses import Loss

__all__ = ["Plugin", "Register", "Registry", "load_registry"]

T = TypeVar("T")

BUILT_IN = (
    "autotl.data.sources",
    "autotl.data.augmentation",
    "autotl.backbones.timm",
    "autotl.backbones.levels",
    "autotl.heads.dense",
    "autotl.heads.sklearn",
    "autotl.heads.closed_form",
    "autotl.strategies.fast_extraction",
    "autotl.strategies.extract_augment",
    "autotl.strategies.fine_tuning",
    "autotl.strategies.losses",
    "autotl.engines.torch",
    "autotl.engines.openvino",
    "autotl.metrics",
    "autotl.exports.built_in",
    "autotl.report.sections",
    "autotl.alignment.scores",
)
"""Modules of this package that register through the same hooks as plugins."""

FAMILY = "family"
"""Key of `Registry.owners` for backbones that a family found."""


class Registry:
    """All components of all plugins.

    `registry.heads` and its siblings map names to components. `registry.head(name)` and its siblings also take
    `plugin:name`, and raise UnknownName with the nearest names.

    Args:
        strict: a plugin that fails in an event, or while it looks for a backbone, raises BrokenPlugin instead of
            costing a warning.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.backbones: dict[str, Backbone] = {}
        self.heads: dict[str, Head] = {}
        self.strategies: dict[str, Strategy] = {}
        self.augmentations: dict[str, Augmentation] = {}
        self.losses: dict[str, Loss] = {}
        self.levels: dict[str, Levels] = {}
        self.engines: dict[str, Engine] = {}
        self.datasets: dict[str, DatasetSource] = {}
        self.metrics: dict[str, Metric] = {}
        self.scores: dict[str, Score] = {}
        self.callbacks: dict[str, Callback] = {}
        self.clusters: dict[str, Cluster] = {}
        self.exporters: dict[str, Exporter] = {}
        self.report_sections: dict[str, ReportSection] = {}
        self.plugins: list[Plugin] = []
        self.owners: dict[str, dict[str, Plugin]] = {}
        """The plugin of each name, by component."""
        self.strict = strict
        self.on_plugin_failure: Callable[[str, str, str], None] = _warn
        """Called with plugin, hook and message when a hook raises, once for each plugin and hook. Workers send the
        message to the coordinator."""
        self.on_notify: Callable[[str, str], None] = lambda plugin, hook: None
        """Called with plugin and hook before each implementation of an event hook, so that a hanging one has a name."""
        self._from_families: dict[str, Backbone] = {}
        self._failed_hooks: set[tuple[str, str]] = set()
        self.manager = pluggy.PluginManager("autotl")
        self.manager.add_hookspecs(hookspecs)

    def add(self, name: str, module: Any, distribution: str, version: str) -> None:
        """Register one plugin. Reraises the plugin's exception, after all that it registered has been removed."""
        plugin = Plugin(name, distribution, version)
        first = next((p for p in self.plugins if p.name == name), None)
        self.plugins.append(plugin)
        components: tuple[tuple[str, str, dict[str, Any], type], ...] = (
            ("backbone", "autotl_register_backbones", self.backbones, Backbone),
            ("head", "autotl_register_heads", self.heads, Head),
            ("strategy", "autotl_register_strategies", self.strategies, Strategy),
            ("augmentation", "autotl_register_augmentations", self.augmentations, Augmentation),
            ("loss", "autotl_register_losses", self.losses, Loss),
            ("levels", "autotl_register_levels", self.levels, Levels),
            ("engine", "autotl_register_engines", self.engines, Engine),
            ("dataset", "autotl_register_datasets", self.datasets, DatasetSource),
            ("metric", "autotl_register_metrics", self.metrics, Metric),
            ("score", "autotl_register_scores", self.scores, Score),
            ("callback", "autotl_register_callbacks", self.callbacks, Callback),
            ("cluster", "autotl_register_launchers", self.clusters, Cluster),
            ("exporter", "autotl_register_exporters", self.exporters, Exporter),
            ("section", "autotl_register_report_sections", self.report_sections, ReportSection),
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
            for component, hook, registered, expected in components:
                owners = self.owners.setdefault(component, {})
                register: Register[Any] = Register(component, registered, owners, plugin, expected)
                for implementation in self._implementations(hook, module):
                    with traced(name, hook):
                        implementation(register=register)
        except BaseException as error:
            plugin.broken = cause_of(error)
            if not taken:
                self.manager.unregister(name=name)
            for component, _, registered, _ in components:
                for added in plugin.components.pop(component, []):
                    del registered[added], self.owners[component][added]
            raise

    def _check_hooks(self, module: Any) -> None:
        """Raises pluggy's error for an unknown hook, with the nearest hook's name added."""
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
        """The backbone of that name: a registered one, or one that a family finds. `plugin:name` takes that plugin's,
        `NAME,size=SIZE` a registered one on images of another size, and `NAME + NAME` the features of several.

        Raises:
            UnknownName: no plugin has it; with the nearest names.
            AutotlError: a family has it and can't provide it.
        """
        backbone = self.backbones.get(name) or self._from_families.get(name) or self._derived(name)
        if backbone is not None:
            return backbone
        plugin, inner = self._split_address(name)
        if plugin is not None and inner in plugin.components.get("backbone", ()):
            return self.backbones[inner]
        backbone = self._find_backbone(name, plugin)  # the family's own names may begin with the plugin's name
        by_inner_name = backbone is None and plugin is not None
        if by_inner_name:
            backbone = self._find_backbone(inner, plugin)
        if backbone is None:
            known = plugin.components.get("backbone", []) if plugin else self.backbones
            raise UnknownName("backbone", inner if plugin else name, known, others=self._family_names(plugin))
        if by_inner_name and plugin is not None and self._belongs_to_another(inner, plugin):
            backbone.name = name  # so that the name in a recipe leads to this backbone again
        self._from_families[name] = backbone  # the same object every time: it caches what it has read
        return backbone

    def _derived(self, name: str) -> Backbone | None:
        """Several backbones, or a registered one on images of another size; None for any other name."""
        if JOIN in name:
            joined = JoinedBackbone([self.backbone(part) for part in name.split(JOIN)])
            return self._from_families.setdefault(name, joined)
        if (sized := with_size(name)) and (base := self.backbones.get(sized[0])):
            resized = base.at_size(sized[1])
            if resized is None:
                raise AutotlError(f"{base.name} takes images of one size only. Leave ,size={sized[1]} out.")
            self.owners.setdefault(FAMILY, {})[name] = self.owners["backbone"][base.name]
            return self._from_families.setdefault(name, resized)
        return None

    def _find_backbone(self, name: str, only: Plugin | None = None) -> Backbone | None:
        """Call `autotl_find_backbone` of each family, the last registered first. A failure costs a warning."""
        for implementation in reversed(self.manager.hook.autotl_find_backbone.get_hookimpls()):
            if only is not None and implementation.plugin_name != only.name:
                continue
            try:
                with traced(implementation.plugin_name, f"autotl_find_backbone({name!r})"):
                    backbone = implementation.function(**dict.fromkeys(implementation.argnames, name))
                if backbone is not None and not isinstance(backbone, Backbone):
                    raise TypeError(f"it returned {backbone!r}, which is not a Backbone")
            except AutotlError:
                raise
            except (Exception, SystemExit) as error:
                self._report_failure(implementation.plugin_name, "autotl_find_backbone", error)
            else:
                if backbone is not None:
                    plugin = next(p for p in self.plugins if p.name == implementation.plugin_name)
                    self.owners.setdefault(FAMILY, {})[name] = plugin
                    return backbone
        return None

    def _belongs_to_another(self, name: str, plugin: Plugin) -> bool:
        """Whether `name` without a prefix is another plugin's backbone."""
        if name in self.backbones:
            return self.owners["backbone"][name] is not plugin
        self._find_backbone(name)
        return self.owners.get(FAMILY, {}).get(name) is not plugin

    def family_names(self, plugin: str | None = None) -> list[str]:
        """Names from `autotl_list_backbones`, of one plugin or of all; registered backbones are not among them.

        Raises:
            UnknownName: no plugin of that name.
        """
        if plugin is None:
            return self._family_names()
        matching = [p for p in self.plugins if p.matches(plugin)]
        if not matching:
            raise UnknownName("plugin", plugin, [p.name for p in self.plugins])
        return self._family_names(matching[0])

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
                self._report_failure(implementation.plugin_name, "autotl_list_backbones", error)
        return names

    def _split_address(self, address: str) -> tuple[Plugin | None, str]:
        """The plugin and the inner name of `plugin:name`; (None, address) if no single plugin matches the prefix."""
        prefix, colon, inner = address.partition(":")
        matching = [p for p in self.plugins if colon and inner and not p.broken and p.matches(prefix)]
        return (matching[0], inner) if len(matching) == 1 else (None, address)

    def _lookup(self, component: str, registered: Mapping[str, T], name: str) -> T:
        if name in registered:
            return registered[name]
        plugin, inner = self._split_address(name)
        known = plugin.components.get(component, []) if plugin else registered
        if inner not in known:
            raise UnknownName(component, inner, known)
        return registered[inner]

    def head(self, name: str) -> Head:
        """The head of that name. Raises UnknownName."""
        return self._lookup("head", self.heads, name)

    def strategy(self, name: str) -> Strategy:
        """The strategy of that name. Raises UnknownName."""
        return self._lookup("strategy", self.strategies, name)

    def augmentation(self, name: str) -> Augmentation:
        """The augmentation of that name. Raises UnknownName."""
        return self._lookup("augmentation", self.augmentations, name)

    def loss(self, name: str) -> Loss:
        """The loss of that name. Raises UnknownName."""
        return self._lookup("loss", self.losses, name)

    def feature_levels(self, name: str) -> Levels:
        """The levels of that name. Raises UnknownName."""
        return self._lookup("levels", self.levels, name)

    def metric(self, name: str) -> Metric:
        """The metric of that name. Raises UnknownName."""
        return self._lookup("metric", self.metrics, name)

    def exporter(self, name: str) -> Exporter:
        """The exporter of that name. Raises UnknownName."""
        return self._lookup("exporter", self.exporters, name)

    def engine(self, name: str | None, device: str) -> Engine:
        """The engine of that name; for None, the last registered one that is usable on `device`. Raises UnknownName."""
        if name:
            return self._lookup("engine", self.engines, name)
        return next(e for e in reversed(self.engines.values()) if e.usable(device))

    def owner(self, component: str, name: str) -> Plugin | None:
        """The plugin that a component comes from, also for a backbone that a family found."""
        plugin, _ = self._split_address(name)
        if plugin is None:
            plugin = self.owners.get(component, {}).get(name)
        if plugin is None and component == "backbone":
            plugin = self.owners.get(FAMILY, {}).get(name)
        return plugin

    # -- events

    def notify(self, event: str, **arguments: Any) -> None:
        """Call all implementations of an event hook. One that raises costs a warning; the others are still called."""
        for implementation in getattr(self.manager.hook, event).get_hookimpls():
            self.on_notify(implementation.plugin_name, event)
            try:
                with traced(implementation.plugin_name, event):
                    implementation.function(**{k: arguments[k] for k in implementation.argnames})
            except (Exception, SystemExit) as error:
                self._report_failure(implementation.plugin_name, event, error)

    def _report_failure(self, name: str, hook: str, error: BaseException) -> None:
        plugin = next(p for p in self.plugins if p.name == name)
        text = f"plugin {name!r} of {plugin.distribution} {plugin.version} failed in {hook}: {cause_of(error)}"
        if self.strict:
            raise BrokenPlugin(f"{text} (--strict-plugins)") from error
        if (name, hook) not in self._failed_hooks:
            self._failed_hooks.add((name, hook))
            self.on_plugin_failure(name, hook, text)

    def versions(self) -> dict[str, str]:
        """Version of each distribution that has a working plugin."""
        return {p.distribution: p.version for p in self.plugins if not p.broken}


def _warn(plugin: str, hook: str, text: str) -> None:
    warnings.warn(text, stacklevel=4)


def load_registry(without: Iterable[str] = (), *, strict: bool = False) -> Registry:
    """Load the built-ins, then every installed entry point of the group `autotl`, each in isolation.

    Args:
        without: names of plugins, or of their distributions, to leave out (`-p no:NAME`). The environment variable
            AUTOTL_PLUGINS=`no:NAME,…` adds to them. A name that matches no plugin costs a warning.
        strict: a plugin that fails to import or to register, or later in an event, raises BrokenPlugin instead of
            costing a warning.
    """
    from autotl._version import __version__

    entries = installed_plugins()
    built_in = {module.removeprefix("autotl."): module for module in BUILT_IN}
    known = {*built_in, *(e.name for e in entries), *(distribution_of(e)[0] for e in entries)}
    disabled = disabled_names(without, known)
    registry = Registry(strict=strict)
    for name, module in built_in.items():
        if name not in disabled:
            registry.add(name, _marked(importlib.import_module(module)), "autotl", __version__)
    for entry in entries:
        if not {entry.name, distribution_of(entry)[0]} & disabled:
            _load(registry, entry)
    return registry


def _load(registry: Registry, entry: EntryPoint) -> None:
    distribution, version = distribution_of(entry)
    before = len(registry.plugins)
    try:
        with traced(entry.name, f"import {entry.value}"):
            module = entry.load()
        registry.add(entry.name, module, distribution, version)
    except (Exception, SystemExit) as error:
        cause = cause_of(error)
        if len(registry.plugins) == before:  # it failed to import
            registry.plugins.append(Plugin(entry.name, distribution, version, broken=cause))
        line = disabled_line(entry.name, distribution, version, cause)
        if registry.strict:
            raise BrokenPlugin(f"{line} (--strict-plugins)") from error
        warnings.warn(line, stacklevel=3)


def _marked(module: ModuleType) -> ModuleType:
    """Mark a built-in module's hooks, which are plain functions, like those of a plugin."""
    for name, function in list(vars(module).items()):
        if name.startswith("autotl_") and callable(function):
            hookspecs.hookimpl(function)
    return module
