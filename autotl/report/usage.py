"""How to use the model, and what made it."""

import hashlib
import shlex
from collections.abc import Sequence

from autotl.page.base import Code, Element, Fold, Table, Text
from autotl.recipe import JOIN
from autotl.report.record import SearchRecord
from autotl.study.study import StudyAttribute, TrialAttribute

__all__ = ["origin_section", "usage_section"]


PYTHON = """import autotl

model = autotl.load({model!r})
model.predict(["new.jpg"])        # the most probable class of each image
model.predict_proba(["new.jpg"])  # a probability for each class"""


def usage_section(search: SearchRecord) -> Sequence[Element]:
    """How to use the model."""
    if search.result is None:
        return []
    model = str(search.folder / "model")
    return [
        Text("From the command line:"),
        Code(f"autotl predict {shlex.quote(model)} new/ --csv predictions.csv"),
        Text("From Python:"),
        Code(PYTHON.format(model=model), "python"),
        Text("On other labelled images:"),
        Code(f"autotl evaluate {shlex.quote(model)} labelled/"),
        Text("In other programs (ONNX, OpenVINO, PyTorch, timm), and over HTTP:"),
        Code(f"autotl export {shlex.quote(model)} --to onnx\nautotl serve {shlex.quote(model)}"),
    ]


def origin_section(search: SearchRecord) -> Sequence[Element]:
    """Versions, digests and licences."""
    joined = {t.number: t.user_attrs[TrialAttribute.RECIPE]["backbone"].split(JOIN) for t in search.complete}
    names = dict.fromkeys(name for parts in joined.values() for name in parts)
    used = {name for number, parts in joined.items() if number in search.weights for name in parts}
    rows = []
    for name in names:
        try:
            backbone = search.registry.backbone(name)
            digest = backbone.digest
        except Exception:  # its plugin or its weights are gone
            continue
        rows.append((name, "yes" if name in used else "", backbone.license, backbone.pretrained_on, digest[:16]))
    columns = ("backbone", "in the model", "licence of its weights", "trained on", "digest")
    elements: list[Element] = [Table(columns, rows)] if rows else []
    versions = (search.result or {}).get("versions") or search.study.user_attrs.get(StudyAttribute.VERSIONS, {})
    facts = [
        ("data", str(search.config.data)),
        ("metric", search.metric.name),
        ("seed", str(search.config.seed)),
        ("time", f"{search.config.time:,.0f} s" if search.config.time else "no limit"),
    ]
    if search.dataset is not None and search.split is not None:
        for name in ("train", "validation", "test"):
            digests = "".join(sorted(search.dataset.digests[i] for i in getattr(search.split, name)))
            facts.append((f"digest of the {name} images", hashlib.sha256(digests.encode()).hexdigest()[:16]))
    facts += [(f"version of {name}", str(value)) for name, value in versions.items()]
    elements.append(Fold("What the search was asked, digests of the split, and versions", (Table(("", ""), facts),)))
    return elements
