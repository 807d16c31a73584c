"""The conformance kit: our checks on your part of autotl, in three lines of pytest.

    from autotl.testing import head_checks

    @head_checks
    def test_contract(check):
        check(MyHead())

Each check is a test of its own. One that fails says what was promised, what came, and where the contract says so.
Without pytest's help: `for check in autotl.testing.CHECKS["head"]: check(MyHead())`.
"""

from autotl.testing.backbones import BACKBONE
from autotl.testing.check import Check, Checks, ContractBroken
from autotl.testing.datasets import DATASET
from autotl.testing.engines import ENGINE
from autotl.testing.heads import HEAD
from autotl.testing.metrics import METRIC
from autotl.testing.plugins import PLUGIN
from autotl.testing.strategies import STRATEGY

__all__ = [
    "CHECKS",
    "Check",
    "Checks",
    "ContractBroken",
    "backbone_checks",
    "dataset_checks",
    "engine_checks",
    "head_checks",
    "metric_checks",
    "plugin_checks",
    "strategy_checks",
]

CHECKS = {checks.component: checks for checks in (BACKBONE, HEAD, STRATEGY, ENGINE, DATASET, METRIC, PLUGIN)}
"""All checks by the component of part that they are for."""

backbone_checks = BACKBONE.parametrize()
"""`check(backbone)`; `check(backbone, other=…)` where the weights aren't one `weights_file`: the same network with
other weights, whose digest has to differ."""

head_checks = HEAD.parametrize()
"""`check(head)`"""

strategy_checks = STRATEGY.parametrize()
"""`check(strategy)`"""

engine_checks = ENGINE.parametrize()
"""`check(engine)`; `check(engine, device="cuda")`: checks are skipped where it isn't usable on that device here."""

dataset_checks = DATASET.parametrize()
"""`check(source)` for one that is found by its name; `check(source, location=…)` for others."""

metric_checks = METRIC.parametrize()
"""`check(metric)`"""

plugin_checks = PLUGIN.parametrize()
"""`check("entry_point")`: that it is installed, takes part, and registers lightly."""
