"""Layouts of labelled images in folders: which folders are classes, and which are subsets."""

import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from autotl.data.dataset import LabelledImage, Subset, join_names
from autotl.data.manifests import manifest_beside
from autotl.data.subset_names import class_name, means_unlabelled, subset_of
from autotl.errors import DataError

__all__ = ["Folder", "labelled_images"]

FOLD = re.compile(r"(?:cv|k|x)?[ _-]?(?:fold|part|partition|split)s?[ _-]?\d+", re.IGNORECASE)
"""Names of the folders of a cross-validation."""
PIECE = re.compile(r"(?:.*[ _-])?(?:part|fold|batch|shard|chunk)[ _-]?\d+", re.IGNORECASE)
"""Names of folders that a large data set is cut into."""
_MASKS = r"(?:masks|gt|ground[ _-]?truth|seg(?:mentation)?(?:s|class|object)?|annotations?|trimaps?|thumb(?:nail)?s?)"
MASKS_FOLDER = re.compile(_MASKS, re.IGNORECASE)
"""Names of folders of masks and thumbnails."""
MASK = re.compile(rf"[ _.-](?:mask|{_MASKS})\.[^.\n]+$", re.IGNORECASE | re.MULTILINE)
"""The end of the name of a mask or a thumbnail, after that of its image: `benign (1)_mask.png`."""


# --- the tree of folders


@dataclass(frozen=True)
class Folder:
    """A folder on the disk, or in an archive."""

    path: Path
    name: str
    images: list[str] = field(default_factory=list)
    """Names of the images that lie directly in it."""
    folders: list["Folder"] = field(default_factory=list)

    @cached_property
    def has_images(self) -> bool:
        """Whether an image lies in it, or anywhere below it."""
        return bool(self.images) or any(folder.has_images for folder in self.folders)

    @cached_property
    def classes(self) -> list["Folder"]:
        """Its folders with images."""
        return [folder for folder in self.folders if folder.has_images]

    def all_images(self) -> Iterator[Path]:
        """All images in it and below it, in the order of their names."""
        inner: dict[str, Folder | None] = {**dict.fromkeys(self.images), **{f.name: f for f in self.folders}}
        for name in sorted(inner):
            folder = inner[name]
            if folder is None:
                yield self.path / name
            else:
                yield from folder.all_images()


def _companions(folder: Folder) -> Iterator[Path]:
    """Images that have the name of another one beside them, and say that they are its mask, or its thumbnail."""
    names = "\n".join(folder.images)
    found = [(names.rfind("\n", 0, match.start()) + 1, match) for match in MASK.finditer(names)]
    stems = {name.rpartition(".")[0] for name in folder.images} if found else set()
    for start, match in found:
        if names[start : match.start()] in stems:
            yield folder.path / names[start : match.end()]
    for inner in folder.classes:
        if MASKS_FOLDER.fullmatch(inner.name) and (own := list(inner.all_images())):
            others = [path for other in folder.classes if other is not inner for path in other.all_images()]
            stems = {path.stem for path in others} | {name.rpartition(".")[0] for name in folder.images}
            if sum(MASK.split(path.name)[0].removesuffix(path.suffix) in stems for path in own) * 2 > len(own):
                yield from own
                continue
        yield from _companions(inner)


# --- layouts


def labelled_images(root: Folder) -> list[LabelledImage]:
    """The images of class folders; of subsets in a folder each, with class folders inside, or the other way round.
    Raises DataError for another layout, and warns of images that look like masks."""
    images = _of_subset_folders(root) or _of_subsets_in_classes(root) or _of_class_folders(root)
    masks = list(_companions(root))
    if masks:
        examples = join_names([str(path.relative_to(root.path)) for path in masks], 3)
        warnings.warn(
            f"{len(masks):,} images of {root.path} look like masks or thumbnails of others, and are used as "
            f"images of their own: {examples}. If they are, move them elsewhere.",
            stacklevel=3,
        )
    return images


def _of_subset_folders(root: Folder) -> list[LabelledImage]:
    """The images of train/, val/ and test/ with class folders inside; empty if `root` has another layout.

    A class can be named "train" as well. A folder is a subset if it holds folders of images, and a class otherwise. A
    name that means a subset only loosely (`seg_train`) counts where all folders have such names and share classes.
    """
    strict: dict[str, Subset] = {f.name: subset for f in root.folders if (subset := subset_of(f.name))}
    loose = {f.name: s for f in root.classes if f.name not in strict and (s := subset_of(f.name, loosely=True))}
    others = [f for f in root.classes if f.name not in strict and not means_unlabelled(f.name)]
    unlabelled = [f for f in root.classes if f.name not in strict and means_unlabelled(f.name)]
    inner = {folder.name: _unwrapped(folder) for folder in root.folders}
    roles = strict
    if others and all(folder.name in loose for folder in others):
        together = {**strict, **loose}
        if _share_classes([inner[name] for name in together if inner[name].classes]):
            roles, others = together, []
    train = [name for name, subset in roles.items() if subset == "train" and inner[name].classes]
    if others:
        if not train:
            return []
        raise DataError(
            f"{root.path} has {train[0]}/ with class folders, but also other folders with images "
            f"({join_names([f.name for f in others])}). "
            "Remove these folders, or move the class folders one level up."
        )
    chosen = _one_folder_each(root, roles, inner)
    if not chosen:
        return []
    _check_training_folder(root, chosen)
    if unlabelled:
        names = join_names([f.name for f in unlabelled])
        warnings.warn(f"Left out folders of unlabelled images in {root.path}: {names}.", stacklevel=3)
    used = {name: subset for name, subset in roles.items() if inner[name].classes}
    if any(name.lower() not in ("train", "val", "valid", "validation", "test") for name in used):
        names = join_names([f"{name} ({subset})" for name, subset in used.items()])
        warnings.warn(f"Folders of {root.path} are read as subsets: {names}.", stacklevel=3)
    return [image for subset, folder in chosen.items() for image in _of_class_folders(folder, subset, root)]


def _unwrapped(folder: Folder) -> Folder:
    """The folder of a subset, or the one inside that repeats it: archives often hold seg_train/seg_train/."""
    subset = subset_of(folder.name, loosely=True)
    while subset and not folder.images and len(folder.classes) == 1:
        (inner,) = folder.classes
        if not inner.classes or subset_of(inner.name, loosely=True) != subset:
            break
        folder = inner
    return folder


def _share_classes(folders: list[Folder]) -> bool:
    """Whether these folders are subsets of the same classes, one of them for training."""
    names = [{inner.name for inner in folder.classes} for folder in folders]
    has_train = any(subset_of(folder.name, loosely=True) == "train" for folder in folders)
    return has_train and len(folders) > 1 and all(names[0] & other for other in names[1:])


def _one_folder_each(root: Folder, roles: dict[str, Subset], inner: dict[str, Folder]) -> dict[Subset, Folder]:
    """The folder of each subset. One without class folders is left out beside one with them."""
    chosen: dict[Subset, Folder] = {}
    unused: list[str] = []
    for name, subset in sorted(roles.items(), key=lambda item: (not inner[item[0]].classes, item[0])):
        if subset not in chosen:
            chosen[subset] = inner[name]
        elif inner[name].classes:
            raise DataError(
                f"{root.path} has two folders of {subset} images, {chosen[subset].name} and {name}. Remove one."
            )
        else:
            unused.append(name)
    if unused:
        warnings.warn(f"Left out folders of {root.path} without class folders: {join_names(unused)}.", stacklevel=4)
    # in the order of the names, which the indices in a study's split depend on
    order = sorted((name, subset) for name, subset in roles.items() if inner[name] is chosen[subset])
    return {subset: chosen[subset] for _, subset in order}


def _check_training_folder(root: Folder, chosen: dict[Subset, Folder]) -> None:
    if "train" in chosen and chosen["train"].classes:
        return
    with_classes = [folder for folder in chosen.values() if folder.classes]
    if with_classes:
        raise DataError(
            f"{root.path} has {join_names([f.name for f in with_classes])} but no train/ with class folders. "
            f"Add it, or give a folder of class folders: {with_classes[0].path}"
        )
    folder = chosen.get("train") or next(iter(chosen.values()))
    raise DataError(
        f"{folder.path} has no class folders with images. Put them into one folder for each class: "
        f"{folder.path / 'CLASS'}/….jpg{manifest_beside(root.path)}"
    )


def _of_subsets_in_classes(root: Folder) -> list[LabelledImage]:
    """The images of class folders that hold train/, val/ and test/; empty if `root` has another layout."""
    with_subsets = [f for f in root.classes if any(subset_of(inner.name) for inner in f.classes)]
    if not with_subsets:
        return []
    whole = [f for f in with_subsets if not f.images and all(subset_of(inner.name) for inner in f.classes)]
    has_train = any(subset_of(inner.name) == "train" for f in whole for inner in f.classes)
    if len(whole) < len(root.classes) or not has_train:
        names = [str(inner.path) for f in with_subsets for inner in f.classes if subset_of(inner.name)]
        warnings.warn(
            f"Folders named like subsets are read as a part of their classes: {join_names(names)}. "
            "For subsets, put all images of every class into such folders, one of them train.",
            stacklevel=3,
        )
        return []
    names = sorted({inner.name for f in whole for inner in f.classes})
    warnings.warn(
        f"Folders in the class folders of {root.path} are read as subsets: {join_names(names)}.", stacklevel=3
    )
    return [
        LabelledImage(path, class_name(folder.name), subset_of(inner.name) or "")
        for folder in whole
        for inner in folder.classes
        for path in inner.all_images()
    ]


def _of_class_folders(folder: Folder, subset: Subset = "", root: Folder | None = None) -> list[LabelledImage]:
    """The images in the class folders of `folder`, which is `root`, or one of its subsets."""
    if folder.images and not folder.classes:
        hint = f" To ignore them, give the training folder alone: {_training_folder(root)}" if root else ""
        raise DataError(
            f"{folder.path} has images but no class folders. Put them into one folder for each class, "
            f"{folder.path / 'CLASS' / folder.images[0]}, or list them in a CSV file with the columns path,label."
            f"{hint if subset in ('validation', 'test') else ''}{manifest_beside((root or folder).path)}"
        )
    if folder.images:
        warnings.warn(
            f"Left out images in {folder.path} that are not in a class folder: {join_names(folder.images)}.",
            stacklevel=3,
        )
    for empty in (inner for inner in folder.folders if not inner.has_images):
        warnings.warn(f"{empty.path} has no images and is not used as a class.", stacklevel=3)
    if root is None:
        _warn_of_doubtful_classes(folder)
    return [
        LabelledImage(path, label, subset)
        for inner in folder.classes
        for label in [class_name(inner.name)]
        for path in inner.all_images()
    ]


def _training_folder(root: Folder) -> Path:
    return next(folder.path for folder in root.folders if subset_of(folder.name, loosely=True) == "train")


def _warn_of_doubtful_classes(root: Folder) -> None:
    """Warn of class folders that look like something else. Raises DataError for a copy of others, and for folds."""
    for folder in root.classes:
        copied = [inner.name for inner in folder.classes]
        if len(copied) > 1 and {*copied} <= {other.name for other in root.classes if other is not folder}:
            raise DataError(
                f"{root.path} has the folders {join_names(copied)}, and {folder.name} has folders of the same names, "
                f"so that it would be a class of all of them. Move {folder.path} elsewhere, or give it alone."
            )
    inner = [{f.name for f in folder.classes} for folder in root.classes]
    named = [f.name for f in root.classes if subset_of(f.name, loosely=True)]
    shared = set.intersection(*inner) if len(inner) > 1 else set()
    folds = [f.name for f in root.classes if FOLD.fullmatch(f.name)]
    if shared and len(folds) == len(root.classes) > 1:
        raise DataError(
            f"The folders of {root.path} are folds ({join_names(folds)}), each with the class folders "
            f"{join_names(sorted(shared))}. List the images in a CSV file with the columns path,label,group and the "
            "fold as group, so that images of a fold stay together; or use two of them: "
            f"autotl search {shlex.quote(str(root.path / folds[0]))} --test {shlex.quote(str(root.path / folds[1]))}"
        )
    if len(shared) > 1:
        names = join_names([f.name for f in root.classes])
        warnings.warn(
            f"Each of the folders {names}, which are read as classes, holds the folders {join_names(sorted(shared))}. "
            "If those are the classes, use a manifest (path,label,split), or name the outer folders train, val, test.",
            stacklevel=4,
        )
    elif len(named) > 1 and len(named) == len(root.classes):
        warnings.warn(f"All classes are named like subsets: {join_names(named)}.", stacklevel=4)
    elif len(root.classes) > 1 and all(PIECE.fullmatch(folder.name) for folder in root.classes):
        names = join_names([folder.name for folder in root.classes])
        warnings.warn(
            f"All classes are named like pieces of one data set: {names}.{manifest_beside(root.path)}", stacklevel=4
        )
    for folder in root.classes:
        if class_name(folder.name) != folder.name:
            warnings.warn(
                f"A folder's name isn't UTF-8: its class is called {class_name(folder.name)!r}.", stacklevel=4
            )
