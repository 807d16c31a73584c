"""The conformance kit on every backbone that is listed, the large ones too."""

from pathlib import Path

import pytest
from fire import Outcome, by_fire

from autotl.registry import load_registry
from autotl.testing import CHECKS, ContractBroken


@by_fire
def every_listed_backbone_keeps_the_contract(folder: Path) -> Outcome:
    """All checks on all registered backbones; weights that aren't here are skipped, never fetched."""
    kept, skipped, broken = 0, 0, []
    backbones = load_registry().backbones.values()
    for backbone in backbones:
        for check in CHECKS["backbone"]:
            try:
                check(backbone)
            except pytest.skip.Exception:
                skipped += 1
            except ContractBroken as error:
                broken.append(f"{backbone.name}: {check.name}")
                print(error)
            else:
                kept += 1
    words = ", ".join(broken) or "none"
    return Outcome(
        f"{kept} promises of {len(backbones)} backbones kept, {skipped} can't be looked at here, broken: {words}",
        "none broken",
        not broken,
    )
