"""The conformance kit: pytest checks that a plugin's component satisfies its contract.

    from autotl.testing import head_checks

    @head_checks
    def test_contract(check):
        check(MyHead())

Each check is one test. Its failure message has what was expected, what the component did, and where the contract
states it. Without pytest: `for check in autotl.testing.CHECKS["head"]: check(MyHead())`.
"""

from autotl.testing.augmentations import AUGMENTATION
from autotl.testing.backbones import BACKBONE
from autotl.testing.callbacks import CALLBACK
from autotl.testing.check import Check, Checks, ContractViolation
from autotl.testing.datasets import DATASET
from autotl.testing.engines import ENGINE
from autotl.testing.exporters import EXPORTER
from autotl.testing.heads import HEAD
from autotl.testing.launchers import LAUNCHER
from autotl.testing.levels import LEVELS
from autotl.testing.losses import LOSS
from autotl.testing.metrics import METRIC
from autotl.testing.plugins import PLUGIN
from autotl.testing.scores import SCORE
from autotl.testing.sections import SECTION
from autotl.testing.strategies import STRATEGY

__all__ = [
    "CHECKS",
    "Check",
    "Checks",
    "ContractViolation",
    "augmentation_checks",
    "backbone_checks",
    "callback_checks",
    "dataset_checks",
    "engine_checks",
    "exporter_checks",
    "head_checks",
    "launcher_checks",
    "levels_checks",
    "loss_checks",
    "metric_checks",
    "plugin_checks",
    "score_checks",
    "section_checks",
    "strategy_checks",
]

CHECKS = {
    checks.component: checks
    for checks in (
        BACKBONE,
        HEAD,
        STRATEGY,
        AUGMENTATION,
        LOSS,
        LEVELS,
        ENGINE,
        DATASET,
        METRIC,
        SCORE,
        CALLBACK,
        EXPORTER,
        SECTION,
        LAUNCHER,
        PLUGIN,
    )
}
"""All checks, by component type."""

backbone_checks = BACKBONE.parametrize()
"""`check(backbone)`. For a backbone without a `weights_file`, `check(backbone, other=…)`: the same network with other
weights, whose digest must differ."""

head_checks = HEAD.parametrize()
"""`check(head)`"""

strategy_checks = STRATEGY.parametrize()
"""`check(strategy)`"""

augmentation_checks = AUGMENTATION.parametrize()
"""`check(augmentation)`"""

loss_checks = LOSS.parametrize()
"""`check(loss)`"""

levels_checks = LEVELS.parametrize()
"""`check(levels)`"""

engine_checks = ENGINE.parametrize()
"""`check(engine)`, or `check(engine, device="cuda")`. Skipped where the engine isn't usable on the device."""

dataset_checks = DATASET.parametrize()
"""`check(source)` for a source that loads by its name, `check(source, location=…)` for others."""

metric_checks = METRIC.parametrize()
"""`check(metric)`"""

score_checks = SCORE.parametrize()
"""`check(score)`"""

callback_checks = CALLBACK.parametrize()
"""`check(callback)`"""

exporter_checks = EXPORTER.parametrize()
"""`check(exporter)`. Its example runs in a process of its own."""
section_checks = SECTION.parametrize()
"""`check(section)`"""

launcher_checks = LAUNCHER.parametrize()
"""`check(launcher)`, or `check(launcher, slot=…)` for other workers than one on the CPU. Starts real processes."""

plugin_checks = PLUGIN.parametrize()
"""`check("entry_point")`: the plugin is installed once, is enabled, and imports nothing heavy."""
