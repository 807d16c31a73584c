"""The timm backbones that are listed by default, and what the tags of timm's weights mean."""

from dataclasses import dataclass

__all__ = ["CURATED", "CuratedBackbone", "datasets_in_tag"]

IN1K = "ImageNet-1k"


@dataclass(frozen=True)
class CuratedBackbone:
    """What is stated about a timm backbone, so that it can be listed without importing timm or torch."""

    name: str
    """timm's name, with the tag of the weights (timm 1.0.31)."""
    pretrained_on: str
    license: str
    """Of the weights."""
    num_params: int
    """Without the classifier."""
    megabytes: int
    """Size of the download."""
    size: int = 224
    """Side of the input images, in pixels."""


CURATED = (
    CuratedBackbone("mobilenetv3_small_100.lamb_in1k", IN1K, "Apache-2.0", 1_517_856, 10),
    CuratedBackbone("convnext_atto.d2_in1k", IN1K, "Apache-2.0", 3_374_520, 15),
    CuratedBackbone("tf_efficientnet_lite0.in1k", IN1K, "Apache-2.0", 3_371_008, 19),
    CuratedBackbone("efficientnet_b0.ra_in1k", IN1K, "Apache-2.0", 4_007_548, 21),
    CuratedBackbone(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k", f"ImageNet-21k, then {IN1K}", "Apache-2.0", 5_524_416, 23
    ),
    CuratedBackbone("convnext_nano.in12k_ft_in1k", f"ImageNet-12k, then {IN1K}", "Apache-2.0", 14_952_560, 62),
    # Self-supervised features transfer to many tasks. DINOv2's are better, but need 518 px: ten times the computation.
    CuratedBackbone("vit_small_patch16_224.dino", f"{IN1K}, without labels", "Apache-2.0", 21_665_664, 87),
    # torchvision's original training recipe. The newer ones (a1: label smoothing and others) gain on ImageNet and lose
    # as frozen features (Kornblith et al., "Why do better loss functions lead to less transferable features?", NeurIPS
    # 2021).
    CuratedBackbone("resnet34.tv_in1k", IN1K, "BSD-3-Clause", 21_284_672, 87),
    CuratedBackbone("resnet50.tv_in1k", IN1K, "BSD-3-Clause", 23_508_032, 102),
)
"""The timm backbones that are registered: small networks of different families, all at 224 px. Any other timm model
can be named."""

DATASETS = {
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
"""Pretraining data by the words of timm's weight tags."""


def datasets_in_tag(tag: str) -> str:
    """The pretraining data that a timm tag names: `augreg_in21k_ft_in1k` -> `ImageNet-21k, then ImageNet-1k`."""
    return ", then ".join(dict.fromkeys(DATASETS[word] for word in tag.split("_") if word in DATASETS)) or "unknown"
