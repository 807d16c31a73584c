"""The conformance kit: our checks on your backbone or head, in three lines of pytest.

    from autotl.testing import head_checks

    @head_checks
    def test_contract(check):
        check(MyHead())

Each check is a test of its own. One that fails says what was promised, what came, and where the contract says so.
Without pytest: `for check in autotl.testing.CHECKS["head"]: check(MyHead())`.
"""

from autotl.testing.backbones import BACKBONE
from autotl.testing.check import Check, Checks, ContractBroken
from autotl.testing.heads import HEAD

__all__ = ["CHECKS", "Check", "Checks", "ContractBroken", "backbone_checks", "head_checks"]

CHECKS = {checks.kind: checks for checks in (BACKBONE, HEAD)}
"""All checks by the kind of part that they are for."""

backbone_checks = BACKBONE.parametrize()
"""`check(backbone)`; `check(backbone, other=…)` where the weights aren't one `weights_file`: the same network with
other weights, whose digest has to differ."""

head_checks = HEAD.parametrize()
"""`check(head)`"""
