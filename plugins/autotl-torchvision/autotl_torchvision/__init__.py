"""torchvision's networks as backbones, with their own weights and preprocessing: `torchvision:vgg16` and others."""

from typing import TYPE_CHECKING

import autotl
from autotl.backbones.base import Backbone
from autotl_torchvision.backbone import PREFIX, TorchvisionBackbone

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = [
    "CURATED",
    "TorchvisionBackbone",
    "autotl_find_backbone",
    "autotl_list_backbones",
    "autotl_register_backbones",
]

CURATED: tuple[tuple[str, str, int, int, int, int], ...] = (
    # name in torchvision 0.29, weights file, num_params and num_features (without the classifier), download in MB, and
    # the side of the images
    ("vgg16", "vgg16-397923af.pth", 14_714_688, 512, 528, 224),
    ("vgg19", "vgg19-dcbb9e9d.pth", 20_024_384, 512, 548, 224),
    ("resnet34", "resnet34-b627a593.pth", 21_284_672, 512, 83, 224),
    ("vgg16_bn", "vgg16_bn-6c64b313.pth", 14_723_136, 512, 528, 224),
    ("resnet18", "resnet18-f37072fd.pth", 11_176_512, 512, 45, 224),
    ("resnet50", "resnet50-0676ba61.pth", 23_508_032, 2048, 98, 224),
    ("densenet121", "densenet121-a639ec97.pth", 6_953_856, 1024, 31, 224),
    ("regnet_y_800mf", "regnet_y_800mf-1b27b58c.pth", 5_647_512, 784, 25, 224),
    ("efficientnet_v2_s", "efficientnet_v2_s-dd5fe13b.pth", 20_177_488, 1280, 83, 384),
    ("convnext_tiny", "convnext_tiny-983f1562.pth", 27_820_128, 768, 109, 224),
    ("swin_t", "swin_t-704ceda3.pth", 27_519_354, 768, 108, 224),
    ("vit_b_16", "vit_b_16-c867db91.pth", 85_798_656, 768, 330, 224),
)
"""The networks that are registered: the classic ones of transfer learning, then one or two of each family. Any other
network of these families can be named."""


@autotl.hookimpl
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    for model, file, num_params, num_features, megabytes, size in CURATED:
        register(
            TorchvisionBackbone(
                f"{PREFIX}{model}",
                num_params=num_params,
                num_features=num_features,
                url=f"https://download.pytorch.org/models/{file}",
                megabytes=megabytes,
                size=size,
            )
        )


@autotl.hookimpl
def autotl_find_backbone(name: str) -> Backbone | None:
    """`torchvision:NAME`, with a member of its weights' enum (`torchvision:resnet50.IMAGENET1K_V2`) or a file
    (`torchvision:vgg16@weights.pth`); None for any other name.

    Raises:
        AutotlError: torchvision has no such network or weights, or no file follows the '@'.
    """
    if not name.startswith(PREFIX):
        return None
    backbone = TorchvisionBackbone(name)
    backbone.check_name()
    return backbone


@autotl.hookimpl
def autotl_list_backbones() -> list[str]:
    from autotl_torchvision.families import known_models

    return [PREFIX + model for model in known_models()]
