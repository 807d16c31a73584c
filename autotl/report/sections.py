"""The sections of a report that autotl brings, registered like those of plugins."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotl.page.base import Element, ReportSection

if TYPE_CHECKING:
    from autotl.registration import Register
    from autotl.report.record import SearchRecord

__all__ = ["autotl_register_report_sections"]


class _BuiltIn(ReportSection):
    """A section that a function of this room builds. Every command registers the sections, so that their modules, which
    import Optuna, are loaded when a report is built."""

    def __init__(self, order: int, name: str, title: str, module: str, *, costly: bool = False):
        self.order, self.name, self.title, self.module, self.costly = order, name, title, module, costly

    def build(self, search: "SearchRecord") -> Sequence[Element]:
        module, function = self.module.split(".")
        built: Sequence[Element] = getattr(importlib.import_module(f"autotl.report.{module}"), function)(search)
        return built


def autotl_register_report_sections(register: "Register[ReportSection]") -> None:
    """Register the built-in sections."""
    register(_BuiltIn(10, "answer", "The answer", "answer.answer_section"))
    register(
        _BuiltIn(
            20,
            "pretraining",
            "How near the images are to what the networks were trained on",
            "answer.nearness_section",
            costly=True,
        )
    )
    register(_BuiltIn(30, "time", "Where the time went, and what more would bring", "learnt.time_section"))
    register(_BuiltIn(40, "learnt", "What was learnt", "learnt.learnt_section"))
    register(_BuiltIn(50, "importances", "Which choices mattered", "learnt.importance_section", costly=True))
    register(_BuiltIn(60, "classes", "Classes and what they are confused with", "mistakes.classes_section"))
    register(_BuiltIn(70, "mistakes", "The worst mistakes", "mistakes.mistakes_section", costly=True))
    register(_BuiltIn(80, "labels", "Likely label errors", "mistakes.label_errors_section", costly=True))
    register(_BuiltIn(90, "map", "A map of the images", "images.feature_map_section", costly=True))
    register(_BuiltIn(100, "cartography", "Easy, ambiguous and hard images", "images.cartography_section", costly=True))
    register(_BuiltIn(110, "calibration", "How far the probabilities can be trusted", "trust.calibration_section"))
    register(_BuiltIn(120, "data", "What was odd in the data", "trust.data_section"))
    register(_BuiltIn(130, "use", "How to use the model", "usage.usage_section"))
    register(_BuiltIn(140, "origin", "Versions, digests and licences", "usage.origin_section"))
