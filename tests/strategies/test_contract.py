"""The kit on the built-in strategies."""

import importlib.util
from pathlib import Path

import pytest

from autotl.strategies.extract_augment import ExtractAugment
from autotl.strategies.fast_extraction import FastExtraction
from autotl.strategies.fine_tuning import FineTuning
from autotl.testing import strategies as checks
from autotl.testing import strategy_checks


@pytest.mark.slow
@strategy_checks
@pytest.mark.parametrize("strategy", [FastExtraction(), ExtractAugment(), FineTuning()], ids=lambda s: s.name)
def test_a_built_in_strategy_keeps_the_contract(strategy, check):
    check(strategy)


def test_the_strategy_of_the_trials_by_fire_returns_complete_results():
    spec = importlib.util.spec_from_file_location("noop", Path(__file__).parents[1] / "soak" / "noop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checks.results_are_complete(module.Noop())
