"""The README.md of an export."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotl.escaping import escape_markdown
from autotl.exports.base import ExportedModel, Exporter

__all__ = ["Check", "export_card"]


@dataclass(frozen=True)
class Check:
    """How an export answered for images, compared with the model."""

    images: int
    equal: int
    """Images whose most probable class is the same."""
    largest: float
    """The largest difference of a probability."""

    def describe(self) -> str:
        return (
            f"Checked on {self.images} images against `autotl predict` in fp32: {self.equal} of {self.images} have the "
            f"same class, and no probability differs by more than {self.largest:.1g}."
        )


def export_card(model: ExportedModel, exporter: Exporter, check: Check | None, versions: Mapping[str, str]) -> str:
    """Markdown for people: what the files are, how to use them, and what they were checked with."""
    lines = [f"# {escape_markdown(model.name)}, exported to {exporter.name}", ""]
    lines += [" ".join((exporter.__doc__ or "").split()).partition(". ")[0].rstrip(".") + ".", ""]
    if check:
        lines += [check.describe(), ""]
    lines += [
        f"`labels.txt` has the {len(model.classes):,} classes in the order of the probabilities, and `example.py` runs "
        f"without autotl: `pip install {exporter.requires} pillow numpy`, then `python example.py photo.jpg`.",
        "",
        "Images are upright RGB; large JPEGs may be decoded at a reduced size that keeps "
        f"{model.size_hint} pixels along the shorter side (`Image.draft`).",
        "",
        "| network | size | weights' licence | pretrained on | members |",
        "|---|---|---|---|---|",
    ]
    for network in model.networks:
        backbone = network.backbone
        cells = (backbone.name, f"{backbone.preprocessing.size} px", backbone.license, backbone.pretrained_on)
        members = "; ".join(member.description for member in network.members)
        lines.append(f"| {' | '.join(map(escape_markdown, (*cells, members)))} |")
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*lines, "", f"Made with {made}.", ""])
