"""`autotl cache`: lists, checks and removes what is kept between searches."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.escaping import escape
from autotl.folders import expand_home
from autotl.ui.output import write_line

if TYPE_CHECKING:
    from autotl.features.store import FeatureStore, StoredTable

__all__ = ["add_commands"]

cache = typer.Typer(help="Recorded features: show, verify, prune, clear.", invoke_without_command=True)
Folder = Annotated[Path | None, typer.Option("--cache", metavar="FOLDER", help="The cache folder.")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="As JSON.")]
OTHER_FOLDERS = {
    "engines": "networks converted for an engine",
    "digests": "checked image files",
    "graphs": "models that `autotl predict` starts quickly",
}
"""Folders of the cache besides the features, with a description: small, and nothing is lost without them but time."""


def add_commands(app: typer.Typer) -> None:
    app.add_typer(cache, name="cache")


@cache.callback()
def cache_default(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Recorded features, shared by all searches: show, verify, prune, clear."""
    ctx.obj = {**(ctx.obj or {}), "cache": folder}
    if as_json and ctx.invoked_subcommand is not None:
        raise typer.BadParameter(f"write it after the command: autotl cache {ctx.invoked_subcommand} --json")
    if ctx.invoked_subcommand is None:
        show(ctx, folder, as_json)


@cache.command()
def show(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """List the recorded features, the least recently used first, with size, age and whether a search uses them."""
    import shutil

    from autotl.atomic_io import format_bytes

    root, store = _open(ctx, folder)
    tables = store.usage() if store else []
    other_bytes = {name: _folder_bytes(root / name) for name in OTHER_FOLDERS}
    if as_json:
        _print({"cache": str(root), "features": [_as_dict(table) for table in tables], **other_bytes})
        return
    console = Console()
    if not tables and not any(other_bytes.values()):
        console.print(Text(f"The cache {root} is empty."), soft_wrap=True)
        return
    listing = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    listing.add_column("features of", overflow="fold")
    for name in ("images", "size", "last used"):
        listing.add_column(name, justify="right", no_wrap=True)
    listing.add_column("")
    for table in tables:
        use = Text("in use", "green") if table.in_use else Text("")
        size, age = format_bytes(table.num_bytes), _age(table.last_used)
        listing.add_row(Text(_describe(table)), f"{table.num_rows:,}", size, age, use)
    if tables:
        console.print(listing)
    for name, num_bytes in other_bytes.items():
        if num_bytes:
            console.print(Text(f"{format_bytes(num_bytes)}: {OTHER_FOLDERS[name]}", "dim"))
    total = sum(table.num_bytes for table in tables) + sum(other_bytes.values())
    free = format_bytes(shutil.disk_usage(root).free)
    console.print(Text(f"{format_bytes(total)} in {root}, {free} free on its disk"), soft_wrap=True)


@cache.command()
def pool(
    address: Annotated[str, typer.Argument(metavar="URL", help="file:///FOLDER, s3://BUCKET/FOLDER, …")],
    remove: Annotated[bool, typer.Option("--remove", metavar="", help="Remove objects that are damaged.")] = False,
    as_json: Json = False,
) -> None:
    """Check every object of a pool, where hosts share recorded features. A damaged object is never read by a search."""
    from autotl.atomic_io import format_bytes
    from autotl.features.pool import FeaturePool

    pool = FeaturePool(address)
    pool.require_readable()
    found = list(pool.verify(remove=remove))
    damaged = [one for one in found if not one.num_rows]
    num_rows, num_bytes = sum(one.num_rows for one in found), sum(one.num_bytes for one in found)
    if as_json:
        listed = [one.path for one in damaged]
        _print({"pool": address, "objects": len(found), "rows": num_rows, "bytes": num_bytes, "damaged": listed})
        return
    console = Console()
    if not found:
        console.print(Text(f"No search has put features into {address}."), soft_wrap=True)
        return
    for one in damaged:
        console.print(Text(f"{one.path} is damaged{' and was removed' if remove else ''}", "yellow"), soft_wrap=True)
    result = f"{len(damaged):,} damaged" if damaged else "none damaged"
    text = f"{_count(len(found), 'object')} with {_count(num_rows, 'row')} ({format_bytes(num_bytes)}): {result}"
    console.print(Text(text), soft_wrap=True)


@cache.command()
def verify(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Check every recorded row and converted network against its checksum. What is damaged is removed, and made again
    when needed."""
    from autotl.engines.conversions import drop_damaged

    root, store = _open(ctx, folder)
    num_conversions, strays = drop_damaged(root / "engines")
    tables = {table.folder: table for table in store.usage()} if store else {}
    damaged = store.verify() if store else {}
    if as_json:
        _print(
            {
                "cache": str(root),
                "checked": len(damaged),
                "damaged": {p.name: d for p, d in damaged.items() if d},
                "damaged_networks": [path.name for path in strays],
            }
        )
        return
    console = Console()
    for path, digests in damaged.items():
        if digests:
            description = _describe(tables[path]) if path in tables else path.name
            console.print(
                Text(f"{description}: {_count(len(digests), 'damaged row')} removed, to be extracted again", "yellow"),
                soft_wrap=True,
            )
    if unreadable := [path for path in tables if path not in damaged]:
        console.print(
            f"{_count(len(unreadable), 'folder')} can't be read by this autotl. To remove: autotl cache clear",
            soft_wrap=True,
        )
    num_rows = sum(table.num_rows for path, table in tables.items() if path in damaged)
    num_damaged = sum(map(len, damaged.values()))
    result = f"{num_damaged:,} damaged" if num_damaged else "none damaged"
    console.print(Text(f"{_count(num_rows, 'row')} checked in {root}: {result}"), soft_wrap=True)
    if strays:
        text = (
            f"{len(strays):,} of {num_conversions:,} converted networks and their checks were damaged and are removed"
        )
        console.print(Text(text, "yellow"), soft_wrap=True)


@cache.command()
def prune(
    ctx: typer.Context,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="Size to keep: 5GB, 512MB.")],
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Remove the least recently used features until at most SIZE is left. Features that a search uses are kept."""
    from autotl.config import parse_bytes

    try:
        limit = int(parse_bytes(size))
    except ValueError:
        raise typer.BadParameter(f"{size!r} is not a size: write 5GB, 512MB, or a number of bytes.") from None
    root, store = _open(ctx, folder)
    _report_removed(store, store.prune(limit) if store else [], root, as_json=as_json)


@cache.command()
def clear(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Remove everything that no running search uses. Everything is made again when it is needed."""
    import shutil

    root, store = _open(ctx, folder)
    removed = store.clear() if store else []
    other_bytes = 0
    if not (store and store.usage()):  # a running search also uses the other folders
        for name in OTHER_FOLDERS:
            other_bytes += _folder_bytes(root / name)
            shutil.rmtree(root / name, ignore_errors=True)
    _report_removed(store, removed, root, as_json=as_json, other_bytes=other_bytes)


def _open(ctx: typer.Context, folder: Path | None) -> "tuple[Path, FeatureStore | None]":
    """The cache folder, and its store where one exists. Creates no folders."""
    from autotl.config import default_cache
    from autotl.features.store import FeatureStore
    from autotl.folders import require_cache

    root = expand_home(folder or (ctx.obj or {}).get("cache") or default_cache())
    require_cache(root)
    return root, FeatureStore(root / "features") if (root / "features").is_dir() else None


def _report_removed(
    store: "FeatureStore | None", removed: "list[StoredTable]", root: Path, *, as_json: bool, other_bytes: int = 0
) -> None:
    from autotl.atomic_io import format_bytes

    freed = sum(table.num_bytes for table in removed) + other_bytes
    left = store.usage() if store else []
    if as_json:
        tables = [_as_dict(table) for table in removed]
        _print({"cache": str(root), "freed": freed, "removed": tables, "left": len(left)})
        return
    console = Console()
    for table in removed:
        console.print(Text(f"removed {_describe(table)}, {format_bytes(table.num_bytes)}", "dim"))
    num_in_use = sum(table.in_use for table in left)
    kept = f"; {_count(num_in_use, 'set')} of features kept: in use by a running search" if num_in_use else ""
    left_bytes = format_bytes(sum(table.num_bytes for table in left))
    console.print(Text(f"{format_bytes(freed)} freed, {left_bytes} left in {root}{kept}"), soft_wrap=True)


def _describe(table: "StoredTable") -> str:
    """The network, view, engine and image size of recorded features."""
    spec = table.spec
    if spec is None:
        return f"unreadable ({table.folder.name[:12]}…)"
    name = table.label or f"backbone {str(spec.get('backbone', '?'))[:12]}"
    engine = " ".join(str(spec[key]) for key in ("engine", "precision", "device_type") if spec.get(key))
    preprocessing = spec.get("preprocessing")
    size = preprocessing.get("size") if isinstance(preprocessing, dict) else None
    return " · ".join(escape(p) for p in [name, spec.get("view"), engine, f"{size} px" if size else ""] if p)


def _as_dict(table: "StoredTable") -> dict[str, Any]:
    return {
        "folder": str(table.folder),
        "label": table.label,
        "spec": table.spec,
        "images": table.num_rows,
        "bytes": table.num_bytes,
        "last_used": table.last_used,
        "in_use": table.in_use,
    }


def _age(moment: float) -> str:
    seconds = time.time() - moment
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{_count(int(seconds // length), unit)} ago"
    return "just now"


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed by another process
            continue
    return total


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _print(data: Any) -> None:
    write_line(json.dumps(data, indent=2))
