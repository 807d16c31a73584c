"""The kit on the built-in backbones: small ones whole, and the listed ones on arbitrary weights, as none are here."""

import pytest

from autotl.backbones.timm import autotl_register_backbones
from autotl.testing import backbone_checks


@backbone_checks
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_timm_network_keeps_the_contract(name, check, tiny):
    check(tiny(name))


LISTED = []
autotl_register_backbones(LISTED.append)
SMALL = [b for b in LISTED if b.name.startswith(("mobilenetv3", "convnext_atto", "vit_tiny"))]
"""One of each family; `make soak` checks them all, and those of plugins."""


@backbone_checks
@pytest.mark.parametrize("backbone", SMALL, ids=[backbone.name for backbone in SMALL])
def test_a_listed_network_keeps_it(backbone, check):
    check(backbone)
