"""The requirements of feature levels."""

import re

from autotl.backbones.levels import BUILT_IN, Layout, Levels
from autotl.testing.check import Checks, expect

__all__ = ["LEVELS"]

LEVELS = Checks("levels", Levels)


@LEVELS.requires(Levels)
def is_described(levels: Levels) -> None:
    """Levels have a name of letters, digits, _, - and +."""
    expect(isinstance(levels.name, str) and re.fullmatch(r"[\w+-]+", levels.name), f"name is {levels.name!r}")


@LEVELS.requires(Levels)
def choose_what_no_built_in_levels_do(levels: Levels) -> None:
    """The parts are not those of built-in levels of another name: a search would try the same features twice."""
    twins = [b.name for b in BUILT_IN.values() if set(b.parts) == set(levels.parts) and b.name != levels.name]
    expect(not twins, f"{twins[:1]} have the same parts")


@LEVELS.requires(Layout.slices)
def every_network_has_features_for_them(levels: Levels) -> None:
    """Networks of several stages and of one give at least one feature, inside of the recorded vector."""
    for layout in (Layout(5, 3, 4), Layout(5, 0, 5), Layout(5, 0, 0)):
        slices = layout.slices(levels)
        expect(layout.num_features(levels) > 0, f"no feature of {layout}")
        expect(slices[-1].stop <= layout.width, f"{slices} in a vector of {layout.width} features")
