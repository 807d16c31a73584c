"""Feature levels: which features of a recorded vector they choose."""

import pytest

from autotl.backbones.levels import BUILT_IN, PARTS, Layout, Levels
from autotl.errors import UnknownName, find_named


def test_layout_gives_each_level_its_features() -> None:
    layout = Layout(output=5, means=3, last_maxima=4)
    assert layout.width == 15
    assert {name: layout.slices(levels) for name, levels in BUILT_IN.items()} == {
        "last": [slice(0, 5)],
        "stages": [slice(0, 8)],
        "inner+max": [slice(5, 11)],
        "stages+max": [slice(0, 15)],
    }
    assert [layout.num_features(levels) for levels in BUILT_IN.values()] == [5, 8, 6, 15]


def test_parts_that_are_apart_are_slices_of_their_own_in_the_order_of_the_vector() -> None:
    layout = Layout(output=5, means=3, last_maxima=4)
    assert layout.slices(Levels("x", ("last_maxima", "maxima", "output"))) == [slice(0, 5), slice(8, 15)]
    assert layout.num_features(Levels("x", ("last_maxima", "output"))) == 9


def test_a_network_of_one_stage_has_only_its_output_as_inner_features() -> None:
    layout = Layout(output=5, means=0, last_maxima=5)
    assert layout.slices(BUILT_IN["inner+max"]) == [slice(0, 5)]
    assert layout.slices(Levels("x", ("maxima", "last_maxima"))) == [slice(5, 10)]


@pytest.mark.parametrize("parts", [(), ("output", "output"), ("top",), "output"])
def test_levels_of_no_unknown_or_repeated_parts_are_refused(parts) -> None:
    with pytest.raises(ValueError, match=f"each is one of {', '.join(PARTS)}"):
        Levels("x", parts)


def test_unknown_levels_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'stages'"):
        find_named("levels", "stage", BUILT_IN)
