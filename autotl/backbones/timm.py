"""Any timm model as a backbone: weights from timm's hub repository, from a file, or from a folder."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone, Block, Preprocessing, SourceHead
from autotl.backbones.blocks import blocks_from_groups, groups_by_position
from autotl.backbones.catalog import CURATED, datasets_in_tag
from autotl.backbones.source_head import linear_head
from autotl.backbones.stated_config import Stated, disagreements, read_folder_config, read_stated
from autotl.backbones.timm_names import TimmName, checked_model_args, checked_preprocessing, list_options, parse_name
from autotl.backbones.weights import cached, classifier_size, fetch, file_digest, read_tensors, weights_in_folder
from autotl.errors import AutotlError
from autotl.folders import expand_home

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl.registration import Register

__all__ = ["TimmBackbone"]


class TimmBackbone(Backbone):
    """A timm model by name, with timm's own blocks, and the preprocessing of its weights.

    The preprocessing of weights in a file is what `preprocessing` gives, else what the file states (see
    `autotl.backbones.stated_config`), else timm's. The same goes for the arguments of the model.

    Args:
        name: as users type it: `resnet18`, `resnet18.a1_in1k`, `resnet18,mean=0.5,std=0.5@weights.safetensors` (see
            `autotl.backbones.timm_names`), `local-dir:FOLDER`.
        model: timm's name of the model; taken from `name` by default.
        file: the weights; taken from `name` by default, otherwise downloaded from where timm has them.
        model_args: arguments of timm's model, such as `{"pad_type": "same"}`; taken from `name` by default.
        preprocessing: how the images of the weights' training were prepared, or those fields of it that differ from
            timm's, such as `{"mean": 0.5, "std": 0.5}`; taken from `name` by default.
        num_params: without the classifier; counted by default.
        hub: the hub repository of the weights; looked up in timm by default.
        megabytes: size of the download; estimated from the architecture by default.
        size: side of the input images in pixels, so that the backbone can be listed without importing timm. Must be
            equal to `preprocessing.size`.

    Raises:
        AutotlError: an option in `name`, or a field of `preprocessing`, is invalid.
    """

    folder_prefix = "local-dir:"

    def __init__(
        self,
        name: str,
        model: str | None = None,
        file: Path | None = None,
        *,
        model_args: Mapping[str, Any] | None = None,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        pretrained_on: str = "unknown",
        license: str = "unknown",
        num_params: int | None = None,
        hub: str | None = None,
        megabytes: int | None = None,
        size: int | None = None,
    ):
        self.name, self.pretrained_on, self.license, self.num_params = name, pretrained_on, license, num_params
        self.model = model or name
        self.file = file
        self._model_args: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}
        if model is None and name.startswith("local-dir:"):
            self.folder = expand_home(name.removeprefix("local-dir:")).absolute()
            self.model = f"local-dir:{self.folder}"
        elif model is None:
            parts = parse_name(name)
            self.model, self._model_args, self._fields = parts.model, {**parts.model_args}, {**parts.preprocessing}
            if parts.file is not None:
                self.file = expand_home(parts.file).absolute()
        fields = asdict(preprocessing) if isinstance(preprocessing, Preprocessing) else preprocessing or {}
        self._fields |= checked_preprocessing(fields, f"Backbone {name!r}")
        self._model_args |= checked_model_args(model_args or {}, f"Backbone {name!r}")
        self._hub, self.megabytes, self.size = hub, megabytes, size if size is not None else self._fields.get("size")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def is_cached(self) -> bool:
        return self._local_file() is not None

    @property
    def download(self) -> str | None:
        return None if self.is_cached or not self.location else self._describe_download()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        fields = {**self.stated.preprocessing, **self._fields}
        if "size" not in self._fields and isinstance(size := self._arguments.get("img_size"), int):
            fields["size"] = size
        try:
            preprocessing = replace(self.timm_preprocessing, **fields)
            preprocessing.check()
        except (TypeError, ValueError) as error:
            place = "its config.json" if self.folder else "the options in its name"
            raise AutotlError(f"The preprocessing of {self.name} is invalid: {error}. Mend {place}.") from error
        return preprocessing

    @cached_property
    def stated(self) -> Stated:
        """What the weights file states about itself; nothing where the weights are timm's own, or in a folder."""
        return read_stated(self.file, self._architecture[0]) if self.file else Stated()

    @cached_property
    def timm_preprocessing(self) -> Preprocessing:
        """timm's own preprocessing of the model's default weights, or what a folder's config.json states, unchecked."""
        from timm.data import resolve_data_config

        try:
            config = resolve_data_config(pretrained_cfg=self._config)
            channels, height, width = config["input_size"]
            mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
            crop, kind = float(config["crop_pct"]), config["interpolation"]
        except (TypeError, ValueError) as error:
            raise AutotlError(f"The preprocessing of {self.name} is invalid: {error}. Mend its config.json.") from error
        if channels != 3 or height != width:
            raise AutotlError(f"{self.name} takes {width}×{height}×{channels}, not square RGB. Type: autotl backbones")
        if config["crop_mode"] not in ("center", "squash"):
            raise AutotlError(
                f"{self.name} needs a border around images, which autotl doesn't draw. Choose another: autotl backbones"
            )
        return Preprocessing(height, crop, kind, mean, std, config["crop_mode"] == "squash")  # type: ignore[arg-type]

    @cached_property
    def digest(self) -> str:
        """Over the architecture and its arguments, the bytes of the weights file, which is downloaded if necessary, and
        the preprocessing where it isn't timm's."""
        architecture, arguments = self._architecture
        content: list[Any] = ["timm", architecture, arguments | self._arguments, file_digest(self.weights_file())]
        if self.preprocessing != self.timm_preprocessing:  # engines cache converted networks with their normalisation
            content.append(asdict(self.preprocessing))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def build(self, *, pretrained: bool = True) -> "nn.Module":
        import timm
        import torch

        with torch.random.fork_rng(devices=[]):  # random initialisation must not advance the caller's generator
            whole = self._build_whole().state_dict() if pretrained else None
            module = timm.create_model(self.model, num_classes=0, **self._arguments)
            if getattr(module, "dynamic_img_size", False):  # code that branches on the input's size can't be traced
                fixed = {"num_classes": 0, "dynamic_img_size": False}
                module = timm.create_model(self.model, **{**self._arguments, **fixed})
            if whole:
                module.load_state_dict({name: whole[name] for name in module.state_dict()}, assign=True)
        return module.eval()

    def blocks(self, module: "nn.Module") -> list[Block]:
        from timm.models import group_parameters

        # A few models support fine groups only, and fewer support none.
        for coarse in (True, False):
            try:
                matcher = module.group_matcher(coarse=coarse)  # type: ignore[operator]
            except (AttributeError, AssertionError, NotImplementedError):
                continue
            return blocks_from_groups(module, group_parameters(module, matcher, reverse=True))
        return blocks_from_groups(module, groups_by_position(module))

    @cached_property
    def num_blocks(self) -> int:
        return len(self.blocks(self._build_on_meta(num_classes=0)))

    def at_size(self, size: int) -> "TimmBackbone":
        resized = self._copy_at_size(size)
        resized._fields = {**self._fields, "size": size}
        return resized

    def source_head(self) -> SourceHead | None:
        import torch

        with torch.random.fork_rng(devices=[]):
            return linear_head(self._build_whole())

    def config_files(self) -> dict[str, Path]:
        return {"config.json": self.folder / "config.json"} if self.folder else {}

    def weights_file(self) -> Path:
        """The weights file, downloaded if it isn't on this machine and downloads are allowed.

        Raises:
            AutotlError: the file is missing or can't be downloaded.
        """
        if path := self._local_file():
            return path
        if self.file:
            raise AutotlError(f"There is no weights file {str(self.file)!r} for {self.name}. Check the path after '@'.")
        if self.folder:
            raise AutotlError(
                f"There are no weights in {str(self.folder)!r}. Save them there, as model.safetensors for example."
            )
        if not self.location:
            raise AutotlError(
                f"timm has no pretrained weights for {self.name}. Give a file: {self.model}@path/to/weights.safetensors"
            )
        return fetch(self.location)

    def state_dict(self) -> dict[str, "Tensor"]:
        """The pretrained tensors under timm's names, including the classifier's where the file has one."""
        return read_tensors(self.weights_file())

    def _build_whole(self) -> "nn.Module":
        """The pretrained network with its own classifier, loaded strictly.

        When timm replaces the classifier it loads leniently: tensors that the file lacks keep random values. So the
        original classifier is loaded too, and `build` drops it afterwards.
        """
        import timm

        tensors = self.state_dict()
        no_source: dict[str, Any] = dict.fromkeys(("url", "file", "hf_hub_id", "hf_hub_filename", "source"))
        overlay = no_source | {"state_dict": tensors, "custom_load": False}
        num_classes = self._config.get("num_classes", 1000)
        if self.file:  # a user's own file may have another number of classes, or no classifier
            stated = self._config.get("classifier") or ()  # then the names in checkpoints that timm converts
            names = ((stated,) if isinstance(stated, str) else tuple(stated)) + ("head.fc", "head", "fc", "classifier")
            num_classes = classifier_size(tensors, names)
            overlay |= {"num_classes": num_classes, "label_offset": None}
        try:
            module = timm.create_model(
                self.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **self._arguments
            )
        except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise AutotlError(
                f"The weights in {str(self.weights_file())!r} don't fit timm's {self._architecture[0]}: "
                f"{' '.join(str(error).split())[:400]} Give a file that was saved from that architecture."
            ) from error
        return module

    def _local_file(self) -> Path | None:
        if self.file:
            return self.file if self.file.is_file() else None
        if self.folder:
            return weights_in_folder(self.folder)
        return cached(self.location) if self.location else None

    @property
    def location(self) -> str | None:
        """The hub repository or URL of timm's weights; None where the weights are a user's own."""
        if self.file or self.folder:
            return None
        if self._hub:
            return self._hub
        location = self._config.get("hf_hub_id") or self._config.get("url") or None
        return location if location is None or isinstance(location, str) else location[0]

    @cached_property
    def _config(self) -> dict[str, Any]:
        """timm's `pretrained_cfg`: preprocessing, classifier, and location of the weights."""
        if self.folder:
            return read_folder_config(self.folder)[0]
        from timm.models import PretrainedCfg, get_pretrained_cfg

        return (get_pretrained_cfg(self.model) or PretrainedCfg()).to_dict()

    @cached_property
    def _architecture(self) -> tuple[str, dict[str, Any]]:
        """timm's name without the tag, and the model arguments that a folder's config adds."""
        if self.folder:
            return read_folder_config(self.folder)[1:]
        return self.model.partition(".")[0], {}

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """The arguments of timm's model: those that were given, those that the weights file states, and the size of the
        images for a network that is built for one size."""
        arguments = {**self.stated.model_args, **self._model_args}
        size = self._fields.get("size", self.stated.preprocessing.get("size"))
        if size not in (None, self.timm_preprocessing.size) and self._config.get("fixed_input_size"):
            arguments.setdefault("img_size", size)
        return arguments

    def check_model_args(self) -> None:
        """Build the network without storage, which takes milliseconds.

        Raises:
            AutotlError: timm can't build it with these arguments.
        """
        if not self._arguments:
            return
        try:
            self._build_on_meta(num_classes=0)
        except Exception as error:  # each architecture raises its own types for an argument that it doesn't take
            given = ", ".join(f"{key}={value}" for key, value in self._arguments.items())
            reason = " ".join(str(error).split())[:300]
            raise AutotlError(
                f"timm can't build {self._architecture[0]} with {given}: {type(error).__name__}: {reason} "
                "Correct the option, or leave it out."
            ) from error

    @property
    def note(self) -> str | None:
        if self.file is None or "@" not in self.name or self._fields or self.stated.preprocessing:
            return None
        return (
            f"nothing states how the images of {self.file.name} were prepared, so timm's preprocessing is used: "
            f"{list_options(asdict(self.preprocessing))}. If the weights were trained otherwise, add it to the name: "
            f"{self.model},mean=0.5,std=0.5@{parse_name(self.name).file}"
        )

    def full_name(self) -> str:
        """The name with all that the weights file states and timm does otherwise, so that it says everything."""
        timm_fields = asdict(self.timm_preprocessing)
        fields = {k: v for k, v in asdict(self.preprocessing).items() if v != timm_fields[k]}
        parts = parse_name(self.name)
        return str(TimmName(parts.model, {**parts.preprocessing, **fields}, self._arguments, parts.file))

    def _describe_download(self) -> str:
        """`timm/resnet34.tv_in1k on the Hugging Face hub, about 87 MB`."""
        megabytes = self.megabytes
        if megabytes is None:
            tensors = self._build_on_meta().state_dict().values()
            megabytes = max(1, round(sum(t.numel() * t.element_size() for t in tensors) / 1e6))
        source = self.location if "://" in str(self.location) else f"{self.location} on the Hugging Face hub"
        return f"{source}, about {megabytes} MB"

    def _build_on_meta(self, **arguments: Any) -> "nn.Module":
        """The network on torch's meta device: shapes without storage, built in milliseconds."""
        import timm
        import torch

        with torch.device("meta"):
            return timm.create_model(self.model, **arguments, **self._arguments)


def autotl_register_backbones(register: "Register[Backbone]") -> None:
    for entry in CURATED:
        stated = {n: getattr(entry, n) for n in ("pretrained_on", "license", "num_params", "hub", "megabytes", "size")}
        backbone = TimmBackbone(entry.name, **stated)
        backbone.gmacs, backbone.top1, backbone.any_size = entry.gmacs, entry.top1, entry.any_size
        register(backbone)


def autotl_list_backbones() -> list[str]:
    """Every architecture that timm has."""
    from timm import list_models

    return list_models()


def autotl_find_backbone(name: str) -> Backbone | None:
    """Any timm name, perhaps with options, `NAME@FILE` with weights of the user's own, or `local-dir:FOLDER`; None for
    any other name.

    Raises:
        AutotlError: timm can't read the folder, the model has no weights with that tag, no file follows the '@', or an
            option is invalid.
    """
    if name.startswith("local-dir:"):
        backbone = TimmBackbone(name)
        assert backbone.folder is not None
        read_folder_config(backbone.folder)  # a wrong folder is reported now rather than in the first trial
        return backbone
    model = name.partition("@")[0].partition(",")[0]
    from timm.models import get_arch_pretrained_cfgs, is_model

    if not is_model(model):
        return None
    configs = get_arch_pretrained_cfgs(model)
    if "." in model and model not in configs:
        tags = ", ".join(sorted(known.partition(".")[2] for known in configs)) or "none"
        raise AutotlError(f"timm's {model.partition('.')[0]} has no weights with that tag: {name!r}. Its tags: {tags}.")
    file = parse_name(name).file
    if file == "":
        raise AutotlError(f"{name!r} names no file. Type {model}@path/to/weights.safetensors")
    if file:
        return _with_own_weights(TimmBackbone(name))
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(model)
    tag = (config.tag if config else None) or ""
    backbone = TimmBackbone(
        name, pretrained_on=datasets_in_tag(tag), license=(config.license if config else None) or "unknown"
    )
    backbone.check_model_args()
    return backbone


def _with_own_weights(backbone: TimmBackbone) -> TimmBackbone:
    """The backbone under its full name; warns where the file's own statistics aren't those that are used, or timm's."""
    backbone.check_model_args()
    typed = parse_name(backbone.name).preprocessing
    for line in disagreements(backbone.stated, typed, asdict(backbone.timm_preprocessing)):
        warnings.warn(f"{backbone.name}: {line}", stacklevel=2)
    backbone.name = backbone.full_name()
    return backbone
