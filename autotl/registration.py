"""The callback that plugins register with, and what is known of the plugin that calls it."""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from autotl.errors import AutotlError

__all__ = ["Plugin", "Register"]

T = TypeVar("T")


@dataclass
class Plugin:
    """A plugin as `autotl plugins` lists it. `broken` says why it takes no part, where it doesn't."""

    name: str
    distribution: str
    version: str
    adds: dict[str, list[str]] = field(default_factory=dict)
    """Names by component: backbone, head, …"""
    hooks: list[str] = field(default_factory=list)
    """All hooks that it has, those that add nothing too: events, families of backbones, commands."""
    broken: str | None = None

    def answers_to(self, word: str) -> bool:
        """Whether `word` in `word:name` means this plugin: its name, its last part (`timm` of backbones.timm), or its
        distribution's."""
        return word in (self.name, self.name.rpartition(".")[2], self.distribution) and word != "autotl"


class Register(Generic[T]):
    """The callback that a registering hook gets: `register(thing)` adds `thing` under `thing.name`."""

    def __init__(self, component: str, owners: dict[str, Plugin], things: dict[str, T], plugin: Plugin, expected: type):
        self.component, self.owners, self.things, self.plugin, self.expected = (
            component,
            owners,
            things,
            plugin,
            expected,
        )

    def __call__(self, thing: T) -> None:
        if not isinstance(thing, self.expected):
            raise TypeError(f"register() takes a {self.expected.__name__}, got {thing!r}")
        name = getattr(thing, "name", None)
        if not isinstance(name, str) or not name.strip():
            raise TypeError(
                f"register() takes a {self.expected.__name__} with a name, and that of {thing!r} is {name!r}"
            )
        if name in self.things:
            first = self.owners[name]
            raise AutotlError(
                f"The {self.component} name {name!r} is taken twice: by plugin {first.name!r} of {first.distribution} and "
                f"by plugin {self.plugin.name!r} of {self.plugin.distribution}. "
                f"Leave one out: -p no:{self.plugin.name}"
            )
        self.things[name] = thing
        self.owners[name] = self.plugin
        self.plugin.adds.setdefault(self.component, []).append(name)
