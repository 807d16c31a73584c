"""Turns groups of parameter names into blocks: the largest modules that belong to one group whole."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from autotl.backbones.base import Block

if TYPE_CHECKING:
    from torch import nn

__all__ = ["blocks_from_groups", "groups_by_position"]


def blocks_from_groups(module: "nn.Module", group_of: Callable[[str], int] | Mapping[str, int]) -> list[Block]:
    """One block for each group, in the order of the groups' numbers, which count from the input to the output.

    Args:
        module: the network. It is taken apart at least into its children, also where all is one group.
        group_of: the group's number for each name in `module.named_parameters()`, as a function or a mapping.

    Returns:
        Blocks that together hold every parameter exactly once. Modules without parameters are in no block, unless
        they lie in a module that is.

    Raises:
        KeyError: where a mapping lacks a parameter.
    """
    number = group_of if callable(group_of) else group_of.__getitem__
    groups = {name: number(name) for name, _ in module.named_parameters()}
    found: dict[int, tuple[list[str], list[str], list[str]]] = {}
    for name, group, whole in _parts("", module, groups):
        names, modules, parameters = found.setdefault(group, ([], [], []))
        names.append(name)
        (modules if whole else parameters).append(name)
    return [
        Block(_words(names), tuple(modules), tuple(parameters))
        for _, (names, modules, parameters) in sorted(found.items())
    ]


def groups_by_position(module: "nn.Module") -> dict[str, int]:
    """Groups for a network that has no better idea of its blocks: its children, in the order in which it lists them.

    Of a child that is a container (`stages`, `blocks`), each member is a group of its own.
    """
    from torch import nn

    containers = tuple(
        name for name, child in module.named_children() if isinstance(child, nn.Sequential | nn.ModuleList)
    )
    number: dict[str, int] = {}
    groups = {}
    for name, _ in module.named_parameters():
        parts = name.split(".")
        unit = ".".join(parts[:2] if parts[0] in containers else parts[:1])
        groups[name] = number.setdefault(unit, len(number))
    return groups


def _parts(name: str, module: "nn.Module", groups: Mapping[str, int]) -> Iterator[tuple[str, int, bool]]:
    """(name, group, whether a module) of the largest parts of `module` that lie in one group, in order."""
    prefix = f"{name}." if name else ""
    inside = {group for parameter, group in groups.items() if parameter.startswith(prefix)}
    if name and len(inside) == 1:
        yield name, inside.pop(), True
        return
    for parameter, _ in module.named_parameters(recurse=False):
        if prefix + parameter in groups:  # a shared parameter is listed under its first name only
            yield prefix + parameter, groups[prefix + parameter], False
    for child, part in module.named_children():
        yield from _parts(prefix + child, part, groups)


def _words(names: list[str]) -> str:
    """`conv_stem+bn1`, and `conv1+…+layer1` where there are more than three."""
    return "+".join(names if len(names) <= 3 else [names[0], "…", names[-1]])
