"""The README.md of an export."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotl.escaping import escape_markdown
from autotl.exports.base import ExportedModel, Exporter
from autotl.exports.loss import Loss

__all__ = ["Check", "export_card"]


MEANING = {
    "fp16": "The networks keep their weights in fp16.",
    "int8": "The networks compute in int8, with the ranges that activations had on training images.",
}


@dataclass(frozen=True)
class Check:
    """How an export answered for images, compared with the model."""

    images: int
    equal: int
    """Images whose most probable class is the same."""
    largest: float
    """The largest difference of a probability, but for images at a step."""
    likeness: bool = False
    """Whether the export has the output `likeness`, which was compared, too."""
    at_steps: int = 0
    """Images where the last bit of a sum decides: a feature lies at a threshold of trees, or a pixel between values."""

    def describe(self) -> str:
        left_out = "is one image" if self.at_steps == 1 else f"are {self.at_steps} images"
        steps = f" Left out of that {left_out} where rounding decides: the answers agree once the lowest bits change."
        return (
            f"Checked on {self.images} images against `autotl predict` in fp32: {self.equal} of {self.images} have the "
            f"same class, and no probability differs by more than {self.largest:.1g}.{steps if self.at_steps else ''}"
        )


def export_card(
    model: ExportedModel,
    exporter: Exporter,
    check: Check | None,
    versions: Mapping[str, str],
    loss: Loss | None = None,
) -> str:
    """Markdown for people: what the files are, how to use them, and what they were checked with.

    Args:
        check: of the export in fp32; `loss` is of one in fewer bits.
    """
    precision = f" in {loss.precision}" if loss else ""
    lines = [f"# {escape_markdown(model.name)}, exported to {exporter.name}{precision}", ""]
    lines += [" ".join((exporter.__doc__ or "").split()).partition(". ")[0].rstrip(".") + ".", ""]
    if loss:
        lines += [f"{MEANING[loss.precision]} {loss.describe()}", ""]
        lines += [f"| | fp32 | {loss.precision} |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in loss.rows()]
        lines += [""]
    if check:
        lines += [f"{'In fp32: ' if loss else ''}{check.describe()}", ""]
    lines += _doubts(model, loss) if check else []
    lines += [
        f"`labels.txt` has the {len(model.classes):,} classes in the order of the probabilities, and `example.py` runs "
        f"without autotl: `pip install {exporter.requires} pillow numpy`, then `python example.py photo.jpg`.",
        "",
        "Images are upright RGB; large JPEGs may be decoded at a reduced size that keeps "
        f"{model.size_hint} pixels along the shorter side (`Image.draft`), and grey values of more than 8 bits are "
        "scaled from the image's least and greatest to 0 and 255.",
        "",
        "| network | size | weights' licence | pretrained on | members |",
        "|---|---|---|---|---|",
    ]
    for number, network in enumerate(model.networks):
        backbone = network.backbone
        cells = (backbone.name, f"{backbone.preprocessing.size} px", backbone.license, backbone.pretrained_on)
        members = "; ".join(member.description for member in model.members if number in member.networks)
        lines.append(f"| {' | '.join(map(escape_markdown, (*cells, members)))} |")
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n".join([*lines, "", f"Made with {made}.", ""])


def _doubts(model: ExportedModel, loss: Loss | None) -> list[str]:
    """How to use `doubt.json`."""
    if not model.thresholds:
        return []
    lines = [
        "`doubt.json` says from which probability on an answer holds a risk (`abstain_at`; `null`: no answer does), "
        "and which classes belong to a prediction set that holds the true one (`coverage`), as in `autotl predict`:",
        "",
        "```python",
        'doubt = json.loads((here / "doubt.json").read_text())',
        'least = doubt["abstain_at"]["5%"]',
        'answer = "unsure" if least is None or probabilities.max() < least else labels[probabilities.argmax()]',
        'least = min(doubt["coverage"]["90%"], probabilities.max())',
        "classes = [label for label, p in zip(labels, probabilities) if p >= least]",
    ]
    if "unknown_at" in model.thresholds:
        lines += ['answer = "unknown" if likeness[0] < doubt["unknown_at"]["2%"] else answer']
    lines += ["```", ""]
    if "unknown_at" in model.thresholds:
        fewer = f" The thresholds are those in fp32: measure false alarms in {loss.precision} anew." if loss else ""
        lines += [
            "`likeness` is the second output: the share of training images that are as unusual as the image, or more. "
            f"Below `unknown_at` the image is unlike any of them, with that share of false alarms.{fewer}",
            "",
        ]
    return lines
