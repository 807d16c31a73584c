"""`autotl cache`: what is recorded and kept between searches, and how to check it and make room."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from autotl.features.store import FeatureStore, StoredTable

__all__ = ["add_commands"]

cache = typer.Typer(help="Recorded features: show, verify, prune, clear.", invoke_without_command=True)
Folder = Annotated[Path | None, typer.Option("--cache", metavar="FOLDER", help="The cache's folder.")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="As JSON.")]
BESIDES = {"engines": "networks made ready for an engine", "digests": "which image files were checked"}
"""Folders of the cache beside the features; small, and made again when they are missed."""


def add_commands(app: typer.Typer) -> None:
    app.add_typer(cache, name="cache")


@cache.callback()
def cache_default(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Recorded features, shared by all searches: show, verify, prune, clear."""
    ctx.obj = {**(ctx.obj or {}), "cache": folder}
    if as_json and ctx.invoked_subcommand is not None:
        raise typer.BadParameter(f"write it behind the command: autotl cache {ctx.invoked_subcommand} --json")
    if ctx.invoked_subcommand is None:
        show(ctx, folder, as_json)


@cache.command()
def show(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """What is recorded, the longest unused first: how many images, how large, and whether a search uses it now."""
    import shutil

    from autotl.atomic_io import format_bytes

    root, store = _open(ctx, folder)
    kept = store.usage() if store else []
    besides = {name: _size(root / name) for name in BESIDES}
    if as_json:
        _print({"cache": str(root), "features": [_as_dict(k) for k in kept], **besides})
        return
    console = Console()
    if not kept and not any(besides.values()):
        console.print(f"The cache {root} is empty.", soft_wrap=True)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("features of", overflow="fold")
    for name in ("images", "size", "last used"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for k in kept:
        use = Text("in use", "green") if k.in_use else Text("")
        table.add_row(_what(k), f"{k.rows:,}", format_bytes(k.n_bytes), _ago(k.last_used), use)
    if kept:
        console.print(table)
    for name, n_bytes in besides.items():
        if n_bytes:
            console.print(Text(f"{format_bytes(n_bytes)}: {BESIDES[name]}", "dim"))
    total = sum(k.n_bytes for k in kept) + sum(besides.values())
    free = format_bytes(shutil.disk_usage(root).free)
    console.print(f"{format_bytes(total)} in {root}, {free} free on its disk", soft_wrap=True)


@cache.command()
def verify(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Check every recorded row against its checksum. Damaged ones are dropped, and recorded again when needed."""
    root, store = _open(ctx, folder)
    labels = {k.folder: k for k in store.usage()} if store else {}
    damaged = store.verify() if store else {}
    if as_json:
        _print({"cache": str(root), "checked": len(damaged), "damaged": {p.name: d for p, d in damaged.items() if d}})
        return
    console = Console()
    for path, digests in damaged.items():
        if digests:
            words = _what(labels[path]) if path in labels else path.name
            console.print(
                Text(f"{words}: {_many(len(digests), 'damaged row')} dropped, to be recorded again", "yellow"),
                soft_wrap=True,
            )
    if unread := [k for p, k in labels.items() if p not in damaged]:
        console.print(
            f"{_many(len(unread), 'folder')} can't be read by this autotl. Remove: autotl cache clear", soft_wrap=True
        )
    rows = sum(k.rows for p, k in labels.items() if p in damaged)
    bad = sum(map(len, damaged.values()))
    console.print(
        f"{_many(rows, 'row')} checked in {root}: {f'{bad:,} damaged' if bad else 'all sound'}", soft_wrap=True
    )


@cache.command()
def prune(
    ctx: typer.Context,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="What may stay: 5GB, 512MB.")],
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Remove recorded features, the longest unused first, until at most SIZE is left. What a search uses stays."""
    from autotl.config import parse_bytes

    try:
        limit = int(parse_bytes(size))
    except ValueError:
        raise typer.BadParameter(f"{size!r} is no size: write 5GB, 512MB, or a number of bytes.") from None
    root, store = _open(ctx, folder)
    _tell_removed(store, store.prune(limit) if store else [], root, as_json)


@cache.command()
def clear(ctx: typer.Context, folder: Folder = None, as_json: Json = False) -> None:
    """Remove everything that no running search uses. It is all made again when it is needed."""
    import shutil

    root, store = _open(ctx, folder)
    removed = store.clear() if store else []
    besides = 0
    if not (store and store.usage()):  # a running search reads them too
        for name in BESIDES:
            besides += _size(root / name)
            shutil.rmtree(root / name, ignore_errors=True)
    _tell_removed(store, removed, root, as_json, besides)


def _open(ctx: typer.Context, folder: Path | None) -> "tuple[Path, FeatureStore | None]":
    """The cache's folder, and its store where there is one: to look makes no folders."""
    from autotl.config import default_cache
    from autotl.errors import AutotlError
    from autotl.features.store import FeatureStore

    root = (folder or (ctx.obj or {}).get("cache") or default_cache()).expanduser()
    if root.exists() and not root.is_dir():
        raise AutotlError(f"{root} is no folder: give the cache's with --cache.")
    return root, FeatureStore(root / "features") if (root / "features").is_dir() else None


def _tell_removed(
    store: "FeatureStore | None", removed: "list[StoredTable]", root: Path, as_json: bool, besides: int = 0
) -> None:
    from autotl.atomic_io import format_bytes

    freed = sum(k.n_bytes for k in removed) + besides
    left = store.usage() if store else []
    if as_json:
        _print({"cache": str(root), "freed": freed, "removed": [_as_dict(k) for k in removed], "left": len(left)})
        return
    console = Console()
    for k in removed:
        console.print(Text(f"removed {_what(k)}, {format_bytes(k.n_bytes)}", "dim"))
    used = sum(k.in_use for k in left)
    stays = f"; {_many(used, 'set')} of features in use by a running search stay" if used else ""
    console.print(
        f"{format_bytes(freed)} freed, {format_bytes(sum(k.n_bytes for k in left))} left in {root}{stays}",
        soft_wrap=True,
    )


def _what(kept: "StoredTable") -> str:
    """Which network's features of which view, from which engine."""
    if kept.spec is None:
        return f"unreadable ({kept.folder.name[:12]}…)"
    spec = kept.spec
    name = kept.label or f"backbone {str(spec.get('backbone', '?'))[:12]}"
    parts = [spec.get("view"), f"{spec.get('engine')} {spec.get('precision')}" if spec.get("engine") else None]
    size = (spec.get("preprocessing") or {}).get("size") if isinstance(spec.get("preprocessing"), dict) else None
    return " · ".join(str(p) for p in [name, *parts, f"{size} px" if size else None] if p)


def _as_dict(kept: "StoredTable") -> dict[str, Any]:
    return {
        "folder": str(kept.folder),
        "label": kept.label,
        "spec": kept.spec,
        "images": kept.rows,
        "bytes": kept.n_bytes,
        "last_used": kept.last_used,
        "in_use": kept.in_use,
    }


def _ago(moment: float) -> str:
    seconds = time.time() - moment
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{_many(int(seconds // length), unit)} ago"
    return "just now"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed since
            continue
    return total


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _print(data: Any) -> None:
    print(json.dumps(data, indent=2))
