"""The recorded features of several backbones, side by side."""

import numpy as np
import pytest

from autotl.backbones.joined import JoinedBackbone
from autotl.errors import AutotlError
from autotl.features.joined import JoinedFeatures


def test_features_of_the_parts_are_side_by_side_in_their_order(extractor, tiny):
    parts = tiny("test_resnet"), tiny("test_convnext")
    joined = JoinedFeatures.of(extractor, JoinedBackbone(parts))
    rows = joined.levels("validation", "stages")
    each = [extractor.of(part).levels("validation", "stages") for part in parts]
    np.testing.assert_array_equal(rows, np.concatenate(each, axis=1))
    assert joined.num_features("stages") == rows.shape[1]


def test_networks_of_several_backbones_can_not_be_trained(extractor, tiny):
    joined = JoinedFeatures.of(extractor, JoinedBackbone((tiny("test_resnet"), tiny("test_convnext"))))
    with pytest.raises(AutotlError, match="can't be trained together"):
        joined.boundary("train", 1)
