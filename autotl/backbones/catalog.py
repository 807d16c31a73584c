"""The shelf: the timm backbones that a search may take without being told, and what the tags of timm's weights mean."""

from dataclasses import dataclass

__all__ = ["CURATED", "CuratedBackbone", "datasets_in_tag"]

IN1K = "ImageNet-1k"


@dataclass(frozen=True)
class CuratedBackbone:
    """What is stated about a timm backbone, so that it can be listed without importing timm or torch."""

    name: str
    """timm's name with the tag of the weights (timm 1.0.31), and `size=` where the images differ from timm's."""
    pretrained_on: str
    license: str
    """Of the weights."""
    num_params: int
    """Without the classifier."""
    megabytes: int
    """Size of the download."""
    gmacs: float
    """Billions of multiply-adds for one image."""
    top1: float | None
    """ImageNet-1k accuracy in percent at this image size, from timm's results/results-imagenet.csv; None where there is
    none, as for networks that weren't trained on ImageNet's labels."""
    size: int = 224
    """Side of the input images, in pixels."""

    @property
    def hub(self) -> str:
        """The repository of the weights on the Hugging Face hub."""
        return f"timm/{self.name.partition(',')[0]}"

    @property
    def any_size(self) -> bool:
        """Whether it is a network of convolutions, which takes images of any size."""
        return not self.name.startswith(("vit_", "eva"))


CURATED = (
    CuratedBackbone("mobilenetv4_conv_small.e2400_r224_in1k", IN1K, "Apache-2.0", 2_493_024, 15, 0.185, 73.756),
    CuratedBackbone("tf_efficientnet_lite0.in1k", IN1K, "Apache-2.0", 3_371_008, 19, 0.384, 74.846),
    CuratedBackbone("efficientnet_b0.ra_in1k", IN1K, "Apache-2.0", 4_007_548, 21, 0.385, 77.698),
    CuratedBackbone("mobilenetv4_conv_medium.e500_r224_in1k", IN1K, "Apache-2.0", 8_434_512, 39, 0.826, 79.092),
    CuratedBackbone(
        "convnext_nano.in12k_ft_in1k", f"ImageNet-12k, then {IN1K}", "Apache-2.0", 14_952_560, 62, 2.445, 82.306
    ),
    # DINOv2's last training steps are at 518 px, which is more than five times the computation; its authors' linear
    # classifiers on ImageNet see 224 px (Oquab et al., "DINOv2: Learning robust visual features without supervision",
    # TMLR 2024).
    CuratedBackbone(
        "vit_small_patch14_reg4_dinov2.lvd142m,size=224",
        "LVD-142M, without labels",
        "Apache-2.0",
        21_629_952,
        88,
        6.228,
        None,
    ),
    # torchvision's original training recipe. The newer ones (a1: label smoothing and others) gain on ImageNet and lose
    # as frozen features (Kornblith et al., "Why do better loss functions lead to less transferable features?", NeurIPS
    # 2021).
    CuratedBackbone("resnet50.tv_in1k", IN1K, "BSD-3-Clause", 23_508_032, 102, 4.087, 76.156),
    CuratedBackbone(
        "convnext_tiny.in12k_ft_in1k", f"ImageNet-12k, then {IN1K}", "Apache-2.0", 27_820_128, 114, 4.455, 84.192
    ),
    CuratedBackbone(
        "vit_base_patch14_reg4_dinov2.lvd142m,size=224",
        "LVD-142M, without labels",
        "Apache-2.0",
        85_727_232,
        346,
        23.539,
        None,
    ),
    CuratedBackbone(
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        f"ImageNet-21k, then {IN1K}",
        "Apache-2.0",
        85_798_656,
        346,
        17.563,
        85.108,
    ),
    CuratedBackbone(
        "convnext_base.clip_laion2b_augreg_ft_in12k_in1k",
        f"LAION-2B, then ImageNet-12k, then {IN1K}",
        "Apache-2.0",
        87_566_464,
        354,
        20.054,
        86.378,
        256,
    ),
    CuratedBackbone("vit_base_patch16_siglip_224.v2_webli", "WebLI", "Apache-2.0", 92_884_224, 372, 17.708, None),
    CuratedBackbone(
        "vit_large_patch14_reg4_dinov2.lvd142m,size=224",
        "LVD-142M, without labels",
        "Apache-2.0",
        303_230_976,
        1217,
        82.322,
        None,
    ),
    CuratedBackbone(
        "eva02_large_patch14_clip_224.merged2b", "LAION-2B and COYO-700M", "MIT", 303_317_952, 1216, 80.999, None
    ),
)
"""The timm backbones that are registered, those with the fewest parameters first: the best of each family for its size,
with a licence that allows commercial use. ConvNeXt V2 isn't here, since all of its weights are CC-BY-NC-4.0, and
neither is DINOv3, since its weights come with a licence of Meta's own. Any other timm model can be named."""

DATASETS = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "in22k": "ImageNet-22k",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "laion2b": "LAION-2B",
    "laion400m": "LAION-400M",
    "merged2b": "LAION-2B and COYO-700M",
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
