"""Forged model folders: edit a page, and make the digests of the folder fit, as a stranger would who knows autotl."""

import hashlib
import json
from pathlib import Path
from typing import Any

from autotl.model.manifest import write_manifest

__all__ = ["edit", "manifest_of", "member_of", "seal"]


def edit(file: Path, key: str, value: Any) -> None:
    """Set one value of a JSON file; `key` is like `recipe.head_params.width`."""
    content = json.loads(file.read_text())
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
    inner[int(last) if isinstance(inner, list) else last] = value
    file.write_text(json.dumps(content))


def manifest_of(model: Path) -> Path:
    return model / "model.json"


def member_of(model: Path, number: int = 0) -> Path:
    return model / "members" / str(number) / "member.json"


def seal(model: Path) -> None:
    """Write the digests of all files and pages anew. Pages that aren't JSON objects any more stay as they are."""
    for page in sorted(model.glob("members/*/member.json")):
        _seal(page, page.parent)
    _seal(manifest_of(model), model)


def _seal(page: Path, folder: Path) -> None:
    if not page.is_file():  # a pipe would never end
        return
    try:
        content = json.loads(page.read_text())
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        return
    content.pop("digest", None)
    for name in content["files"]:
        file = folder / name
        if file.is_file() and not file.is_symlink():
            content["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        write_manifest(page, content)
    except ValueError:  # NaN
        return
