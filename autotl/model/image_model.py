"""The model that a search returns: it predicts, and lives in a folder of safetensors, skops and JSON files."""

import copy
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
from PIL import Image

from autotl.atomic_io import refuse_links_out, replaced_folder
from autotl.backbones.base import Backbone
from autotl.backbones.levels import Layout
from autotl.backbones.weights import file_digest
from autotl.data.augmentation import View
from autotl.data.decoding import UndecodableImage
from autotl.data.inputs import as_images
from autotl.data.preprocessing import size_hint
from autotl.data.sandbox import SandboxedDecoder
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError, InputError, find_named
from autotl.features.keys import conversion_key
from autotl.folders import expand_home
from autotl.model.card import write_card
from autotl.model.device import resolve_device
from autotl.model.doubt import Decision, Doubt, Doubts, load_doubt, save_doubt
from autotl.model.files import require_sound
from autotl.model.heat_maps import Explainer, HeatMap
from autotl.model.manifest import FORMAT, read_model_manifest, write_manifest
from autotl.model.member import Member, MemberNetwork, check_complete, load_member, networks_of, save_member
from autotl.model.network import (
    Load,
    Measure,
    SharedNetwork,
    build_from_file,
    compile_features,
    feature_network,
    load_backbone_state,
    predictions,
)
from autotl.model.opening import load_file, open_item
from autotl.model.reference import SavedFeatures, check_features, reference_features, saved_versions
from autotl.model.representation import Representation
from autotl.model.requirements import check_plugins, required_plugins
from autotl.model.saved_backbone import config_contents, find_backbones, weights_file, write_backbones
from autotl.model.training_images import load_trained_on, save_trained_on
from autotl.registry import Registry, load_registry

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ImageLike", "ImageModel", "load"]

MAX_UNCOMPILED = 256
"""Up to this many images plain PyTorch finishes before a faster engine has compiled."""
ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | bytes | BinaryIO | np.ndarray
"""One image. Tensors and whatever else NumPy makes an array of work, too."""
T = TypeVar("T")


@dataclass
class ImageModel(Representation):
    """A classifier of images: one fitted recipe, or several whose probabilities are averaged by weight.

    It pickles and copies through its files, which `load` reads again: unpickling is as safe as the pickle's source.
    """

    classes: tuple[str, ...]
    members: list[Member]
    backbones: dict[str, Backbone]
    """The members' backbones, by digest."""
    weights: dict[str, Path] = field(default_factory=dict)
    """Files with the backbones' weights, by digest. A backbone without one loads its own pretrained weights."""
    registry: Registry | None = None
    device: str = "cpu"
    """A torch device."""
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    conversions: Path | None = None
    """The folder where engines cache compiled networks."""
    in_fp32: bool = False
    """Compute networks with PyTorch in fp32, whatever is faster."""
    about: dict[str, Any] = field(default_factory=dict)
    """Further content of `model.json`: metric, versions, refitted trials."""
    trained_on: frozenset[str] = frozenset()
    """Digests of the images that trained or selected the model."""
    on_features: Callable[[SharedNetwork, Any, dict[View, np.ndarray]], None] | None = field(default=None, repr=False)
    """Called on any thread with a network, the images or paths of a batch, and the features that it computed."""
    doubt: Doubt | None = None
    """What `decide` needs; None for a model without held-out images."""
    _networks: dict[tuple[str, bool], SharedNetwork] = field(default_factory=dict, init=False, repr=False)
    """By `MemberNetwork.key` and `many`."""
    _modules: "dict[str, nn.Module]" = field(default_factory=dict, repr=False)
    """Filled by `read_into_memory`: the backbones' networks, by digest."""
    _configs: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)
    """Filled by `read_into_memory`: the contents of the backbones' `config_files`, by digest."""
    _saved: SavedFeatures | None = field(default=None, init=False, repr=False)
    """Of a loaded model: what its networks answered when it was saved."""
    _decoder: SandboxedDecoder = field(default_factory=SandboxedDecoder, repr=False)

    @property
    def _plugins(self) -> Registry:
        self.registry = self.registry or load_registry()
        return self.registry

    @property
    def size_hint(self) -> int:
        """Pixels along the shorter side at which files are decoded: the same for all networks, see `decode`."""
        return max(size_hint(backbone.preprocessing) for backbone in self.backbones.values())

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """The name of the most probable class of each image, [n]. Takes what `predict_proba` takes."""
        best = self.predict_proba(images).argmax(1)
        return np.asarray(np.array(self.classes)[best])

    def predict_proba(self, images: ImageLike | Iterable[ImageLike]) -> np.ndarray:
        """Probabilities, float64 [n, num_classes], in the order of `classes`.

        Args:
            images: one image; or a list, a generator, a Series or an array of paths, PIL images, contents of files
                (bytes or open files), arrays and tensors; or an array or tensor [n, height, width],
                [n, height, width, channels] or [n, channels, height, width]. See `autotl.data.decoding.to_rgb` for the
                pixels of one image.

        Raises:
            InputError: something in `images` is not an image, or it can't be told how many images an array holds.
            UndecodableImage: an image can't be read.
            DataError: an array has another shape or range of values than an image.
        """
        listed = list(enumerate(as_images(images)))
        rows = [row for _, row in self._predicted(listed, self._open, many=len(listed) > MAX_UNCOMPILED)]
        return np.stack(rows) if rows else np.empty((0, len(self.classes)))

    def explain(self, images: ImageLike | Iterable[ImageLike], label: str | None = None) -> list[HeatMap]:
        """A heat map of each image: which of its places speak for a class, over all members by their weight.

        Args:
            images: as for `predict_proba`.
            label: the class to explain; by default the one that is predicted for the image.

        Raises:
            AutotlError: the model has no such class; and as `predict_proba`.
        """
        if label is not None:
            find_named("class", label, dict.fromkeys(self.classes))
        listed = as_images(images)
        return self.explainer.explain(listed, self.predict_proba(listed), self.classes, label)

    @cached_property
    def explainer(self) -> Explainer:
        """What `explain` asks. Its networks are built on first use."""
        options = (self._plugins.levels, self.device, self._decoder)
        return Explainer(self.members, self.module_of, self.backbones, *options)

    def decide(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        abstain_at: float | None = None,
        unknown_at: float | None = None,
        coverage: float | None = None,
    ) -> list[Decision]:
        """Answers that may be "unsure" or "unknown", and prediction sets.

        Args:
            images: as for `predict_proba`.
            abstain_at, unknown_at, coverage: as for `autotl.model.doubt.decide`.

        Raises:
            AutotlError: the model holds nothing to calibrate them on; and as `predict_proba`.
        """
        doubts = Doubts(self, abstain_at, unknown_at, coverage)
        listed = list(enumerate(as_images(images)))
        rows = self._predicted(listed, self._open, many=len(listed) > MAX_UNCOMPILED, measure=doubts.measure)
        return [doubts.decide(row) for _, row in rows]

    def stream(
        self,
        paths: Iterable[Path],
        on_skip: Callable[[Path, str], None] | None = None,
        *,
        many: bool = True,
        checked: bool = False,
        measure: Measure | None = None,
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Yield each path with its probabilities [num_classes], in order. Memory doesn't grow with their number.

        Args:
            paths: image files.
            on_skip: called with the path of a file that can't be read, and the reason. Without it such a file raises
                UndecodableImage.
            many: compile the networks with the fastest engine, which pays off from some hundred images.
            checked: the files were verified before. Other files of untrusted formats are first decoded in a child
                process, because a hostile one may crash its decoder.
            measure: of `autotl.model.doubt.Doubts`: its columns follow the probabilities.
        """
        options = (self._plugins.augmentations, self._decoder, self.size_hint)

        def load(path: Path, backbone: Backbone, views: set[View]) -> dict[View, np.ndarray]:
            try:
                return load_file(path, backbone, views, *options, checked=checked)
            except UndecodableImage as error:
                if on_skip is None:
                    raise UndecodableImage(f"{path}: {error}", error.path) from error
                skipped[path] = str(error)
                return {}

        if isinstance(paths, str | os.PathLike):
            raise InputError(f"paths is a single path, {os.fspath(paths)!r}: pass a list of paths.")
        skipped: dict[Path, str] = {}
        for path, row in self._predicted(map(Path, paths), load, many=many, measure=measure):
            if path in skipped and on_skip:
                on_skip(path, skipped[path])
            else:
                yield path, row

    def _open(self, item: tuple[int, Any], backbone: Backbone, views: set[View]) -> dict[View, np.ndarray]:
        return open_item(item, backbone, views, self._plugins.augmentations, self._decoder, self.size_hint)

    def _predicted(
        self, items: Iterable[T], load: Load[T], *, many: bool, measure: Measure | None = None
    ) -> Iterator[tuple[T, np.ndarray]]:
        """Each item with its averaged probabilities, and the columns of `measure`."""
        networks = self.compiled_networks(many=many)
        yield from predictions(
            networks, self.members, items, load, len(self.classes), self.threads, measure, self.on_features
        )

    def compiled_networks(self, *, many: bool) -> list[SharedNetwork]:
        """The distinct networks of the members, compiled on first use."""
        networks = networks_of(self.members)
        for network in networks:
            if (network.key, many) not in self._networks:
                self._networks[network.key, many] = self._compile(network, many=many)
        return [self._networks[network.key, many] for network in networks]

    def _compile(self, network: MemberNetwork, *, many: bool) -> SharedNetwork:
        backbone = self.backbones[network.digest]
        feature_levels, layout = feature_network(self.module_of(network), backbone)
        registry = self._plugins
        if self._saved:
            member = network.members[0]
            place = self.members.index(member), member.network_keys.index(network.key)
            check_features(self._saved, place, feature_levels, backbone, registry)
        cache, key = (self.conversions, conversion_key(network.digest)) if network.state is None else (None, "")
        engine = registry.engine(None, self.device)
        if self.in_fp32:
            engine = TorchEngine(bf16=False)
        elif not many and not (cache and engine.has_cached(backbone.preprocessing.size, cache, key)):
            engine = TorchEngine()
        compiled = compile_features(engine, feature_levels, backbone, self.device, self.threads, cache, key)
        return SharedNetwork(backbone, compiled, layout, network, registry.levels)

    def module_of(self, network: MemberNetwork) -> "nn.Module":
        """A network in eval mode, with the weights that its members were fitted with. The caller may change it."""
        module = self._backbone_module(network.digest)
        if network.state is not None:
            load_backbone_state(module, network.state, self.backbones[network.digest].name)
        return module.eval()

    def _backbone_module(self, digest: str) -> "nn.Module":
        if digest in self._modules:
            return copy.deepcopy(self._modules[digest])
        backbone, file = self.backbones[digest], self.weights.get(digest)
        return backbone.build() if file is None else build_from_file(backbone, file)

    def read_into_memory(self) -> None:
        """Read everything that predicting and saving need. The model's folder may be removed afterwards."""
        for digest, backbone in self.backbones.items():
            self._modules[digest] = self._backbone_module(digest)
            _ = backbone.preprocessing  # read from the folder on first use
            self._configs[digest] = config_contents(backbone)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model folder. An existing model's folder is replaced once the new one is complete.

        Raises:
            AutotlError: `folder` exists, and is neither empty nor a model's.
        """
        folder = expand_home(Path(folder))
        is_free = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
        if not is_free and not (folder / "model.json").is_file():
            raise AutotlError(f"{folder} exists and is not a model of autotl. Save to another folder, or remove it.")
        with replaced_folder(folder) as draft:
            self._write(draft)
        return folder

    def _write(self, draft: Path) -> None:
        registry = self._plugins
        owners = write_backbones(draft, self.backbones, self._backbone_module, self._config)
        features: dict[str, list[float]] = {}
        layouts: dict[str, Layout] = {}
        for network in networks_of(self.members):
            backbone = self.backbones[network.digest]
            module, layouts[network.key] = feature_network(self.module_of(network), backbone)
            features[network.key] = reference_features(module, backbone.preprocessing)
        for i, member in enumerate(self.members):
            levels = find_named("levels", member.fitted.levels, registry.levels)
            num_features = sum(layouts[key].num_features(levels) for key in member.network_keys)
            save_member(member, num_features, draft / "members" / str(i))
        save_trained_on(self.trained_on, draft)
        if self.doubt:
            save_doubt(self.doubt, draft)
        files = {str(path.relative_to(draft)): file_digest(path) for path in sorted(draft.rglob("*")) if path.is_file()}
        write_manifest(
            draft / "model.json",
            {
                "format": FORMAT,
                "classes": list(self.classes),
                "backbones": [
                    {
                        "name": backbone.name,
                        "digest": digest,
                        "pretrained_on": backbone.pretrained_on,
                        "license": backbone.license,
                        "preprocessing": asdict(backbone.preprocessing),
                        "config_files": sorted(self._config(digest)),
                        **({"weights": owners[digest]} if owners[digest] != digest else {}),
                    }
                    for digest, backbone in self.backbones.items()
                ],
                "members": len(self.members),
                "plugins": required_plugins(self.members, self.backbones.values(), registry),
                "versions": saved_versions(registry),
                "features": [[x for key in member.network_keys for x in features[key]] for member in self.members],
                "files": files,
                "about": self.about,
            },
        )
        write_card(draft)

    def _config(self, digest: str) -> dict[str, bytes]:
        return self._configs[digest] if digest in self._configs else config_contents(self.backbones[digest])

    def __reduce__(self) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory(prefix="autotl-") as folder:
            saved = self.save(Path(folder) / "model")
            files = {str(p.relative_to(saved)): p.read_bytes() for p in saved.rglob("*") if p.is_file()}
        return _from_files, (files, self.device)


def _from_files(files: dict[str, bytes], device: str) -> ImageModel:
    """A model from the content of its files: what unpickling calls. Uses another device where `device` isn't here."""
    with tempfile.TemporaryDirectory(prefix="autotl-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            model = load(folder, device)
        except AutotlError:
            if device == "cpu":
                raise
            model = load(folder)
        model.read_into_memory()
    return model


def load(path: str | os.PathLike[str], device: str = "auto", registry: Registry | None = None) -> ImageModel:
    """Load the model in a folder that a search, or `ImageModel.save`, wrote.

    No code in the folder is run: weights are safetensors, estimators load from skops with a list of allowed types, and
    the rest is JSON that is validated.

    Args:
        path: a model's folder, or its study's.
        device: "auto" (the first accelerator that works, else the CPU), "cpu", "mps", "cuda", "cuda:N" or "xpu".
        registry: the plugins to use, by default all that are installed.

    Raises:
        AutotlError: the folder is not a model, has another format, was damaged or changed, needs a plugin that isn't
            installed, or the device can't be used.

    >>> model = load("studies/photos")  # doctest: +SKIP
    >>> model.predict(["new.jpg"])  # doctest: +SKIP
    array(['cat'], dtype='<U3')
    """
    folder = expand_home(Path(path))
    if (folder / "model" / "model.json").exists():
        folder = folder / "model"
    refuse_links_out(folder)
    manifest = read_model_manifest(folder)
    device = resolve_device(device)
    registry = registry or load_registry()
    check_plugins(folder, manifest, registry)
    require_sound(folder, [f"members/{i}/member.json" for i in range(manifest.members)], manifest.files)
    # before the networks: importing skops takes a second longer once timm's two thousand modules are imported
    members = [load_member(folder / "members" / str(i), registry) for i in range(manifest.members)]
    backbones = find_backbones(folder, manifest, registry)
    weights = {b.digest: weights_file(folder, b.weights or b.digest) for b in manifest.backbones}
    check_complete(folder, members, backbones, len(manifest.classes))
    model = ImageModel(tuple(manifest.classes), members, backbones, weights, registry, device, about=manifest.about)
    model.trained_on = load_trained_on(folder, manifest.files)
    model.doubt = load_doubt(folder, manifest.files)
    model._saved = SavedFeatures(folder, tuple(manifest.features), manifest.versions)
    return model
