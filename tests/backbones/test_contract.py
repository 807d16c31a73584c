"""The kit on the built-in backbones: small ones whole, and the listed ones on arbitrary weights, as none are here."""

import pytest

from autotl.backbones.timm import TimmBackbone
from autotl.testing import backbone_checks


@backbone_checks
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_timm_network_keeps_the_contract(name, check, tiny):
    check(tiny(name))


@backbone_checks
def test_a_listed_network_keeps_it(check):
    check(TimmBackbone("mobilenetv3_small_100.lamb_in1k", pretrained_on="ImageNet-1k", license="Apache-2.0"))
