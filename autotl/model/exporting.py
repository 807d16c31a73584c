"""Export a model: hand its parts to an exporter, and keep what it wrote only if it answers as the model does."""

import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autotl._version import __version__
from autotl.atomic_io import read_json, replaced_folder
from autotl.config import find_model
from autotl.data.augmentation import ORIGINAL
from autotl.data.decoding import decode
from autotl.data.loading import list_images
from autotl.errors import AutotlError, find_named
from autotl.escaping import escape
from autotl.exports.base import ExportedMember, ExportedModel, ExportedNetwork, Exporter, Runtime
from autotl.exports.card import Check, export_card
from autotl.exports.views import transposes_of
from autotl.model.exported_classifier import remember_export
from autotl.model.file_prediction import find_images
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member
from autotl.model.network import feature_network
from autotl.registry import Registry, load_registry

__all__ = ["CHECKED_IMAGES", "Exported", "export", "export_model"]

CHECKED_IMAGES = 32
"""Images on which an export is compared with the model."""
QUICK = ("openvino", "onnx")
"""Exports that `autotl predict` uses in place of the model, because they start faster."""
MARKER = "labels.txt"
"""A file that every export has: a folder without it isn't replaced."""


@dataclass(frozen=True)
class Exported:
    """What `autotl export` wrote."""

    folder: Path
    files: tuple[str, ...]
    check: Check | None
    """None where no probabilities could be compared: the export is no whole classifier."""
    notes: tuple[str, ...]


def export(
    model: ImageModel | str | os.PathLike[str],
    to: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    check: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    tta: bool = True,
) -> Exported:
    """Write a model in a format that other programs run.

    Args:
        model: a model, its folder, or the name or folder of its study.
        to: the name of an exporter: "onnx", "openvino", "timm", "torch", or a plugin's.
        folder: to write to; by default `model-FORMAT` beside the model's folder.
        check: images on which the export is compared with the model, files or a folder; by default those of the study.
        tta: False leaves out the views of an image that members average over.

    Raises:
        AutotlError: there is no such model or exporter, no images for the check, the format can't hold the model, or
            the export answers differently, in which case nothing is left.

    >>> export("studies/photos", "onnx").folder  # doctest: +SKIP
    PosixPath('studies/photos/model-onnx')
    """
    registry = load_registry()
    exporter = registry.exporter(to)
    place: Path | None = None
    if isinstance(model, ImageModel):
        loaded = model
    else:
        place = find_model(os.fspath(model))
        loaded = load(place, "cpu", registry)
    name = str(loaded.about.get("study", place.name if place else "model"))
    if folder is not None:
        target = Path(folder)
    elif place is not None:
        target = place.absolute().with_name(f"{place.name}-{exporter.name}")
    else:
        raise AutotlError("A model that isn't in a folder needs one to be exported to: export(model, to, folder).")
    if check is None:
        images = [] if place is None else images_of_study(place.parent, registry)
        if not images:
            raise AutotlError(
                "There are no images to check the export with: the model's study, or its data, isn't here. Give some "
                "of yours: --check FOLDER"
            )
    else:
        places = [check] if isinstance(check, str | os.PathLike) else check
        images = _drawn(list(find_images(map(Path, places))))
    return export_model(loaded, exporter, target, images, name, tta=tta, source=place)


def images_of_study(study: Path, registry: Registry) -> list[Path]:
    """The images that a study was searched with, in random order; none where they aren't there any more."""
    try:
        location = str(read_json(study / "study.json")["data"])
        # the study may come from a stranger
        return _drawn([image.path for image in list_images(location, registry.datasets, confined=True)])
    except (OSError, ValueError, KeyError, TypeError, AutotlError):
        return []


def _drawn(images: list[Path]) -> list[Path]:
    return [images[i] for i in np.random.default_rng(0).permutation(len(images))]


def export_model(
    model: ImageModel,
    exporter: Exporter,
    folder: Path,
    images: Sequence[Path],
    name: str,
    *,
    tta: bool = True,
    source: Path | None = None,
) -> Exported:
    """Export a model to a folder, which is replaced once the export is complete and was checked.

    Args:
        images: files for the check; the first `CHECKED_IMAGES` that can be decoded are used.
        name: of the model, for the card.
        tta: False exports a model that looks at each image as it is, where members average over views of it.
        source: the model's folder, if it is there: `autotl predict` of it then uses the export.

    Raises:
        AutotlError: the format can't hold the model; the folder exists and is no export; an answer differs by more than
            the exporter's tolerance, in which case nothing is left.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise AutotlError(f"{folder} exists and is not an export of autotl. Export to another folder, or remove it.")
    registry = model.registry or load_registry()
    if not tta:
        model = _without_views(model)
    model = replace(model, in_fp32=True, device="cpu", conversions=None)
    exported = _parts(model, registry, name)
    with replaced_folder(folder) as draft:
        draft.mkdir(parents=True)
        exporter.export(exported, draft)
        written = [str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()]
        runtime = exporter.load(draft)
        check = None if runtime is None else _compared(model, runtime, exporter, images)
        (draft / MARKER).write_text("".join(f"{escape(name)}\n" for name in model.classes), encoding="utf-8")
        (draft / "example.py").write_text(exporter.example(exported, draft), encoding="utf-8")
        versions = {"autotl": __version__, **_versions(exporter.requires)}
        (draft / "README.md").write_text(export_card(exported, exporter, check, versions), encoding="utf-8")
        files = tuple(sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()))
    if check and source and tta and exporter.name in QUICK:
        remember_export(source, folder, written, exporter, exported)
    notes = (
        () if check else (f"--to {exporter.name} holds the network alone, without a classifier: nothing to compare.",)
    )
    return Exported(folder, files, check, notes)


def _without_views(model: ImageModel) -> ImageModel:
    members = [replace(member, fitted=replace(member.fitted, views=(ORIGINAL,))) for member in model.members]
    return replace(model, members=members)


def _versions(requires: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in requires.split()}


def _parts(model: ImageModel, registry: Registry, name: str) -> ExportedModel:
    groups: dict[str, list[Member]] = {}
    for member in model.members:
        groups.setdefault(member.network_key, []).append(member)
    networks = []
    for members in groups.values():
        backbone = model.backbones[members[0].backbone_digest]
        module = model.network_of(members[0])
        features, layout = feature_network(module, backbone)
        parts = []
        for member in members:
            slices = layout.slices(find_named("levels", member.fitted.levels, registry.levels))
            transposes = transposes_of(member.fitted.views, registry.augmentations)
            if transposes is None:
                raise AutotlError(
                    f"Trial {member.trial} averages over {len(member.fitted.views)} views of an image that are drawn "
                    "from the digest of its file, which no exported graph sees. Export the model without views, whose "
                    "answers differ somewhat from those of `autotl predict`: --no-tta"
                )
            parts.append(
                ExportedMember(
                    member.fitted.head,
                    tuple(slices),
                    transposes,
                    member.fitted.temperature,
                    member.weight,
                    member.recipe.describe(),
                )
            )
        is_tuned = members[0].fitted.backbone_state is not None
        networks.append(ExportedNetwork(backbone, module, features, is_tuned, tuple(parts)))
    return ExportedModel(name, model.classes, tuple(networks), model.size_hint)


def _compared(model: ImageModel, runtime: Runtime, exporter: Exporter, images: Sequence[Path]) -> Check:
    """Compare the answers for files of the user's.

    Raises:
        AutotlError: one differs, or no image can be decoded.
    """
    differences: list[float] = []
    equal = 0
    skipped: list[Path] = []
    for path, expected in model.stream(images, lambda path, reason: skipped.append(path), many=False):
        (answer,) = runtime(np.array(decode(path, model.size_hint))[None])
        difference = float(np.abs(answer - expected).max())
        best = int(answer.argmax())
        # a tie within the tolerance is no other answer
        same = best == int(expected.argmax()) or expected.max() - expected[best] <= 2 * exporter.tolerance
        if not np.isfinite(answer).all() or difference > exporter.tolerance or not same:
            raise AutotlError(
                f"The export to {exporter.name} isn't kept: for {path} it answers {_told(model, answer)}, and the "
                f"model {_told(model, expected)}; they may differ by {exporter.tolerance:g}. Try another format with "
                "--to, and report it as a bug."
            )
        equal += best == int(expected.argmax())
        differences.append(difference)
        if len(differences) == CHECKED_IMAGES:
            break
    if not differences:
        raise AutotlError("No image to check the export with can be decoded. Give some of yours: --check FOLDER")
    return Check(len(differences), equal, max(differences))


def _told(model: ImageModel, probabilities: np.ndarray) -> str:
    best = int(np.argmax(probabilities))
    return f"{escape(model.classes[best])!r} with {float(probabilities[best]):.4f}"
