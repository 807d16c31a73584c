"""A transformers vision model as a backbone: weights from safetensors, preprocessing from its image processor."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.atomic_io import read_json
from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.blocks import blocks_from_groups
from autotl.backbones.limits import check_config
from autotl.backbones.weights import file_digest
from autotl.errors import AutotlError
from autotl_huggingface.source import CONFIG, PROCESSOR, Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PREFIX", "HuggingFaceBackbone"]

PREFIX = "hf:"


class HuggingFaceBackbone(Backbone):
    """An image tower, by hub id or folder.

    Args:
        name: as users type it: `hf:org/name`, `hf:org/name@revision`, `hf:path/to/folder`.
        num_params: of the image tower; counted by default.
        num_features: of the output, where known.
        megabytes: size of the download, where known.
        size: side of the images in pixels, where known.
    """

    folder_prefix = PREFIX

    def __init__(
        self,
        name: str,
        *,
        pretrained_on: str = "unknown",
        license: str = "unknown",
        num_params: int | None = None,
        num_features: int | None = None,
        megabytes: int | None = None,
        size: int | None = None,
    ):
        self.name, self.pretrained_on, self.license = name, pretrained_on, license
        self.num_params, self.num_features = num_params, num_features
        self.megabytes, self.size = megabytes, size
        self.source = Source(name.removeprefix(PREFIX))
        self.folder = self.source.folder

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def is_cached(self) -> bool:
        return self.source.is_cached

    @property
    def download(self) -> str | None:
        if self.source.folder or self.is_cached:
            return None
        size = f", about {self.megabytes} MB" if self.megabytes else ""
        return f"{self.source.location} on the Hugging Face hub{size}"

    def config_files(self) -> dict[str, Path]:
        return {CONFIG: self.source.file(CONFIG), PROCESSOR: self.source.file(PROCESSOR)}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """That of the model's image processor."""
        from transformers import AutoImageProcessor

        from autotl_huggingface.processor import preprocessing_of

        folder = self.source.file(PROCESSOR).parent
        self.source.file(CONFIG)  # names the processor's class where the processor's own file doesn't
        with _quiet():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        preprocessing = preprocessing_of(processor, self.name)
        try:
            preprocessing.check()
        except ValueError as error:
            raise AutotlError(
                f"The image processor of {self.name} is invalid: {error}. Mend its {PROCESSOR}."
            ) from error
        return preprocessing

    @cached_property
    def digest(self) -> str:
        """Over the bytes of the configuration and of the weights files, and the image size."""
        files = [file_digest(path) for path in (self.source.file(CONFIG), *self.source.weights())]
        content = json.dumps(["huggingface", self.preprocessing.size, files])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def build(self, *, pretrained: bool = True) -> "nn.Module":
        import torch

        from autotl_huggingface.tower import tower_of

        with (
            torch.random.fork_rng(devices=[]),
            _quiet(),
        ):  # random initialisation must not advance the caller's generator
            model = self._pretrained() if pretrained else self._class(self._config, **self._options)
            return tower_of(model, self.preprocessing.size).eval()

    def blocks(self, module: "nn.Module") -> list[Block]:
        """The patch embedding, then each layer. The final norm and a pooling head belong to the last layer's block."""
        num_layers = len(module.layers)  # type: ignore[arg-type]  # of a Tower

        def group(parameter: str) -> int:
            part, number = parameter.split(".")[:2]
            return 0 if part == "patches" else 1 + int(number) if part == "layers" else num_layers

        return blocks_from_groups(module, group)

    @cached_property
    def num_blocks(self) -> int:
        return 1 + int(self._config.num_hidden_layers)

    def _pretrained(self) -> Any:
        """The pretrained model, loaded strictly: a tensor that the file lacks would keep random values."""
        import torch

        folder = self.source.weights()[0].parent
        try:
            model, report = self._class.from_pretrained(
                folder,
                config=self._config,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **self._options,
            )
        except Exception as error:  # damaged files and wrong shapes raise many unrelated types
            first_line = next(iter(str(error).splitlines()), "")
            raise AutotlError(
                f"The weights in {str(folder)!r} can't be loaded: {type(error).__name__}: {first_line}"
            ) from error
        missing = sorted(report["missing_keys"])
        if missing:
            raise AutotlError(
                f"The weights in {str(folder)!r} lack {len(missing)} tensors of their {self._config.model_type}, "
                f"{missing[0]!r} first. Save the model again with `save_pretrained`."
            )
        return model

    @cached_property
    def _config(self) -> Any:
        """The configuration of the image tower.

        Raises:
            AutotlError: transformers can't read it, or the model has another type than `tower.MODELS`.
        """
        from transformers import AutoConfig

        from autotl_huggingface.tower import MODELS

        folder = self.source.file(CONFIG).parent
        try:
            with _quiet():
                check_config(read_json(folder / CONFIG))
                whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # each configuration checks its own values
            first_line = next(iter(str(error).splitlines()), "")
            raise AutotlError(f"transformers can't read {str(folder / CONFIG)!r}: {first_line}") from error
        config = getattr(whole, "vision_config", whole)
        if config.model_type not in MODELS:
            raise AutotlError(
                f"{self.name} is a {config.model_type!r}, and autotl-huggingface supports {', '.join(MODELS)} (with or "
                "without a text tower). Choose another model, or one of timm's: autotl backbones"
            )
        return config

    @property
    def _class(self) -> Any:
        import transformers

        from autotl_huggingface.tower import MODELS

        return getattr(transformers, MODELS[self._config.model_type])

    @property
    def _options(self) -> dict[str, Any]:
        return {"add_pooling_layer": False} if self._config.model_type == "vit" else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers, which reports each file that it reads and each unused tensor of a text tower."""
    from transformers.utils import logging

    verbosity, has_progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_progress_bar:
            logging.enable_progress_bar()
