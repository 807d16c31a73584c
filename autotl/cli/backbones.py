"""`autotl backbones`: list the pretrained networks, or show everything about one."""

import fnmatch
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.errors import AutotlError
from autotl.escaping import escape
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.backbones.base import Backbone
    from autotl.registry import Registry

__all__ = ["add_commands"]

backbones = typer.Typer(help="Pretrained networks: list them, or show one.", invoke_without_command=True)
SORTS = ("name", "num-params", "size", "pretrained-on", "license", "plugin")
MIN_WIDTH = 120
"""Columns of a terminal from which the table includes the pretraining data, the licence and the plugin."""


def add_commands(app: typer.Typer) -> None:
    app.add_typer(backbones, name="backbones")


@backbones.callback()
def list_backbones(
    ctx: typer.Context,
    cached: Annotated[
        bool, typer.Option("--cached", metavar="", help="Only backbones whose weights are on this machine.")
    ] = False,
    max_params: Annotated[
        str | None, typer.Option(metavar="10M", help="Only backbones with at most so many parameters.")
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(metavar="224", help="Only backbones for images of at most so many pixels a side.")
    ] = None,
    license: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only backbones whose licence contains this text.")
    ] = None,
    pretrained_on: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only backbones whose pretraining data contains this text.")
    ] = None,
    plugin: Annotated[str | None, typer.Option(metavar="NAME", help="Only backbones of this plugin.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="'*resnet*'", help="Only backbones whose name matches this pattern.")
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="BY", help=f"{', '.join(SORTS[:-1])} or {SORTS[-1]}.")] = None,
    all_names: Annotated[
        bool, typer.Option("--all", metavar="", help="Also the names that aren't registered: all of timm's.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON array.")] = False,
) -> None:
    """Pretrained networks: list them, cached ones first, or show one.

    [dim]Example: autotl backbones --cached --max-params 5M --sort num-params[/]
    """
    if ctx.invoked_subcommand is not None:
        return
    if sort is not None and sort not in SORTS:
        raise typer.BadParameter(f"{sort!r}: sort by {', '.join(SORTS)}.")
    limit = _parse_count(max_params)
    from autotl.registry import load_registry

    registry = load_registry()
    owners = registry.owners["backbone"]
    count = limit is not None or sort == "num-params"
    rows = [
        row
        for backbone in registry.backbones.values()
        if (plugin is None or owners[backbone.name].matches(plugin)) and _matches(backbone.name, name)
        for row in [_row(registry, backbone, count=count)]
        if (row["cached"] or not cached)
        and (limit is None or (row["num_params"] is not None and row["num_params"] <= limit))
        and (max_size is None or (row["size"] is not None and row["size"] <= max_size))
        and _contains(row["license"], license)
        and _contains(row["pretrained_on"], pretrained_on)
    ]
    _sort(rows, sort)
    others: list[str] = []
    if all_names:
        others = [n for n in registry.family_names(plugin) if n not in registry.backbones and _matches(n, name)]
    if as_json:
        write_line(json.dumps([*rows, *({"name": n} for n in others)], indent=2))
        return
    _print_table(rows)
    for other in others:
        print(escape(other))
    if not all_names:
        Console().print(
            "[dim]MB, GB: to download. top-1: published accuracy on ImageNet. Any timm model works by its name: --all "
            "lists them. Show one: autotl backbones show NAME[/]"
        )


def _row(registry: "Registry", backbone: "Backbone", *, count: bool) -> dict[str, Any]:
    """A backbone as one row, with None for what can't be known without a download.

    Args:
        count: count the parameters of a backbone that doesn't state their number, which builds its network.
    """
    from autotl.backbones.weights import no_downloads

    size, num_params, is_cached = backbone.size, backbone.num_params, backbone.is_cached
    with no_downloads():  # listing a backbone must not download it
        if size is None and is_cached:  # otherwise it may be stated in a file that isn't here
            try:
                size = backbone.preprocessing.size
            except AutotlError:
                size = None
        if num_params is None and count:
            try:
                num_params = backbone.count_params()
            except AutotlError:  # as above
                num_params = None
    return {
        "name": backbone.name,
        "cached": is_cached,
        "num_params": num_params,
        "megabytes": backbone.megabytes,
        "size": size,
        "top1": backbone.top1,
        "pretrained_on": backbone.pretrained_on,
        "license": backbone.license,
        "plugin": registry.owners["backbone"][backbone.name].name,
    }


def _sort(rows: list[dict[str, Any]], by: str | None) -> None:
    if by is None:
        rows.sort(key=lambda row: not row["cached"])  # the sort is stable: otherwise in the order of registration
        return
    key = by.replace("-", "_")
    rows.sort(key=lambda row: (row[key] is None, row[key] if row[key] is not None else 0, row["name"]))


def _print_table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        Console().print("[dim]No backbone matches.[/]")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("backbone", no_wrap=True)  # users copy the names, so they must not be folded
    for column in ("weights", "params", "px", "top-1"):
        table.add_column(column, no_wrap=True, justify="left" if column == "weights" else "right")
    console = Console()
    is_wide = console.width >= MIN_WIDTH
    for column in ("pretrained on", "license", "plugin") if is_wide else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        cells: list[str | Text] = [
            Text(escape(row["name"])),
            Text("cached", "green") if row["cached"] else Text(_download(row["megabytes"]), "dim"),
            f"{row['num_params'] / 1e6:.1f} M" if row["num_params"] is not None else "?",
            str(row["size"] or "?"),
            f"{row['top1']:.1f} %" if row["top1"] is not None else "–",
        ]
        texts = [Text(escape(row["pretrained_on"])), Text(escape(row["license"])), Text(escape(row["plugin"]), "dim")]
        table.add_row(*cells, *(texts if is_wide else []))
    console.print(table)


def _download(megabytes: int | None) -> str:
    if megabytes is None:
        return "to download"
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def _parse_count(text: str | None) -> int | None:
    from autotl.config import parse_count

    if text is None:
        return None
    try:
        return int(parse_count(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number of parameters: 500k, 10M or 5000000.") from None


def _contains(text: str, part: str | None) -> bool:
    return part is None or part.lower() in text.lower()


def _matches(name: str, pattern: str | None) -> bool:
    """Whether a name matches a shell pattern; a pattern without wildcards matches anywhere in the name."""
    if pattern is None:
        return True
    pattern = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return fnmatch.fnmatch(name.lower(), pattern.lower())


@backbones.command("show")
def show_backbone(name: Annotated[str, typer.Argument(help="A registered backbone, or any timm model.")]) -> None:
    """A backbone's preprocessing, its weights, its levels, and its blocks from input to output."""
    from autotl.registry import load_registry

    registry = load_registry()
    backbone = registry.backbone(name)
    module = backbone.build(pretrained=False)  # nothing shown here depends on the weights, which may not be cached
    sizes = {key: value.numel() for key, value in module.named_parameters()}
    blocks = backbone.blocks(module)
    preprocessing = backbone.preprocessing
    plugin = registry.owner("backbone", name)
    rows = {
        "plugin": f"{plugin.name}, {plugin.distribution} {plugin.version}" if plugin else "",
        "pretrained on": backbone.pretrained_on,
        "license": backbone.license,
        "parameters": f"{sum(sizes.values()):,}",
        "ImageNet": f"{backbone.top1} % (published)" if backbone.top1 is not None else "not published",
        "speed": f"{backbone.gmacs:.3g} billion multiply-adds an image" if backbone.gmacs else "",
        "preprocessing": f"{preprocessing.size} px, crop {preprocessing.crop:.4g}"
        f"{', squashed' if preprocessing.squash else ''}, {preprocessing.interpolation}, "
        f"mean {_join(preprocessing.mean)}, std {_join(preprocessing.std)}",
        "levels": _describe_levels(registry, module, blocks, preprocessing.size),
        "weights": _describe_weights(backbone),
        "digest": backbone.digest if backbone.is_cached else "computed from the weights once they are downloaded",
    }
    console = Console()
    console.print(Text(escape(backbone.name), "bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    for label, text in rows.items():
        grid.add_row(label, Text(escape(text)))
    console.print(grid)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index, column in enumerate(("from last", "block", "parameters", "modules")):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for index, block in enumerate(blocks):
        inside = [
            key for key in sizes if key in block.parameters or any(key.startswith(f"{m}.") for m in block.modules)
        ]
        count = f"{sum(sizes[key] for key in inside):,}"
        contents = ", ".join([*block.modules, *block.parameters])
        table.add_row(str(len(blocks) - index), Text(escape(block.name)), count, Text(escape(contents)))
    console.print(table)
    if backbone.note:
        console.print(Text(escape(f"note: {backbone.note}"), "yellow"))
    console.print('[dim]"from last" is how unfrozen blocks are counted: block 1 is next to the head.[/]')


def _describe_weights(backbone: "Backbone") -> str:
    if backbone.is_cached:
        file = backbone.weights_file()
        return f"cached: {file}" if file else "cached"
    return f"to download: {backbone.download}" if backbone.download else "missing, and there is no known download"


def _describe_levels(registry: "Registry", module: Any, blocks: list[Any], size: int) -> str:
    """The number of features for each choice of levels."""
    from autotl.backbones.graph_split import FeatureLevels, GraphSplit

    layout = FeatureLevels(GraphSplit(module, blocks)).layout(size)
    return ", ".join(f"{levels.name} {layout.num_features(levels):,} features" for levels in registry.levels.values())


def _join(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
