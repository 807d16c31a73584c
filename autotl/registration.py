"""The callback that plugins register their components with, and the record of a plugin."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from autotl.errors import AutotlError

__all__ = ["Plugin", "Register"]

T = TypeVar("T")


@dataclass
class Plugin:
    """A plugin, as `autotl plugins` lists it."""

    name: str
    """Of its entry point; of a built-in its module without `autotl.`."""
    distribution: str
    version: str
    components: dict[str, list[str]] = field(default_factory=dict)
    """What it registered: names by component (backbone, head, …)."""
    hooks: list[str] = field(default_factory=list)
    """Names of all hooks that it implements."""
    broken: str | None = None
    """Why it is disabled, None if it works."""

    def matches(self, name: str) -> bool:
        """Whether `name`, in `name:component`, stands for this plugin: its own name, the last part of it (`timm` of
        backbones.timm), or its distribution's name."""
        return name in (self.name, self.name.rpartition(".")[2], self.distribution) and name != "autotl"


class Register(Generic[T]):
    """The callback that registering hooks get: `register(component)` adds an object under its attribute `name`.

    Args:
        component: what it registers: backbone, head, …
        registered: the objects by name, of all plugins; new ones are added here.
        owners: the plugin of each of them; the new ones' is added here.
        plugin: the plugin that registers.
        expected: base class of the objects.
    """

    def __init__(
        self, component: str, registered: dict[str, T], owners: dict[str, Plugin], plugin: Plugin, expected: type
    ):
        self.component = component
        self.registered = registered
        self.owners = owners
        self.plugin = plugin
        self.expected = expected

    def __call__(self, instance: T) -> None:
        """Add an object.

        Raises:
            TypeError: it is not an instance of the component's base class, or has no name.
            AutotlError: its name is taken.
        """
        expected = self.expected.__name__
        if not isinstance(instance, self.expected):
            raise TypeError(f"register() takes a {expected}, got {instance!r}")
        name = getattr(instance, "name", None)
        if not isinstance(name, str) or not name.strip():
            raise TypeError(f"register() takes a {expected} with a name; the name of {instance!r} is {name!r}")
        if name in self.registered:
            first = self.owners[name]
            raise AutotlError(
                f"The {self.component} name {name!r} is taken twice: by plugin {first.name!r} of {first.distribution} "
                f"and by plugin {self.plugin.name!r} of {self.plugin.distribution}. "
                f"Leave one out: -p no:{self.plugin.name}"
            )
        self.registered[name] = instance
        self.owners[name] = self.plugin
        self.plugin.components.setdefault(self.component, []).append(name)
