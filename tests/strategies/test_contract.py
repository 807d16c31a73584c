"""The kit on the built-in strategies."""

import pytest

from autotl.strategies.extract_augment import ExtractAugment
from autotl.strategies.fast_extraction import FastExtraction
from autotl.strategies.fine_tuning import FineTuning
from autotl.testing import strategy_checks


@strategy_checks
@pytest.mark.parametrize("strategy", [FastExtraction(), ExtractAugment(), FineTuning()], ids=lambda s: s.name)
def test_a_built_in_strategy_keeps_the_contract(strategy, check):
    check(strategy)
