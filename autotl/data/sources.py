"""The built-in dataset sources: a folder of class folders, a manifest (`autotl.data.manifests`), Parquet and tar files
(`autotl.data.containers`), and addresses (`autotl.data.remote`).

A source calls `warnings.warn` for anything that it leaves out; `load_dataset` shows these warnings to the user.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.data.containers import ParquetSource, TarSource
from autotl.data.dataset import DatasetSource, LabelledImage
from autotl.data.file_listing import FileListing, Parents, common_extensions, format_counts
from autotl.data.layouts import Folder, labelled_images
from autotl.data.manifests import ManifestSource, manifest_beside
from autotl.data.remote import RemoteSource
from autotl.errors import DataError
from autotl.folders import expand_home

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["FolderSource", "ManifestSource"]


class FolderSource(DatasetSource):
    """Class folders, side by side, or in folders of subsets (`train`, `val`, `test` and other names for them), or with
    folders of subsets inside. The images in subfolders of a class folder belong to the class. `FileListing` says which
    files are images."""

    name = "folder"

    def matches(self, location: str) -> bool:
        return expand_home(location).is_dir()

    def images(self, location: str) -> list[LabelledImage]:
        listing = FileListing()
        root = _read(expand_home(location), listing)
        if not root.has_images:
            raise DataError(_no_images(root.path, listing))
        images = labelled_images(root)
        for note in listing.notes(root.path):
            warnings.warn(note, stacklevel=2)
        return images


def autotl_register_datasets(register: "Register[DatasetSource]") -> None:
    local = (FolderSource(), ManifestSource(), ParquetSource(), TarSource())

    def list_local(location: str) -> list[LabelledImage]:
        source = next((source for source in reversed(local) if source.matches(location)), None)
        if source is None:
            raise DataError(f"{location} is neither a folder, nor a manifest, Parquet file or tar archive.")
        return source.images(location)

    for source in local:
        register(source)
    register(RemoteSource(list_local))


def _read(path: Path, listing: FileListing, parents: Parents = ()) -> Folder:
    """The tree of folders at `path`."""
    images, names, parents = listing.visit(path, parents)
    return Folder(path, path.name, images, [_read(path / name, listing, parents) for name in names])


def _no_images(root: Path, listing: FileListing) -> str:
    if listing.left_out:
        return (
            f"No file in {root} is an image; there are {format_counts(listing.left_out)}. "
            f"Every format that Pillow reads can be used: {', '.join(common_extensions())} …{manifest_beside(root)}"
        )
    return f"{root} has no images. Put them into one folder for each class: {root / 'CLASS'}/….jpg"
