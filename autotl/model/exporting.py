"""Export a model: hand its parts to an exporter, and keep what it wrote only if it answers as the model does."""

import importlib.metadata
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from autotl._version import __version__
from autotl.atomic_io import read_json, replaced_folder, write_json
from autotl.backbones.weights import file_digest
from autotl.config import claimed_cache, find_model
from autotl.data.augmentation import ORIGINAL
from autotl.data.loading import list_images
from autotl.errors import AutotlError, find_named
from autotl.escaping import escape
from autotl.exports.base import (
    ExportedFamiliar,
    ExportedMember,
    ExportedModel,
    ExportedNetwork,
    Exporter,
)
from autotl.exports.card import Check, export_card
from autotl.exports.loss import Loss
from autotl.exports.views import transposes_of
from autotl.folders import expand_home
from autotl.model.doubt import NEIGHBOURS, Doubt
from autotl.model.export_check import CHECKED_IMAGES, compared
from autotl.model.export_loss import Labelled, choose_images, measured_loss
from autotl.model.exported_classifier import remember_export
from autotl.model.file_prediction import find_images
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member, networks_of
from autotl.model.network import feature_network
from autotl.registry import Registry, load_registry

__all__ = ["CHECKED_IMAGES", "MAX_CHANGED", "Exported", "export", "export_model", "write_quick_graph"]

QUICK = ("openvino", "onnx")
"""Exports that `autotl predict` uses in place of the model, because they start faster."""
GRAPH = "openvino"
"""The exporter of the graph that a search leaves in the cache: the runtime that autotl itself depends on."""
MAX_GRAPHS = 20
"""Graphs that are kept in the cache: the newest, of 20 to some 100 MB each."""
MAX_CHANGED = 0.02
"""The share of images that may get another class in fewer bits than in fp32."""
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
    loss: Loss | None = None
    """What fewer bits than fp32 lose; None in fp32."""


def export(
    model: ImageModel | str | os.PathLike[str],
    to: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    check: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    tta: bool = True,
    precision: str = "fp32",
    max_changed: float = MAX_CHANGED,
) -> Exported:
    """Write a model in a format that other programs run.

    Args:
        model: a model, its folder, or the name or folder of its study.
        to: the name of an exporter: "onnx", "openvino", "timm", "torch", or a plugin's.
        folder: to write to; by default `model-FORMAT` beside the model's folder, or `model-FORMAT-PRECISION`.
        check: images on which the export is compared with the model, files or a folder; by default those of the study.
            Fewer bits are measured on them, too: in folders that have the names of classes, with their labels.
        tta: False leaves out the views of an image that members average over.
        precision: "fp32", "fp16" or "int8". What fewer bits lose is measured, and in the export's README.md.
        max_changed: the largest share of images that may get another class in fewer bits than in fp32.

    Raises:
        AutotlError: there is no such model or exporter, no images for the check, the format can't hold the model or the
            precision, or the export answers differently, in which case nothing is left.

    >>> export("studies/photos", "onnx").folder  # doctest: +SKIP
    PosixPath('studies/photos/model-onnx')
    """
    registry = load_registry()
    exporter = registry.exporter(to)
    _require_precision(exporter, precision)
    place: Path | None = None
    if isinstance(model, ImageModel):
        loaded = model
    else:
        place = find_model(os.fspath(model))
        loaded = load(place, "cpu", registry)
    name = str(loaded.about.get("study", place.name if place else "model"))
    if folder is not None:
        target = expand_home(Path(folder))
    elif place is not None:
        ending = "" if precision == "fp32" else f"-{precision}"
        target = place.absolute().with_name(f"{place.name}-{exporter.name}{ending}")
    else:
        raise AutotlError("A model that isn't in a folder needs one to be exported to: export(model, to, folder).")
    of_study = [] if place is None else images_of_study(place.parent, registry)
    if check is None:
        images = of_study
        if not images:
            raise AutotlError(
                "There are no images to check the export with: the model's study, or its data, isn't here. Give some "
                "of yours: --check FOLDER"
            )
    else:
        places = [check] if isinstance(check, str | os.PathLike) else check
        images = [(path, path.parent.name) for path in find_images(map(Path, places))]
        images = _drawn(images)
    return export_model(
        loaded, exporter, target, images, name,
        tta=tta, source=place, precision=precision, max_changed=max_changed, calibrate=of_study if check else (),
    )  # fmt: skip


def images_of_study(study: Path, registry: Registry) -> list[Labelled]:
    """The images that a study was searched with, in random order; none where they aren't there any more."""
    try:
        location = str(read_json(study / "study.json")["data"])
        # the study may come from a stranger
        listed = list_images(location, registry.datasets, confined=True)
        return _drawn([(image.path, image.label) for image in listed])
    except (OSError, ValueError, KeyError, TypeError, AutotlError):
        return []


def _drawn(images: list[Labelled]) -> list[Labelled]:
    return [images[i] for i in np.random.default_rng(0).permutation(len(images))]


def _require_precision(exporter: Exporter, precision: str) -> None:
    if precision not in exporter.precisions:
        known = " or ".join(filter(None, [", ".join(exporter.precisions[:-1]), exporter.precisions[-1]]))
        others = "" if "int8" in exporter.precisions else ". Type --to onnx or --to openvino for fp16 and int8"
        raise AutotlError(f"{exporter.name} is written in {known}, not in {precision!r}{others}.")


def export_model(
    model: ImageModel,
    exporter: Exporter,
    folder: Path,
    images: Sequence[Labelled],
    name: str,
    *,
    tta: bool = True,
    source: Path | None = None,
    precision: str = "fp32",
    max_changed: float = MAX_CHANGED,
    calibrate: Sequence[Labelled] = (),
) -> Exported:
    """Export a model to a folder, which is replaced once the export is complete and was checked.

    Args:
        images: files for the check, with the names of their classes ("" or another name where they aren't known); the
            first `CHECKED_IMAGES` that can be decoded are used.
        name: of the model, for the card.
        tta: False exports a model that looks at each image as it is, where members average over views of it.
        source: the model's folder, if it is there: `autotl predict` of it then uses the export, if it is in fp32.
        precision: one of the exporter's.
        max_changed: as for `export`.
        calibrate: further images to calibrate int8 with; by default those of `images` that trained the model, or every
            second one.

    Raises:
        AutotlError: the format can't hold the model; the folder exists and is no export; an answer differs by more than
            the exporter's tolerance, or too many in fewer bits, in which case nothing is left.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise AutotlError(f"{folder} exists and is not an export of autotl. Export to another folder, or remove it.")
    _require_precision(exporter, precision)
    registry = model.registry or load_registry()
    if not tta:
        model = _without_views(model)
    model = replace(model, in_fp32=True, device="cpu", conversions=None)
    exported = _parts(model, registry, name)
    paths = [path for path, _ in images]
    loss: Loss | None = None
    with replaced_folder(folder) as draft, TemporaryDirectory(prefix="autotl-export-") as scratch:
        draft.mkdir(parents=True)
        exact = draft if precision == "fp32" else Path(scratch)
        exporter.export(exported, exact)
        runtime = exporter.load(exact)
        check = None if runtime is None else compared(model, runtime, exporter, paths, exporter.load_likeness(exact))
        if check and not check.likeness:
            exported = replace(exported, familiar=None, thresholds=_without_likeness(exported.thresholds))
        if precision != "fp32":
            assert runtime is not None, f"{exporter.name} has a precision, and nothing to compare"
            seen = choose_images(model, images, calibrate)
            exporter.compress(exact, draft, precision, seen.calibration)
            loss = measured_loss(runtime, exporter, exact, draft, precision, seen)
            _require_agreement(exporter, loss, max_changed)
        written = [str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()]
        (draft / MARKER).write_text("".join(f"{escape(name)}\n" for name in model.classes), encoding="utf-8")
        (draft / "example.py").write_text(exporter.example(exported, draft), encoding="utf-8")
        versions = {"autotl": __version__, **_versions(exporter.requires)}
        if check and exported.thresholds:
            write_json(draft / "doubt.json", exported.thresholds)
        (draft / "README.md").write_text(export_card(exported, exporter, check, versions, loss), encoding="utf-8")
        files = tuple(sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()))
    if check and source and tta and precision == "fp32" and exporter.name in QUICK:
        remember_export(source, folder, written, exporter, exported)
    notes = (
        () if check else (f"--to {exporter.name} holds the network alone, without a classifier: nothing to compare.",)
    )
    return Exported(folder, files, check, notes, loss)


def _require_agreement(exporter: Exporter, loss: Loss, max_changed: float) -> None:
    share = loss.changed / loss.images
    if share > max_changed or not np.isfinite(loss.largest):
        others = " --precision fp16 loses less." if loss.precision == "int8" else ""
        raise AutotlError(
            f"The export to {exporter.name} in {loss.precision} isn't kept: of {loss.images:,} images {loss.changed:,} "
            f"({share:.1%}) get another class than in fp32, and at most {max_changed:.1%} may.{others} To keep it all "
            f"the same, type --max-changed {min(np.ceil(100 * share + 0.1), 99):.0f}%"
        )


def _without_views(model: ImageModel) -> ImageModel:
    members = [replace(member, fitted=replace(member.fitted, views=(ORIGINAL,))) for member in model.members]
    return replace(model, members=members)


def _versions(requires: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in requires.split()}


def _parts(model: ImageModel, registry: Registry, name: str) -> ExportedModel:
    networks, layouts = [], []
    numbers: dict[str, int] = {}
    for number, network in enumerate(networks_of(model.members)):
        backbone, module = model.backbones[network.digest], model.module_of(network)
        features, layout = feature_network(module, backbone)
        networks.append(ExportedNetwork(backbone, module, features, is_tuned=network.state is not None))
        layouts.append(layout)
        numbers[network.key] = number
    members = []
    for member in model.members:
        levels = find_named("levels", member.fitted.levels, registry.levels)
        transposes = transposes_of(member.fitted.views, registry.augmentations)
        if transposes is None:
            raise AutotlError(
                f"Trial {member.trial} averages over {len(member.fitted.views)} views of an image that are drawn "
                "from the digest of its file, which no exported graph sees. Export the model without views, whose "
                "answers differ somewhat from those of `autotl predict`: --no-tta"
            )
        seen = [numbers[key] for key in member.network_keys]
        members.append(
            ExportedMember(
                member.fitted.head,
                tuple((number, part) for number in seen for part in layouts[number].slices(levels)),
                transposes,
                member.fitted.temperature,
                member.weight,
                member.recipe.describe(),
            )
        )
    doubt = model.doubt
    familiar = None if doubt is None else _familiar(doubt, model.members)
    thresholds = {} if doubt is None else doubt.thresholds()
    return ExportedModel(
        name, model.classes, tuple(networks), tuple(members), model.size_hint, familiar,
        thresholds if familiar else _without_likeness(thresholds),
    )  # fmt: skip


def _familiar(doubt: Doubt, members: Sequence[Member]) -> ExportedFamiliar | None:
    """What tells unknown images; None where none of the networks is the one whose features are compared."""
    of_network = [
        n for n, used in enumerate(networks_of(members)) if used.state is None and used.digest == doubt.network
    ]
    if doubt.familiar is None or not of_network:
        return None
    return ExportedFamiliar(of_network[0], doubt.familiar.samples, doubt.familiar.distances, NEIGHBOURS)


def _without_likeness(thresholds: Mapping[str, Mapping[str, float | None]]) -> dict[str, Mapping[str, float | None]]:
    return {name: values for name, values in thresholds.items() if name != "unknown_at"}


def write_quick_graph(model: ImageModel, source: Path, images: Sequence[Path]) -> bool:
    """Write a graph of a model into the user's cache, from which `autotl predict` starts without PyTorch. Nothing is
    left of one that differs from the model.

    Args:
        source: the model's folder.
        images: some files to compare the answers for.

    Returns:
        False where OpenVINO isn't here.

    Raises:
        AutotlError: no graph can hold the model, or its answers differ.
        OSError: the cache can't be written.
    """
    registry = model.registry or load_registry()
    exporter = registry.exporters.get(GRAPH)
    if exporter is None or find_spec(GRAPH) is None:
        return False
    model = replace(model, in_fp32=True, device="cpu", conversions=None, on_features=None)
    exported = _parts(model, registry, source.name)
    graphs = claimed_cache() / "graphs"
    folder = graphs / file_digest(source / "model.json")
    with replaced_folder(folder) as draft:
        draft.mkdir(parents=True)
        exporter.export(exported, draft)
        runtime = exporter.load(draft)
        if runtime is None:
            raise AutotlError(f"The export to {exporter.name} is no whole model.")
        compared(model, runtime, exporter, images)
        files = [str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()]
    remember_export(source, folder, files, exporter, exported)
    for old in sorted(graphs.iterdir(), key=lambda path: path.stat().st_mtime)[:-MAX_GRAPHS]:
        shutil.rmtree(old, ignore_errors=True)
    return True
