"""The backbones of a model folder, found without reading a file outside of it and without the network.

What a folder's page may name is a closed list: what plugins registered, what they list (`autotl_list_backbones`), and
networks whose configuration lies in the folder itself.
"""

import copy
import hashlib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.atomic_io import read_json, write_atomically
from autotl.backbones.base import Backbone
from autotl.backbones.limits import check_config, limited_build
from autotl.errors import AutotlError, UnknownName
from autotl.escaping import escape
from autotl.model.files import require_sound
from autotl.model.manifest import BackboneEntry, ModelManifest
from autotl.model.requirements import missing_plugin
from autotl.registry import Registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["config_contents", "find_backbones", "weights_file", "write_backbones"]

SHORT = 16
"""Digits of a backbone's digest in the names of its files."""
PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
"""A name without a prefix, a folder or an address."""
OPTION = re.compile(r"[a-z]\w*=[\w+-][\w.+-]*(/[\w+-][\w.+-]*)*", re.ASCII)
"""One of the options that follow a name after commas: a number, a word, or several between slashes; no path."""


def config_contents(backbone: Backbone) -> dict[str, bytes]:
    """What `Backbone.config_files` hold, by name."""
    return {name: file.read_bytes() for name, file in backbone.config_files().items()}


def write_backbones(
    folder: Path,
    digests: Iterable[str],
    build: "Callable[[str], nn.Module]",
    contents: Callable[[str], dict[str, bytes]],
) -> dict[str, str]:
    """Write the weights of backbones' networks, and beside them the files that they are built from.

    Args:
        build: the network of a backbone.
        contents: of the files that it is built from, by name.

    Returns:
        By the digest of each backbone, that of the one whose file has its weights: a network for images of another size
        has the same.
    """
    from safetensors.torch import save

    owners: dict[bytes, str] = {}
    shared: dict[str, str] = {}
    for digest in digests:
        weights = save({k: v.contiguous() for k, v in build(digest).state_dict().items()})
        owner = owners.setdefault(hashlib.sha256(weights).digest(), digest)
        shared[digest] = owner
        if owner == digest:
            write_atomically(weights_file(folder, digest), weights)
        for name, content in contents(digest).items():
            write_atomically(weights_file(folder, digest).with_suffix("") / name, content)
    return shared


def find_backbones(folder: Path, manifest: ModelManifest, registry: Registry) -> dict[str, Backbone]:
    """The backbones that the page names, by digest, each with the preprocessing that it was saved with.

    Raises:
        AutotlError: a name that isn't of the closed list (the message names the plugin that has it), a file that is
            missing or was changed, or a configuration of no network.
    """
    backbones: dict[str, Backbone] = {}
    for entry in manifest.backbones:
        own, weights = Path("backbones") / entry.digest[:SHORT], weights_file(folder, entry.weights or entry.digest)
        needed = [str(weights.relative_to(folder)), *(f"{own}/{name}" for name in entry.config_files)]
        require_sound(folder, needed, manifest.files)
        try:
            if entry.config_files:
                found = _from_folder(folder / own, entry, registry)
            else:
                found = _by_name(entry, weights, registry)
        except UnknownName as error:
            plugin = next((p for p in manifest.plugins if (p.component, p.name) == ("backbone", entry.name)), None)
            if plugin is None:
                raise
            raise missing_plugin(folder, plugin, registry) from error
        backbones[entry.digest] = _with_preprocessing(found, entry, folder)
    return backbones


def weights_file(folder: Path, digest: str) -> Path:
    return folder / "backbones" / f"{digest[:SHORT]}.safetensors"


def _from_folder(own: Path, entry: BackboneEntry, registry: Registry) -> Backbone:
    """The backbone whose configuration lies in the folder `own`: its family reads it from there."""
    for name in entry.config_files:
        try:
            check_config(read_json(own / name))
        except (OSError, ValueError) as error:
            raise AutotlError(
                f"{own / name} doesn't describe a network: {error}. Copy the model's folder again."
            ) from error
    prefix = entry.name.partition(":")[0] + ":"
    backbone = registry.backbone(f"{prefix}{own.absolute()}")
    if backbone.folder_prefix != prefix or {file.parent for file in backbone.config_files().values()} != {
        own.absolute()
    }:
        raise AutotlError(f"{escape(entry.name)[:100]!r} is no family of backbones that reads a folder of its own.")
    try:
        _ = backbone.preprocessing  # states sizes, too
    except AutotlError as error:
        raise AutotlError(f"{own} doesn't describe a network: {error}") from error
    return backbone


def _by_name(entry: BackboneEntry, weights: Path, registry: Registry) -> Backbone:
    """The backbone that a plugin registered or lists under the entry's name. A plain word is looked up in any case: a
    library still builds networks whose old names it no longer lists.

    The options in a name (`MODEL,KEY=VALUE@FILE`) are the family's to check. It may build the network for that, which
    is limited by what the file `weights` holds.
    """
    whole = entry.name.partition("@")[0]  # a user's own file: the weights are in the model's folder
    if whole in registry.backbones:
        return registry.backbones[whole]
    name, *options = whole.split(",")
    for option in options:
        if not OPTION.fullmatch(option) or ".." in option:
            raise AutotlError(
                f"{escape(entry.name)[:100]!r} has an option of no network, {escape(option)[:100]!r}: it was made by "
                "hand. Copy the model's folder again."
            )
    prefix, colon, inner = name.partition(":")
    is_address = any(plugin.matches(prefix) for plugin in registry.plugins)  # `plugin:name`
    if colon or not PLAIN.fullmatch(name):
        names = {*registry.backbones, *registry.family_names()}
        known = {name, name.partition(".")[0], *({inner, inner.partition(".")[0]} if is_address else ())}
        if not known & names:
            raise UnknownName("backbone", escape(name)[:100], registry.backbones, others=names)
    if not options:
        return registry.backbone(whole)
    with limited_build(*_size_of(weights)):
        return registry.backbone(whole)


def _size_of(weights: Path) -> tuple[int, int]:
    """The number of tensors in a safetensors file, and of the numbers in them, from its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        raise AutotlError(f"{weights} is damaged: {error}. Copy the model's folder again.") from error
    return len(shapes), sum(map(math.prod, shapes))


def _with_preprocessing(found: Backbone, entry: BackboneEntry, folder: Path) -> Backbone:
    """A copy of the backbone that prepares images as the folder's page states, whatever its library states today. It
    keeps its name, with a user's file in it, which is only shown: it isn't read."""
    backbone = copy.copy(found)
    if "@" in entry.name and not entry.config_files:
        backbone.name = escape(entry.name)
    saved = entry.preprocessing.preprocessing()
    vars(backbone)["preprocessing"] = saved
    if backbone.preprocessing != saved:
        raise AutotlError(
            f"The model in {folder} prepares images for {backbone.name} otherwise than its plugin does: {saved}, not "
            f"{backbone.preprocessing}. Install the version of the plugin that made it."
        )
    return backbone
