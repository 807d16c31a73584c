"""The conformance kit on every backbone that is listed, the large ones too."""

from pathlib import Path

import pytest
from fire import Outcome, by_fire

from autotl.backbones.base import Backbone
from autotl.backbones.weights import no_downloads
from autotl.errors import AutotlError
from autotl.registry import load_registry
from autotl.testing import CHECKS, ContractViolation


@by_fire
def every_listed_backbone_keeps_the_contract(folder: Path) -> Outcome:
    """All checks on all registered backbones; weights that aren't here are skipped, never fetched."""
    kept, skipped, broken = 0, 0, []
    backbones = load_registry().backbones.values()
    with no_downloads():
        for backbone in backbones:
            described = _described(backbone)
            for check in CHECKS["backbone"]:
                try:
                    if described:
                        check(backbone)
                    skipped += not described
                    kept += described
                except pytest.skip.Exception:
                    skipped += 1
                except ContractViolation as error:
                    broken.append(f"{backbone.name}: {check.name}")
                    print(error)
    words = ", ".join(broken) or "none"
    return Outcome(
        f"{kept} promises of {len(backbones)} backbones kept, {skipped} can't be looked at here, broken: {words}",
        "none broken",
        not broken,
    )


def _described(backbone: Backbone) -> bool:
    """Whether its description is here: some have even that on a hub alone."""
    try:
        return backbone.preprocessing is not None
    except AutotlError:
        return False
