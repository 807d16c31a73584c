"""`autotl backbones`, `heads`, `strategies`, `plugins`: what there is to search."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from autotl.registry import Registry

__all__ = ["add_commands"]

backbones = typer.Typer(help="Pretrained networks: list them, or show one.", invoke_without_command=True)


def add_commands(app: typer.Typer) -> None:
    app.add_typer(backbones, name="backbones")
    app.command()(heads)
    app.command()(strategies)
    app.command()(plugins)


def _registry() -> "Registry":
    from autotl.registry import load_registry

    return load_registry()


def _table(*columns: str) -> Table:
    """The first column is a name, and names are typed again: it stays whole."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    return table


@backbones.callback()
def backbones_default(ctx: typer.Context) -> None:
    """Pretrained networks: list them, or show one."""
    if ctx.invoked_subcommand is None:
        list_backbones()


@backbones.command("list")
def list_backbones() -> None:
    """The registered backbones, those that need no download first."""
    registry = _registry()
    table = _table("backbone", "weights", "parameters", "pretrained on")
    for backbone in sorted(registry.backbones.values(), key=lambda b: not b.offline):
        millions = f"{backbone.parameters / 1e6:.1f} M" if backbone.parameters else "?"
        weights = Text("here", "green") if backbone.offline else Text("to fetch", "dim")
        table.add_row(backbone.name, weights, millions, backbone.pretrained_on)
    console = Console()
    console.print(table)
    console.print("[dim]Any timm model works by its name, too. Look at one: autotl backbones show NAME[/]")


@backbones.command("show")
def show_backbone(name: Annotated[str, typer.Argument(help="A registered backbone, or any timm model.")]) -> None:
    """What a backbone wants to see, where its weights come from, and its blocks from input to output."""
    backbone = _registry().backbone(name)
    module = backbone.build(pretrained=False)  # the weights change nothing of what is shown, and may not be here
    sizes = {key: value.numel() for key, value in module.named_parameters()}
    seen = backbone.preprocessing
    rows = {
        "pretrained on": backbone.pretrained_on,
        "license": backbone.license,
        "parameters": f"{sum(sizes.values()):,}",
        "preprocessing": f"{seen.size} px, crop {seen.crop:.4g}, {seen.interpolation}, "
        f"mean {_numbers(seen.mean)}, std {_numbers(seen.std)}",
        "weights": f"here, digest {backbone.digest}" if backbone.offline else f"to fetch: {backbone.download}",
    }
    console = Console()
    console.print(Text(backbone.name, "bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    for label, text in rows.items():
        grid.add_row(label, text)
    console.print(grid)
    blocks = backbone.blocks(module)
    table = _table("last", "block", "parameters", "made of")
    for index, block in enumerate(blocks):
        inside = [
            key for key in sizes if key in block.parameters or any(key.startswith(f"{m}.") for m in block.modules)
        ]
        made_of = ", ".join([*block.modules, *block.parameters])
        table.add_row(str(len(blocks) - index), block.name, f"{sum(sizes[key] for key in inside):,}", made_of)
    console.print(table)
    console.print('[dim]"last" counts as unfrozen blocks do: 1 is the block next to the head.[/]')


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def heads() -> None:
    """The classifiers that can be put on a backbone."""
    registry = _registry()
    table = _table("head", "kind", "plugin")
    for head in registry.heads.values():
        table.add_row(head.name, head.kind, registry.owners["head"][head.name].name)
    console = Console()
    console.print(table)
    for kind in dict.fromkeys(head.kind for head in registry.heads.values()):
        trained_by = [s.name for s in registry.strategies.values() if kind in s.head_kinds]
        console.print(Text(f"{kind} heads are trained by {', '.join(trained_by)}", "dim"))


def strategies() -> None:
    """The ways to reuse a pretrained network."""
    table = _table("strategy", "heads", "")
    for strategy in _registry().strategies.values():
        summary = " ".join((strategy.__doc__ or "").split("\n\n")[0].split())
        table.add_row(strategy.name, " and ".join(strategy.head_kinds), Text(summary, "dim"))
    Console().print(table)


def plugins(as_json: Annotated[bool, typer.Option("--json", metavar="", help="As one JSON array.")] = False) -> None:
    """Every plugin, what it adds, and why it takes no part where it is broken."""
    found = _registry().plugins
    if as_json:
        print(json.dumps([asdict(plugin) for plugin in found], indent=2))
        return
    console = Console()
    for plugin in found:
        console.print(Text.assemble((plugin.name, "bold"), (f"  {plugin.distribution} {plugin.version}", "dim")))
        if plugin.broken:
            console.print(Padding(Text(f"broken: {plugin.broken}", "red"), (0, 0, 0, 2)))
        for kind, names in plugin.adds.items():
            console.print(Padding(Text.assemble((f"{kind}  ", "cyan"), ", ".join(names)), (0, 0, 0, 2)))
