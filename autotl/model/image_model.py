"""What a search returns: a model that predicts, and its folder of safetensors, skops and JSON."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from autotl.atomic_io import refuse_links_out, replaced_folder, write_atomically, write_json
from autotl.backbones.base import Backbone, Layout
from autotl.data.augmentation import ORIGINAL, View, draw
from autotl.data.decoding import UndecodableImage, UnusualImage, to_rgb
from autotl.data.preprocessing import load_views, preprocess
from autotl.data.sandbox import Readers
from autotl.data.verification import digest_file
from autotl.engines.base import Compiled
from autotl.engines.parity import checked_engine
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError
from autotl.features.extractor import FEATURE_DTYPE, batches, conversion_key
from autotl.features.table import to_stored_dtype
from autotl.model.manifest import FORMAT, read_model_manifest
from autotl.model.member import Member, load_member, save_member
from autotl.model.requirements import check_plugins, plugins_of
from autotl.registry import Registry, load_registry

__all__ = ["ImageModel", "load"]

FEW = 256
"""Up to so many images PyTorch has answered before a faster engine has converted the network."""
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
T = TypeVar("T")


@dataclass
class ImageModel:
    """One fitted recipe, or several whose probabilities are averaged by weight."""

    classes: tuple[str, ...]
    members: list[Member]
    backbones: dict[str, Backbone]
    """By digest, each backbone that a member stands on."""
    weights: dict[str, Path] = field(default_factory=dict)
    """By digest, files with those backbones' weights: a loaded model needs no others."""
    registry: Registry | None = None
    device: str = "cpu"
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    conversions: Path | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """What `model.json` says besides: metric, versions, validation score."""
    _passes: dict[tuple[str, bool], "_Pass"] = field(default_factory=dict)
    _readers: Readers = field(default_factory=Readers)

    def predict(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """The most probable class's name for each image, [n]."""
        return np.array(self.classes)[self.predict_proba(images).argmax(1)]

    def predict_proba(self, images: ImageLike | Sequence[ImageLike]) -> np.ndarray:
        """Probabilities [n, num_classes], in the order of `classes`, float64.

        Args:
            images: paths, PIL images or arrays (see `autotl.data.decoding.to_rgb`); or one of these.

        Raises:
            UndecodableImage: an image can't be read.
        """
        one = isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        listed: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        rows = [row for _, row in self._run(listed, self._open, len(listed) > FEW)]
        return np.stack(rows) if rows else np.empty((0, len(self.classes)))

    def stream(
        self,
        paths: Iterable[Path],
        on_skip: Callable[[Path, str], None] | None = None,
        many: bool = True,
        checked: bool = False,
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Path and probabilities [num_classes] one by one, in order, whatever the number of images; memory stays flat.

        Args:
            on_skip: told of each file that can't be read, and why; without it such a file raises UndecodableImage.
            many: worth converting the networks for a faster engine; no for a few hundred images.
            checked: the files were verified before. Others are first read in a child process where their format is
                unusual: a hostile one may crash its reader.
        """

        def load(path: Path, backbone: Backbone, views: set[View]) -> dict[View, np.ndarray]:
            try:
                return self._load(path, backbone, views, checked)
            except UndecodableImage as error:
                if on_skip is None:
                    raise UndecodableImage(f"{path}: {error}", error.path) from error
                skipped[path] = str(error)
                return {}

        skipped: dict[Path, str] = {}
        for path, row in self._run(paths, load, many):
            if path in skipped and on_skip:
                on_skip(path, skipped[path])
            else:
                yield path, row

    def _open(self, image: ImageLike, backbone: Backbone, views: set[View]) -> dict[View, np.ndarray]:
        if isinstance(image, str | os.PathLike):
            try:
                return self._load(Path(image), backbone, views)
            except UndecodableImage as error:
                raise UndecodableImage(f"{image}: {error}", error.path) from error
        picture = to_rgb(image)
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).hexdigest() if views != {ORIGINAL} else ""
        return {view: preprocess(draw(picture, digest, view), backbone.preprocessing) for view in views}

    def _load(self, path: Path, backbone: Backbone, views: set[View], checked: bool = False) -> dict[View, np.ndarray]:
        """The views of a file that are drawn for it in a search too. Raises UndecodableImage."""
        try:
            digest = digest_file(path) if views != {ORIGINAL} else ""
        except OSError:  # reading the image says why
            digest = ""
        if not checked:
            try:
                return load_views(path, digest, backbone.preprocessing, views, usual_only=True)
            except UnusualImage:
                self._readers.verify(path)
        return load_views(path, digest, backbone.preprocessing, views)

    def _run(
        self, items: Iterable[T], load: Callable[[T, Backbone, set[View]], dict[View, np.ndarray]], many: bool
    ) -> Iterator[tuple[T, np.ndarray]]:
        """Each item and its averaged probabilities, from one decoding for all members of a preprocessing."""
        passes = self._prepared(many)
        sizes = {p.backbone.preprocessing: p.backbone for p in passes}
        views = {size: {v for p in passes if p.backbone.preprocessing == size for v in p.views} for size in sizes}
        total = sum(member.weight for member in self.members)

        def average(chunk: list[T]) -> np.ndarray:
            loaded = {size: [load(item, b, views[size]) for item in chunk] for size, b in sizes.items()}
            summed = np.zeros((len(chunk), len(self.classes)))
            for p in passes:
                seen, size = loaded[p.backbone.preprocessing], p.backbone.preprocessing.size
                blank = np.zeros((size, size, 3), np.uint8)  # in the place of what couldn't be read
                summed += p.probabilities({v: np.stack([image.get(v, blank) for image in seen]) for v in p.views})
            return summed / total

        for chunk, rows in batches(items, average, self.threads):
            yield from zip(chunk, rows, strict=True)

    def _prepared(self, many: bool) -> list["_Pass"]:
        """One for each pass over the images that the members need between them."""
        groups: dict[str, list[Member]] = {}
        for member in self.members:
            groups.setdefault(member.passes, []).append(member)
        for name, members in groups.items():
            if (name, many) not in self._passes:
                self._passes[name, many] = self._prepare(members, many)
        return [self._passes[name, many] for name in groups]

    def _prepare(self, members: list[Member], many: bool) -> "_Pass":
        from autotl.backbones.graph_split import FeatureLevels, GraphSplit, Normalize

        first = members[0]
        backbone = self.backbones[first.backbone_digest]
        module = self._module(first)
        feature_levels = FeatureLevels(GraphSplit(module, backbone.blocks(module)))
        layout = feature_levels.layout(backbone.preprocessing.size)
        registry = self.registry or load_registry()
        frozen = first.fitted.backbone_state is None
        kept = self.conversions if frozen else None
        engine = registry.engine(None, self.device) if many or (kept and kept.exists()) else TorchEngine()
        network, size = Normalize(feature_levels, backbone.preprocessing).eval(), backbone.preprocessing.size
        precision, key = engine.precision(self.device), conversion_key(first.backbone_digest) if frozen else ""
        compiled = engine.compile(network, size, self.device, self.threads, precision, cache=kept, key=key)
        if (engine.name, precision) != (TorchEngine.name, "fp32"):

            def exact() -> Compiled:
                return TorchEngine(bf16=False).compile(network, size, self.device, self.threads, "fp32")

            compiled = checked_engine(compiled, network, exact, backbone.name)
        return _Pass(backbone, compiled, layout, members)

    def _module(self, member: Member) -> Any:
        """The member's network, with the weights that it was fitted on."""
        backbone = self.backbones[member.backbone_digest]
        own = self.weights.get(member.backbone_digest)
        if own is None:
            module = backbone.build()
        else:
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                tensors = load_file(own)
                _check_size(backbone, own)
                module = backbone.build(pretrained=False)
                module.load_state_dict(tensors, strict=True)
            except (OSError, SafetensorError, RuntimeError) as error:
                raise AutotlError(
                    f"{own} doesn't hold the weights of {backbone.name}: {error} Copy the model's folder again."
                ) from error
        if member.fitted.backbone_state is not None:
            try:
                unknown = module.load_state_dict(member.fitted.backbone_state, strict=False).unexpected_keys
            except RuntimeError as error:
                raise AutotlError(f"The tuned blocks don't fit backbone {backbone.name!r}: {error}") from error
            if unknown:
                raise AutotlError(f"Backbone {backbone.name!r} has no {unknown[0]!r}: it isn't the one that was tuned")
        return module.eval()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder; what was there is replaced once the new one is whole."""
        folder = Path(folder)
        with replaced_folder(folder) as draft:
            self._write(draft)
        return folder

    def _write(self, draft: Path) -> None:
        layouts = {}
        for digest, backbone in self.backbones.items():
            layouts[digest] = self._save_weights(backbone, digest, draft / "backbones" / f"{digest[:16]}.safetensors")
        for i, member in enumerate(self.members):
            num_features = layouts[member.backbone_digest].num_features(member.fitted.levels)
            save_member(member, num_features, draft / "members" / str(i))
        used = [
            {"name": b.name, "digest": d, "pretrained_on": b.pretrained_on, "license": b.license}
            for d, b in self.backbones.items()
        ]
        page = {"format": FORMAT, "classes": list(self.classes), "backbones": used, "members": len(self.members)}
        page["plugins"] = plugins_of(self.members, self.backbones.values(), self.registry or load_registry())
        write_json(draft / "model.json", page | {"about": self.about})

    def _save_weights(self, backbone: Backbone, digest: str, path: Path) -> Layout:
        from safetensors.torch import save

        from autotl.backbones.graph_split import FeatureLevels, GraphSplit

        member = next(m for m in self.members if m.backbone_digest == digest)
        module = self._module(Member(member.recipe, type(member.fitted)("last", None), digest, member.num_classes))
        write_atomically(path, save({k: v.contiguous() for k, v in module.state_dict().items()}))
        if backbone.folder is not None:
            write_atomically(path.with_suffix("") / "config.json", (backbone.folder / "config.json").read_bytes())
        return FeatureLevels(GraphSplit(module, backbone.blocks(module))).layout(backbone.preprocessing.size)


def _check_size(backbone: Backbone, file: Path) -> None:
    """A stranger's page may name a network of many gigabytes: before one is built, its shapes are asked for.

    Raises AutotlError where they take more room than the file has.
    """
    import torch

    try:
        with torch.device("meta"):
            shapes = backbone.build(pretrained=False).state_dict().values()
    except Exception:  # not every network can be built without values
        return
    if sum(tensor.numel() for tensor in shapes) > file.stat().st_size:  # one byte for a number is the least
        raise AutotlError(
            f"{file} doesn't hold the weights of {backbone.name}: it is too small. Copy the model's folder again."
        )


@dataclass
class _Pass:
    """One network over the images, and the members that read its levels."""

    backbone: Backbone
    compiled: Compiled
    layout: Layout
    members: list[Member]

    @property
    def views(self) -> set[View]:
        """What the members look at between them."""
        return {view for member in self.members for view in member.fitted.views}

    def probabilities(self, images: dict[View, np.ndarray]) -> np.ndarray:
        """The members' weighted sum, [n, num_classes], from each of their `views`."""
        # as they were recorded for training
        rows = {v: to_stored_dtype(self.compiled(seen), FEATURE_DTYPE).astype(np.float32) for v, seen in images.items()}

        def one(member: Member) -> np.ndarray:
            features = self.layout.features(member.fitted.levels)
            return member.weight * member.probabilities([rows[view][:, features] for view in member.fitted.views])

        return sum(map(one, self.members), np.zeros(()))


def load(path: str | os.PathLike[str], device: str = "cpu", registry: Registry | None = None) -> ImageModel:
    """The model in a folder that a search, or `ImageModel.save`, wrote.

    Nothing in the folder is trusted to run code: weights are safetensors, estimators load from skops with a list of
    allowed types, the rest is JSON.

    Raises:
        AutotlError: the folder is no model, comes from a newer autotl, or needs a plugin that isn't installed.
    """
    folder = Path(path)
    if (folder / "model" / "model.json").exists():  # a study's folder was given
        folder = folder / "model"
    refuse_links_out(folder)
    page = read_model_manifest(folder)
    registry = registry or load_registry()
    backbones, weights = {}, {}
    check_plugins(folder, [part.model_dump() for part in page.plugins], registry)
    for used in page.backbones:
        own = folder / "backbones" / used.digest[:16]  # where the description of a `local-dir:` was put
        name = f"local-dir:{own}" if used.name.startswith("local-dir:") else used.name
        backbones[used.digest] = registry.backbone(name)
        weights[used.digest] = own.with_suffix(".safetensors")
    members = [load_member(folder / "members" / str(i), registry) for i in range(page.members)]
    for number, member in enumerate(members):
        if member.backbone_digest not in backbones or member.num_classes != len(page.classes):
            raise AutotlError(
                f"{folder} is no whole model: member {number} belongs to another one. Copy the model's folder again."
            )
    if not sum(member.weight for member in members):
        raise AutotlError(f"{folder} is no whole model: none of its members has any weight.")
    return ImageModel(tuple(page.classes), members, backbones, weights, registry, device, about=page.about)
