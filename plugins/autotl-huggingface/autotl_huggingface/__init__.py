"""Vision backbones from transformers, by hub id or local folder: `hf:facebook/dinov2-small`, `hf:path/to/folder`."""

from typing import TYPE_CHECKING

import autotl
from autotl.backbones.base import Backbone
from autotl_huggingface.backbone import PREFIX, HuggingFaceBackbone

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["CURATED", "HuggingFaceBackbone", "autotl_find_backbone", "autotl_register_backbones"]

CURATED: tuple[tuple[str, str, str, int, int, int], ...] = (
    # hub id, pretrained on, licence of the weights, num_params and num_features of the image tower, download in MB
    ("facebook/dinov2-small", "LVD-142M, without labels", "Apache-2.0", 21_628_800, 384, 88),
    ("facebook/dinov2-base", "LVD-142M, without labels", "Apache-2.0", 85_724_928, 768, 346),
    ("google/vit-base-patch16-224-in21k", "ImageNet-21k", "Apache-2.0", 85_798_656, 768, 346),
    ("google/siglip-base-patch16-224", "WebLI", "Apache-2.0", 92_884_224, 768, 813),
)
"""The models that are registered, all for images of 224 pixels. Any other model of these families can be named."""


@autotl.hookimpl
def autotl_register_backbones(register: "Register[Backbone]") -> None:
    for model_id, pretrained_on, license, num_params, num_features, megabytes in CURATED:
        register(
            HuggingFaceBackbone(
                f"{PREFIX}{model_id}",
                pretrained_on=pretrained_on,
                license=license,
                num_params=num_params,
                num_features=num_features,
                megabytes=megabytes,
                size=224,
            )
        )


@autotl.hookimpl
def autotl_find_backbone(name: str) -> Backbone | None:
    """`hf:org/name`, `hf:org/name@revision` or `hf:FOLDER`; None for names without `hf:`.

    Raises:
        AutotlError: the name is neither a hub id nor a folder with a model.
    """
    if not name.startswith(PREFIX):
        return None
    backbone = HuggingFaceBackbone(name)
    backbone.source.check()
    return backbone
