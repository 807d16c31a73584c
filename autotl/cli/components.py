"""`autotl heads`, `strategies`, `augmentations`, `losses`, `levels`, `scores`, `plugins`: list components."""

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autotl.escaping import escape
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.registry import Registry

__all__ = ["add_commands"]

SORTS = ("name", "type", "samples", "plugin")


def add_commands(app: typer.Typer) -> None:
    app.command()(heads)
    app.command()(strategies)
    app.command()(augmentations)
    app.command()(losses)
    app.command()(levels)
    app.command()(scores)
    app.command()(plugins)


def _registry() -> "Registry":
    from autotl.registry import load_registry

    return load_registry()


def _table(*columns: str) -> Table:
    """A table whose first column, a name to be typed again, is never cut."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    return table


def heads(
    type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Only heads of this type: dense or estimator.")
    ] = None,
    plugin: Annotated[str | None, typer.Option(metavar="NAME", help="Only heads of this plugin.")] = None,
    sort: Annotated[str | None, typer.Option(metavar="BY", help=f"{', '.join(SORTS[:-1])} or {SORTS[-1]}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON array.")] = False,
) -> None:
    """List the heads: classifiers on top of a backbone."""
    if type not in (None, "dense", "estimator"):
        raise typer.BadParameter(f"{type!r}: a head's type is dense or estimator.")
    if sort is not None and sort not in SORTS:
        raise typer.BadParameter(f"{sort!r}: sort by {', '.join(SORTS)}.")
    registry = _registry()
    rows = []
    for head in registry.heads.values():
        owner = registry.owners["head"][head.name]
        if type in (None, head.type) and (plugin is None or owner.matches(plugin)):
            rows.append({"name": head.name, "type": head.type, "samples": head.max_train_samples, "plugin": owner.name})
    if sort:
        rows.sort(key=lambda row: (row[sort] is None, row[sort] or 0, row["name"]))
    if as_json:
        write_line(json.dumps(rows, indent=2))
        return
    table = _table("head", "type", "max. samples", "plugin")
    for row in rows:
        limit = f"{row['samples']:,}" if row["samples"] else "any"
        table.add_row(*(Text(escape(cell)) for cell in (row["name"], row["type"], limit, row["plugin"])))
    console = Console()
    console.print(table if rows else "[dim]No head matches.[/]")
    for head_type in dict.fromkeys(row["type"] for row in rows):
        trained_by = [s.name for s in registry.strategies.values() if head_type in s.head_types]
        console.print(Text(f"{head_type} heads are trained by {', '.join(trained_by)}", "dim"))


def strategies() -> None:
    """List the strategies: ways to reuse a pretrained network."""
    table = _table("strategy", "heads", "")
    for strategy in _registry().strategies.values():
        summary = " ".join((strategy.__doc__ or "").split("\n\n")[0].split())
        table.add_row(
            Text(escape(strategy.name)), Text(" and ".join(strategy.head_types)), Text(escape(summary), "dim")
        )
    Console().print(table)


Json = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON array.")]


def augmentations(as_json: Json = False) -> None:
    """List the augmentation policies: how an image varies in training."""
    registry = _registry()
    rows = [{"name": a.name, "views": a.max_views} for a in registry.augmentations.values()]
    _list(registry, "augmentation", rows, ("policy", "max. views"), as_json=as_json)


def losses(as_json: Json = False) -> None:
    """List the losses that dense heads and unfrozen blocks are trained with."""
    registry = _registry()
    _list(registry, "loss", [{"name": name} for name in registry.losses], ("loss",), as_json=as_json)


def levels(as_json: Json = False) -> None:
    """List the feature levels: the parts of a backbone's features that a head is trained on."""
    registry = _registry()
    rows = [{"name": one.name, "parts": list(one.parts)} for one in registry.levels.values()]
    _list(registry, "levels", rows, ("levels", "parts"), as_json=as_json)


def scores(as_json: Json = False) -> None:
    """List the transferability scores that `autotl align` computes for each backbone."""
    registry = _registry()
    _list(registry, "score", [{"name": name} for name in registry.scores], ("score",), as_json=as_json)


def _list(
    registry: "Registry", component: str, rows: list[dict[str, Any]], columns: tuple[str, ...], *, as_json: bool
) -> None:
    """Print components, each with its plugin, in the order in which they were registered."""
    rows = [{**row, "plugin": registry.owners[component][row["name"]].name} for row in rows]
    if as_json:
        write_line(json.dumps(rows, indent=2))
        return
    table = _table(*columns, "plugin")
    for row in rows:
        texts = (", ".join(v) if isinstance(v, list) else "any" if v is None else str(v) for v in row.values())
        table.add_row(*(Text(escape(text)) for text in texts))
    Console().print(table)


def plugins(as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON array.")] = False) -> None:
    """List the plugins: package, version, components, and why a disabled one is broken."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "plugin .* is disabled")  # the list contains the cause
        installed = _registry().plugins
    if as_json:
        write_line(json.dumps([asdict(plugin) for plugin in installed], indent=2))
        return
    console = Console()
    for plugin in installed:
        console.print(
            Text.assemble((escape(plugin.name), "bold"), (escape(f"  {plugin.distribution} {plugin.version}"), "dim"))
        )
        if plugin.broken:
            console.print(Padding(Text(escape(f"disabled: {plugin.broken}"), "red"), (0, 0, 0, 2)))
            continue
        other = [hook for hook in plugin.hooks if not hook.startswith("autotl_register_") or hook.endswith("_commands")]
        for component, names in {**plugin.components, **({"hooks": other} if other else {})}.items():
            console.print(Padding(Text.assemble((f"{component}  ", "cyan"), escape(", ".join(names))), (0, 0, 0, 2)))
