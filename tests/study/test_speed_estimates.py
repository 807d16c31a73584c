"""Speeds of backbones that weren't measured follow from their multiply-adds."""

import pytest

from autotl.registry import Registry, load_registry
from autotl.study.speed_estimates import assumed_pass_seconds, assumed_speed, estimated_speed, multiply_adds

SMALL, RESNET, VIT_L = "tf_efficientnet_lite0.in1k", "resnet50.tv_in1k", "eva02_large_patch14_clip_224.merged2b"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def test_stated_multiply_adds_are_taken(registry: Registry) -> None:
    assert multiply_adds(registry.backbone(RESNET)) == 4.087


@pytest.mark.parametrize(("name", "low"), [("vit_base_patch16_siglip_224.v2_webli", 0.9), (RESNET, 0.8), (SMALL, 0.5)])
def test_multiply_adds_that_are_not_stated_are_estimated_from_the_parameters(
    name: str, low: float, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most as many as a vision transformer of that size has."""
    backbone = registry.backbone(name)
    stated = multiply_adds(backbone)
    monkeypatch.setattr(backbone, "gmacs", None)
    assert low < stated / multiply_adds(backbone) < 1.1


def test_a_gpu_is_assumed_to_be_faster_than_a_cpu_and_no_device_faster_than_decoding(registry: Registry) -> None:
    large, small = registry.backbone(VIT_L), registry.backbone(SMALL)
    assert assumed_speed(large, "cpu", 16) == pytest.approx(25 / 80.999)
    assert assumed_speed(large, "cuda", 16) == pytest.approx(20_000 / 16 / 80.999)
    assert assumed_speed(small, "cuda", 16) == assumed_speed(small, "cpu", 16) == 60.0


def test_a_pass_uses_all_device_types(registry: Registry) -> None:
    large = registry.backbone(VIT_L)
    seconds = assumed_pass_seconds(large, 1000, {"cuda": 16})
    assert seconds == pytest.approx(1000 / (20_000 / 80.999))
    assert assumed_pass_seconds(large, 1000, {"cuda": 16, "cpu": 16}) < seconds


def test_on_a_cpu_a_speed_follows_from_what_was_measured(registry: Registry) -> None:
    measured = [(registry.backbone(SMALL), 30.0), (registry.backbone(RESNET), 6.0)]  # 11.5 and 24.5 billion a second
    assert estimated_speed(registry.backbone(VIT_L), measured, "cpu", 2) == pytest.approx(6.0 * 4.087 / 80.999)


def test_on_a_gpu_a_small_backbone_that_waits_for_images_says_little_about_a_large_one(registry: Registry) -> None:
    measured = [(registry.backbone(SMALL), 750 / 16)]
    assert estimated_speed(registry.backbone(VIT_L), measured, "cuda", 16) == pytest.approx(20_000 / 16 / 80.999)


def test_a_large_backbone_is_not_taken_to_be_faster_than_a_measured_smaller_one(registry: Registry) -> None:
    measured = [(registry.backbone(SMALL), 2.0)]  # the images are large
    assert estimated_speed(registry.backbone(RESNET), measured, "cuda", 16) == 2.0
    smaller = registry.backbone("mobilenetv4_conv_small.e2400_r224_in1k")
    assert estimated_speed(smaller, measured, "cuda", 16) == pytest.approx(2.0 * 0.384 / 0.185)
