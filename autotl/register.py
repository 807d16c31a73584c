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
    broken: str | None = None


class Register(Generic[T]):
    """The callback that a registering hook gets: `register(thing)` adds `thing` under `thing.name`."""

    def __init__(self, kind: str, owners: dict[str, Plugin], things: dict[str, T], plugin: Plugin, expected: type):
        self.kind, self.owners, self.things, self.plugin, self.expected = kind, owners, things, plugin, expected

    def __call__(self, thing: T) -> None:
        if not isinstance(thing, self.expected):
            raise TypeError(f"register() takes a {self.expected.__name__}, got {thing!r}")
        name: str = thing.name  # type: ignore[attr-defined]  # every contract has a name
        if name in self.things:
            raise AutotlError(
                f"The {self.kind} name {name!r} is taken twice: by plugin {self.owners[name].name!r} and by plugin "
                f"{self.plugin.name!r}. Leave one out: -p no:{self.plugin.name}"
            )
        self.things[name] = thing
        self.owners[name] = self.plugin
        self.plugin.adds.setdefault(self.kind, []).append(name)
