"""Keys of what is kept about a backbone: its layout, its engine's cosine, its converted networks."""

import functools
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from autotl.features.store import FORMAT

__all__ = ["LAYOUT_KEY", "conversion_key", "fact_file", "library_version", "library_versions"]

LAYOUT_KEY = {"format": FORMAT, "has": "stages"}
"""The key of the file that keeps a backbone's layout."""


@functools.cache
def library_version(distribution: str) -> str:
    """The version of an installed distribution, without importing it; "" where it isn't installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def library_versions() -> dict[str, str]:
    """The versions of the libraries that build and run a backbone. Part of every key of what a network computes."""
    return {name: library_version(name) for name in ("timm", "torch")}


def conversion_key(backbone_digest: str, block: int | None = None) -> str:
    """The key under which an engine caches a converted network: with all feature levels, or up to block `block`."""
    network = f"levels-{FORMAT}" if block is None else str(block)
    versions = "/".join(f"{name}-{version}" for name, version in library_versions().items())
    return f"{backbone_digest}/{network}/{versions}"


def fact_file(folder: Path, name: str, key: dict[str, Any], backbone_digest: str, suffix: str = "json") -> Path:
    """The file in a folder of conversions where a fact about a backbone under `key` is kept."""
    text = json.dumps(key | {"backbone": backbone_digest, "libraries": library_versions()}, sort_keys=True)
    return folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.{suffix}"
