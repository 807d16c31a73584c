"""`autotl backbones`: what pretrained networks there are, and everything about one."""

import fnmatch
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.errors import AutotlError

if TYPE_CHECKING:
    from autotl.backbones.base import Backbone
    from autotl.registry import Registry

__all__ = ["add_commands"]

backbones = typer.Typer(help="Pretrained networks: list them, or show one.", invoke_without_command=True)
SORTS = ("name", "num-params", "size", "pretrained-on", "license", "plugin")
WIDE = 120
"""Columns of a terminal that has room for all; a narrower one does without the licence and the plugin."""


def add_commands(app: typer.Typer) -> None:
    app.add_typer(backbones, name="backbones")


@backbones.callback()
def list_backbones(
    ctx: typer.Context,
    cached: Annotated[bool, typer.Option("--cached", metavar="", help="Those whose weights are here.")] = False,
    max_params: Annotated[
        str | None, typer.Option(metavar="10M", help="Those with so many parameters at most.")
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(metavar="224", help="Those that take images of so many pixels at most.")
    ] = None,
    license: Annotated[str | None, typer.Option(metavar="TEXT", help="Those whose licence has these words.")] = None,
    pretrained_on: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Those whose training images have these words.")
    ] = None,
    plugin: Annotated[str | None, typer.Option(metavar="NAME", help="Those of one plugin.")] = None,
    name: Annotated[str | None, typer.Option(metavar="'*resnet*'", help="Those whose name is like this.")] = None,
    sort: Annotated[str | None, typer.Option(metavar="BY", help=f"{', '.join(SORTS[:-1])} or {SORTS[-1]}.")] = None,
    all_names: Annotated[
        bool, typer.Option("--all", metavar="", help="Also names that families know: all of timm's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON array.")] = False,
) -> None:
    """Pretrained networks: list them, those that need no download first, or show one.

    [dim]Example: autotl backbones --cached --max-params 5M --sort num-params[/]
    """
    if ctx.invoked_subcommand is not None:
        return
    if sort is not None and sort not in SORTS:
        raise typer.BadParameter(f"{sort!r}: sort by {', '.join(SORTS)}.")
    limit = _count(max_params)
    from autotl.registry import load_registry

    registry = load_registry()
    rows = [_facts(registry, backbone) for backbone in registry.backbones.values()]
    rows = [
        row
        for row in rows
        if (row["cached"] or not cached)
        and (limit is None or (row["num_params"] or float("inf")) <= limit)
        and (max_size is None or (row["size"] or float("inf")) <= max_size)
        and _has(row["license"], license)
        and _has(row["pretrained_on"], pretrained_on)
        and (plugin is None or plugin in row["whose"])
        and _like(row["name"], name)
    ]
    _sort(rows, sort)
    others: list[str] = []
    if all_names:
        others = [n for n in registry.family_names(plugin) if n not in registry.backbones and _like(n, name)]
    if as_json:
        known = [{key: value for key, value in row.items() if key != "whose"} for row in rows]
        print(json.dumps([*known, *({"name": n} for n in others)], indent=2))
        return
    _print_table(rows)
    for other in others:
        print(other)
    if not all_names:
        Console().print("[dim]Any timm model works by its name, too: --all. Look at one: autotl backbones show NAME[/]")


def _facts(registry: "Registry", backbone: "Backbone") -> dict[str, Any]:
    """What is known without building the network."""
    from autotl.backbones.weights import no_downloads

    plugin = registry.owners["backbone"][backbone.name]
    size = backbone.size
    if size is None:
        try:
            with no_downloads():  # to be listed isn't to be fetched
                size = backbone.preprocessing.size
        except AutotlError:  # what isn't here may be what says it
            size = None
    return {
        "name": backbone.name,
        "cached": backbone.is_cached,
        "num_params": backbone.num_params,
        "size": size,
        "pretrained_on": backbone.pretrained_on,
        "license": backbone.license,
        "plugin": plugin.name,
        "whose": (plugin.name, plugin.name.rpartition(".")[2], plugin.distribution),
    }


def _sort(rows: list[dict[str, Any]], by: str | None) -> None:
    if by is None:
        rows.sort(key=lambda row: not row["cached"])  # the rest in the order of registering
        return
    key = by.replace("-", "_")
    rows.sort(key=lambda row: (row[key] is None, row[key] if row[key] is not None else 0, row["name"]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        Console().print("[dim]None is like that.[/]")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("backbone", no_wrap=True)  # names are typed again: they stay whole
    for column in ("weights", "params", "px"):
        table.add_column(column, no_wrap=True)
    console = Console()
    roomy = console.width >= WIDE
    for column in ("pretrained on", *(("license", "plugin") if roomy else ())):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = [
            row["name"],
            Text("here", "green") if row["cached"] else Text("to fetch", "dim"),
            f"{row['num_params'] / 1e6:.1f} M" if row["num_params"] else "?",
            str(row["size"] or "?"),
            row["pretrained_on"],
        ]
        table.add_row(*cells, *([row["license"], Text(row["plugin"], "dim")] if roomy else []))
    console.print(table)


def _count(text: str | None) -> float | None:
    """`10M`, `500k` or a number."""
    if text is None:
        return None
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text.strip()[-1:].lower(), 1.0)
    try:
        return float(text.strip().rstrip("kKmMgG")) * factor
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number of parameters: 500k, 10M or 5000000.") from None


def _has(text: str, wanted: str | None) -> bool:
    return wanted is None or wanted.lower() in text.lower()


def _like(name: str, pattern: str | None) -> bool:
    """As a shell's pattern; words without any are looked for anywhere."""
    if pattern is None:
        return True
    pattern = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return fnmatch.fnmatch(name.lower(), pattern.lower())


@backbones.command("show")
def show_backbone(name: Annotated[str, typer.Argument(help="A registered backbone, or any timm model.")]) -> None:
    """What a backbone wants to see, where its weights come from, its levels, and its blocks from input to output."""
    from autotl.registry import load_registry

    registry = load_registry()
    backbone = registry.backbone(name)
    module = backbone.build(pretrained=False)  # the weights change nothing of what is shown, and may not be here
    sizes = {key: value.numel() for key, value in module.named_parameters()}
    blocks = backbone.blocks(module)
    seen = backbone.preprocessing
    plugin = registry.owner("backbone", name)
    rows = {
        "plugin": f"{plugin.name}, {plugin.distribution} {plugin.version}" if plugin else "",
        "pretrained on": backbone.pretrained_on,
        "license": backbone.license,
        "parameters": f"{sum(sizes.values()):,}",
        "preprocessing": f"{seen.size} px, crop {seen.crop:.4g}{', squashed' if seen.squash else ''}, "
        f"{seen.interpolation}, mean {_numbers(seen.mean)}, std {_numbers(seen.std)}",
        "levels": _levels(module, blocks, seen.size),
        "weights": _weights(backbone),
        "digest": backbone.digest if backbone.is_cached else "known once they are here",
    }
    console = Console()
    console.print(Text(backbone.name, "bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    for label, text in rows.items():
        grid.add_row(label, Text(text))
    console.print(grid)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index, column in enumerate(("last", "block", "parameters", "made of")):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for index, block in enumerate(blocks):
        inside = [
            key for key in sizes if key in block.parameters or any(key.startswith(f"{m}.") for m in block.modules)
        ]
        made_of = ", ".join([*block.modules, *block.parameters])
        table.add_row(str(len(blocks) - index), block.name, f"{sum(sizes[key] for key in inside):,}", made_of)
    console.print(table)
    console.print('[dim]"last" counts as unfrozen blocks do: 1 is the block next to the head.[/]')


def _weights(backbone: "Backbone") -> str:
    if not backbone.is_cached:
        return (
            f"to fetch: {backbone.download}" if backbone.download else "not here, and nobody says where to fetch them"
        )
    file = backbone.weights_file()
    return f"here: {file}" if file else "here"


def _levels(module: Any, blocks: list[Any], size: int) -> str:
    """How many features a head gets for each choice of levels."""
    from autotl.backbones.base import LEVELS
    from autotl.backbones.graph_split import FeatureLevels, GraphSplit

    layout = FeatureLevels(GraphSplit(module, blocks)).layout(size)
    widths = ((levels, layout.columns(levels)) for levels in LEVELS)
    return ", ".join(f"{levels} {columns.stop - columns.start:,} features" for levels, columns in widths)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
