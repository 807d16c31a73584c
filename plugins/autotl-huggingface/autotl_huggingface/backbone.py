"""A vision model of transformers as a backbone: weights from safetensors, preprocessing from its image processor."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.blocks import blocks_from_groups
from autotl.backbones.weights import file_digest
from autotl.errors import AutotlError
from autotl_huggingface.source import CONFIG, PROCESSOR, Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PREFIX", "HuggingFaceBackbone"]

PREFIX = "hf:"


class HuggingFaceBackbone(Backbone):
    """An image tower by hub id or folder.

    Args:
        name: as users type it: `hf:org/name`, `hf:org/name@revision`, `hf:path/to/folder`.
        megabytes: what a download takes, where known.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained_on: str = "unknown",
        license: str = "unknown",
        num_params: int | None = None,
        num_features: int | None = None,
        megabytes: int | None = None,
    ):
        self.name, self.pretrained_on, self.license = name, pretrained_on, license
        self.num_params, self.num_features, self._megabytes = num_params, num_features, megabytes
        self.source = Source(name.removeprefix(PREFIX))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def is_cached(self) -> bool:
        return self.source.here

    @property
    def download(self) -> str | None:
        if self.source.folder or self.is_cached:
            return None
        size = f", about {self._megabytes} MB" if self._megabytes else ""
        return f"{self.source.place} on the Hugging Face hub{size}"

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """The image processor's own."""
        from transformers import AutoImageProcessor

        from autotl_huggingface.processor import preprocessing_of

        folder = self.source.file(PROCESSOR).parent
        self.source.file(CONFIG)  # it says which processor, where the processor's own file doesn't
        with _quiet():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return preprocessing_of(processor, self.name)

    @cached_property
    def digest(self) -> str:
        """Over the bytes of the configuration and of the weights' files, and the size of the images."""
        files = [file_digest(path) for path in (self.source.file(CONFIG), *self.source.weights())]
        words = json.dumps(["huggingface", self.preprocessing.size, files])
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    def build(self, pretrained: bool = True) -> "nn.Module":
        import torch

        from autotl_huggingface.tower import tower_of

        with torch.random.fork_rng(devices=[]), _quiet():  # initial weights are of no interest, a caller's seed is
            model = self._pretrained() if pretrained else self._class(self._config, **self._options)
            return tower_of(model, self.preprocessing.size).eval()

    def blocks(self, module: "nn.Module") -> list[Block]:
        """Patches, then each layer; the norm, and a pooling head, belong to the last."""
        n_layers = len(module.layers)  # type: ignore[arg-type]  # a Tower's

        def group(parameter: str) -> int:
            part, number = parameter.split(".")[:2]
            return 0 if part == "patches" else 1 + int(number) if part == "layers" else n_layers

        return blocks_from_groups(module, group)

    @cached_property
    def num_blocks(self) -> int:
        return 1 + int(self._config.num_hidden_layers)

    def _pretrained(self) -> Any:
        """Strictly: what a file lacks would stay at random values."""
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
        except Exception as error:  # a damaged file, other shapes: each has exceptions of its own
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
        """Of the image tower. Raises AutotlError for a model of another type."""
        from transformers import AutoConfig

        from autotl_huggingface.tower import MODELS

        folder = self.source.file(CONFIG).parent
        try:
            with _quiet():
                whole = AutoConfig.from_pretrained(folder, local_files_only=True)
        except (ValueError, OSError, KeyError) as error:
            first_line = next(iter(str(error).splitlines()), "")
            raise AutotlError(f"transformers can't read {str(folder / CONFIG)!r}: {first_line}") from error
        config = getattr(whole, "vision_config", whole)
        if config.model_type not in MODELS:
            raise AutotlError(
                f"{self.name} is a {config.model_type!r}, and autotl-huggingface takes {', '.join(MODELS)} (with or "
                "without a text tower). Choose another, or try timm's: autotl backbones"
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
    """transformers reports each file that it reads, and each tensor of a text tower that it leaves out."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
