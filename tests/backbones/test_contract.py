"""Contract checks of the built-in backbones: tiny ones with weights, curated ones with arbitrary weights."""

import pytest

from autotl.backbones.timm import autotl_register_backbones
from autotl.testing import backbone_checks

pytestmark = pytest.mark.slow


@backbone_checks
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_timm_backbone_keeps_the_contract(name, check, tiny):
    check(tiny(name))


REGISTERED = []
autotl_register_backbones(REGISTERED.append)
SMALL = [b for b in REGISTERED if b.name.startswith(("mobilenetv4_conv_small", "convnext_nano", "vit_small"))]
"""One of each family; `make soak` checks all of them, and those of plugins."""


@backbone_checks
@pytest.mark.parametrize("backbone", SMALL, ids=[backbone.name for backbone in SMALL])
def test_a_curated_backbone_keeps_the_contract(backbone, check):
    check(backbone)
