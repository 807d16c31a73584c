"""Any model of timm as a backbone: weights from its hub, from a file, or from a folder."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.blocks import blocks_from_groups, groups_by_position
from autotl.backbones.weights import cached, classes_in, fetch, file_digest, in_folder, read_tensors
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl.registration import Register

__all__ = ["TimmBackbone"]

IN1K = "ImageNet-1k"
CURATED: tuple[tuple[str, str, str, int, int], ...] = (
    # name in timm 1.0.31, trained on, licence of the weights, parameters without the classifier, download in MB
    ("mobilenetv3_small_100.lamb_in1k", IN1K, "Apache-2.0", 1_517_856, 10),
    ("convnext_atto.d2_in1k", IN1K, "Apache-2.0", 3_374_520, 15),
    ("tf_efficientnet_lite0.in1k", IN1K, "Apache-2.0", 3_371_008, 19),
    ("efficientnet_b0.ra_in1k", IN1K, "Apache-2.0", 4_007_548, 21),
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", f"ImageNet-21k, then {IN1K}", "Apache-2.0", 5_524_416, 23),
    ("convnext_nano.in12k_ft_in1k", f"ImageNet-12k, then {IN1K}", "Apache-2.0", 14_952_560, 62),
    # without labels: its features are general. DINOv2's are better still, but want 518 px, ten times the work
    ("vit_small_patch16_224.dino", f"{IN1K}, without labels", "Apache-2.0", 21_665_664, 87),
    # torchvision's plain recipe: the newer ones (a1: label smoothing and such) gain on ImageNet and lose as frozen
    # features (Kornblith et al., "Why do better loss functions lead to less transferable features?", NeurIPS 2021)
    ("resnet34.tv_in1k", IN1K, "BSD-3-Clause", 21_284_672, 87),
    ("resnet50.tv_in1k", IN1K, "BSD-3-Clause", 23_508_032, 102),
)
"""What is offered without being named: small networks of different families, all at 224 px."""

DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "webli": "WebLI",
    "openai": "OpenAI's image-text pairs",
    "datacompxl": "DataComp-XL",
    "datacomp1b": "DataComp-1B",
    "yfcc100m": "YFCC-100M",
    "ig1b": "Instagram-1B",
    "jft": "JFT-300M",
}
"""What the words of timm's tags say about the training data."""


class TimmBackbone(Backbone):
    """A timm model by name, with timm's own preprocessing and blocks.

    Args:
        name: as users type it: `resnet18`, `resnet18.a1_in1k`, `resnet18@weights.safetensors`, `local-dir:FOLDER`.
        model: what timm calls it; without one, what `name` says.
        file: the weights; without one, what `name` says, and else what timm knows.
        hub: the hub repository of the weights; without one, what timm knows.
        size: of the images in pixels, to be listed without timm; `preprocessing` says it anyway.
        megabytes: what a download takes; without one, it is reckoned from the architecture.
    """

    def __init__(
        self,
        name: str,
        model: str | None = None,
        file: Path | None = None,
        *,
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
        if model is None and name.startswith("local-dir:"):
            self.folder = Path(name.removeprefix("local-dir:")).expanduser().absolute()
            self.model = f"local-dir:{self.folder}"
        elif model is None and "@" in name:
            self.model, _, path = name.partition("@")
            self.file = Path(path).expanduser().absolute()
        self._hub, self._megabytes, self.size = hub, megabytes, size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def is_cached(self) -> bool:
        return self._local_file() is not None

    @property
    def download(self) -> str | None:
        return None if self.file or self.folder or self.is_cached or not self._place else self._place_and_size()

    @cached_property
    def preprocessing(self) -> Preprocessing:
        from timm.data import resolve_data_config

        config = resolve_data_config(pretrained_cfg=self._config)
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            raise AutotlError(
                f"{self.name} takes images of {width}×{height} pixels and {channels} channels; autotl gives a backbone "
                "square RGB images. Choose another backbone: autotl backbones"
            )
        if config["crop_mode"] not in ("center", "squash"):
            raise AutotlError(
                f"{self.name} was trained on images with a border around them, which autotl doesn't draw. "
                "Choose another backbone: autotl backbones"
            )
        return Preprocessing(
            height,
            float(config["crop_pct"]),
            config["interpolation"],
            tuple(map(float, config["mean"])),  # type: ignore[arg-type]  # three floats each
            tuple(map(float, config["std"])),  # type: ignore[arg-type]
            squash=config["crop_mode"] == "squash",
        )

    @cached_property
    def digest(self) -> str:
        """Over the architecture and the bytes of the weights' file, which is downloaded where `build` would."""
        architecture, arguments = self._architecture
        words = json.dumps(["timm", architecture, arguments, file_digest(self.weights_file())], sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    def build(self, pretrained: bool = True) -> "nn.Module":
        import timm
        import torch

        with torch.random.fork_rng(devices=[]):  # initial weights are of no interest here, a caller's seed is
            whole = self._build_whole().state_dict() if pretrained else None
            module = timm.create_model(self.model, num_classes=0)
            if getattr(module, "dynamic_img_size", False):  # asks each image for its size, which hides the blocks
                module = timm.create_model(self.model, num_classes=0, dynamic_img_size=False)
            if whole:
                module.load_state_dict({name: whole[name] for name in module.state_dict()}, assign=True)
        return module.eval()

    def blocks(self, module: "nn.Module") -> list[Block]:
        from timm.models import group_parameters

        # a few models group finely only, and fewer not at all
        for coarse in (True, False):
            try:
                matcher = module.group_matcher(coarse=coarse)  # type: ignore[operator]
            except (AttributeError, AssertionError, NotImplementedError):
                continue
            return blocks_from_groups(module, group_parameters(module, matcher, reverse=True))
        return blocks_from_groups(module, groups_by_position(module))

    @cached_property
    def num_blocks(self) -> int:
        return len(self.blocks(self._shapes(num_classes=0)))

    def weights_file(self) -> Path:
        """The file with the weights, downloaded where it isn't on this machine and may be. Raises AutotlError."""
        found = self._local_file()
        if found:
            return found
        if self.file:
            raise AutotlError(f"There is no weights file {str(self.file)!r} for {self.name}. Check the path after '@'.")
        if self.folder:
            raise AutotlError(f"There are no weights (model.safetensors, say) in {str(self.folder)!r}.")
        if not self._place:
            raise AutotlError(
                f"timm has no pretrained weights for {self.name}. Give a file: {self.model}@path/to/weights.safetensors"
            )
        return fetch(self._place)

    def state_dict(self) -> dict[str, "Tensor"]:
        """The pretrained tensors under timm's names, with the classifier where the file has one."""
        return read_tensors(self.weights_file())

    def _build_whole(self) -> "nn.Module":
        """The pretrained network with its own classifier, loaded strictly.

        timm loads leniently when it replaces the classifier, and would leave tensors that a file lacks at random
        values. So the classifier comes too, and `build` drops it.
        """
        import timm

        tensors = self.state_dict()
        nowhere: dict[str, Any] = dict.fromkeys(("url", "file", "hf_hub_id", "hf_hub_filename", "source"))
        overlay = nowhere | {"state_dict": tensors, "custom_load": False}
        num_classes = self._config.get("num_classes", 1000)
        if self.file:  # someone's own file may have other classes than timm's, or none
            num_classes = classes_in(tensors, self._classifiers())
            overlay |= {"num_classes": num_classes, "label_offset": None}
        try:
            module = timm.create_model(
                self.model, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes
            )
        except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise AutotlError(
                f"The weights in {str(self.weights_file())!r} don't fit timm's {self._architecture[0]}: "
                f"{' '.join(str(error).split())[:400]} Give a file that was saved from that architecture."
            ) from error
        return module

    def _classifiers(self) -> tuple[str, ...]:
        """Names that the classifier may have in a file: timm's, and those of the checkpoints that timm converts."""
        named = self._config.get("classifier") or ()
        return ((named,) if isinstance(named, str) else tuple(named)) + ("head.fc", "head", "fc", "classifier")

    def _local_file(self) -> Path | None:
        if self.file:
            return self.file if self.file.is_file() else None
        if self.folder:
            return in_folder(self.folder)
        return cached(self._place) if self._place else None

    @property
    def _place(self) -> str | None:
        """The hub repository or URL where timm has the weights."""
        if self._hub:
            return self._hub
        place = self._config.get("hf_hub_id") or self._config.get("url") or None
        return place if place is None or isinstance(place, str) else place[0]

    @cached_property
    def _config(self) -> dict[str, Any]:
        """timm's own description of the weights: preprocessing, classifier, and where they are."""
        if self.folder:
            return _folder_config(self.folder)[0]
        from timm.models import get_pretrained_cfg
        from timm.models._pretrained import PretrainedCfg

        return (get_pretrained_cfg(self.model) or PretrainedCfg()).to_dict()

    @cached_property
    def _architecture(self) -> tuple[str, dict[str, Any]]:
        """timm's name without the tag, and arguments where a folder's config has some."""
        if self.folder:
            return _folder_config(self.folder)[1:]
        return self.model.partition(".")[0], {}

    def _place_and_size(self) -> str:
        """`timm/resnet34.tv_in1k on the Hugging Face hub, about 87 MB`."""
        megabytes = self._megabytes
        if megabytes is None:
            tensors = self._shapes().state_dict().values()
            megabytes = max(1, round(sum(t.numel() * t.element_size() for t in tensors) / 1e6))
        where = self._place if "://" in str(self._place) else f"{self._place} on the Hugging Face hub"
        return f"{where}, about {megabytes} MB"

    def _shapes(self, **arguments: Any) -> "nn.Module":
        """The network without values: takes a moment, and no memory."""
        import timm
        import torch

        with torch.device("meta"):
            return timm.create_model(self.model, **arguments)


def _folder_config(folder: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """(weights' description, architecture, arguments) that a folder's config.json holds, as timm reads it."""
    from timm.models import is_model
    from timm.models._hub import load_model_config_from_path

    try:
        config, architecture, arguments = load_model_config_from_path(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AutotlError(
            f"{str(folder)!r} is not a timm model folder: {type(error).__name__}: {error}. It needs a config.json with "
            "the architecture and a model.safetensors, as timm.models.save_for_hf writes them."
        ) from error
    if not is_model(architecture):
        raise AutotlError(f"timm has no architecture {architecture!r}, which {str(folder / 'config.json')!r} names.")
    return config, architecture, arguments or {}


def _trained_on(tag: str) -> str:
    """`augreg_in21k_ft_in1k` -> `ImageNet-21k, then ImageNet-1k`."""
    return ", then ".join(dict.fromkeys(DATA[word] for word in tag.split("_") if word in DATA)) or "unknown"


def autotl_register_backbones(register: "Register[Backbone]") -> None:
    for name, pretrained_on, license, num_params, megabytes in CURATED:
        register(
            TimmBackbone(
                name,
                pretrained_on=pretrained_on,
                license=license,
                num_params=num_params,
                hub=f"timm/{name}",
                megabytes=megabytes,
                size=224,
            )
        )


def autotl_list_backbones() -> list[str]:
    """Every architecture that timm has."""
    from timm import list_models

    return list_models()


def autotl_find_backbone(name: str) -> Backbone | None:
    """Any timm name, `NAME@FILE` with weights of your own, or `local-dir:FOLDER`.

    Raises AutotlError for a folder that timm can't read and a tag that the model doesn't have.
    """
    if name.startswith("local-dir:"):
        backbone = TimmBackbone(name)
        assert backbone.folder is not None
        _folder_config(backbone.folder)  # say at once what is wrong with it
        return backbone
    model, at, path = name.partition("@")
    from timm.models import get_arch_pretrained_cfgs, is_model

    if not is_model(model):
        return None
    configs = get_arch_pretrained_cfgs(model)
    if "." in model and model not in configs:
        tags = ", ".join(sorted(known.partition(".")[2] for known in configs)) or "none"
        raise AutotlError(f"timm's {model.partition('.')[0]} has no weights with that tag: {name!r}. Its tags: {tags}.")
    if at and not path:
        raise AutotlError(f"{name!r} names no file. Type {model}@path/to/weights.safetensors")
    if at:
        return TimmBackbone(name)
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(model)
    tag = (config.tag if config else None) or ""
    return TimmBackbone(name, pretrained_on=_trained_on(tag), license=(config.license if config else None) or "unknown")
