"""What a notebook shows of a model and of its predictions."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.data.decoding import decode, to_rgb
from autotl.data.inputs import as_images
from autotl.page.base import Card, Element, Gallery, Picture, Table, Text
from autotl.page.render import render_elements

if TYPE_CHECKING:
    from autotl.backbones.base import Backbone
    from autotl.model.member import Member

__all__ = ["Predictions", "Representation"]

SIDE = 140
"""Pixels of a thumbnail."""
MAX_SHOWN = 60


@dataclass(frozen=True, eq=False)
class Predictions:
    """Images with their predicted probabilities. A notebook shows the images."""

    images: tuple[Any, ...]
    """Paths, PIL images, arrays, …, as they were passed."""
    classes: tuple[str, ...]
    probabilities: np.ndarray
    """float64 [n, num_classes]."""
    top: int = 3
    """Number of classes that are shown for each image."""

    @property
    def labels(self) -> np.ndarray:
        """The name of the most probable class of each image, [n]."""
        return np.asarray(np.array(self.classes)[self.probabilities.argmax(1)])

    def __len__(self) -> int:
        return len(self.images)

    def _best(self, row: np.ndarray) -> list[tuple[str, float]]:
        return [(self.classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[: self.top]]

    def _repr_html_(self) -> str:
        cards = []
        for image, row in zip(self.images[:MAX_SHOWN], self.probabilities, strict=False):
            (first, share), *others = self._best(row)
            name = Path(image).name if isinstance(image, str | os.PathLike) else ""
            picture = Picture(_thumbnail(image), f"{name or 'The image'}: {first} {share:.0%}", large=True)
            lines = (*(f"{label} {p:.0%}" for label, p in others), *([name] if name else []))
            cards.append(Card(f"{first} {share:.0%}", (picture,), lines))
        elements: list[Element] = [Gallery(tuple(cards))]
        if len(self) > MAX_SHOWN:
            elements.append(Text(f"The first {MAX_SHOWN} of {len(self):,} images.", "note"))
        return render_elements(elements)


class Representation:
    """Adds to `ImageModel` what a notebook shows."""

    classes: tuple[str, ...]
    members: "list[Member]"
    backbones: "dict[str, Backbone]"
    about: dict[str, Any]

    def predict_proba(self, images: Any) -> np.ndarray:
        """Probabilities [n, num_classes]."""
        raise NotImplementedError

    def show(self, images: Any, top: int = 3) -> Predictions:
        """Predict images to look at in a notebook, each with its `top` most probable classes.

        Args:
            images: what `predict_proba` takes. A generator or an open file is read once, so they are kept in memory.
        """
        listed = tuple(_kept(image) for image in as_images(images))
        return Predictions(listed, self.classes, self.predict_proba(list(listed)), min(top, len(self.classes)))

    def _repr_html_(self) -> str:
        total = sum(member.weight for member in self.members) or 1.0
        rows = [(m.trial, m.weight / total, m.validation, m.recipe.describe()) for m in self.members]
        kinds = {"study": self.about.get("study"), "metric": self.about.get("metric")}
        facts = " · ".join(f"{name} {value}" for name, value in kinds.items() if value)
        networks = [(b.name, b.pretrained_on, b.license) for b in self.backbones.values()]
        return render_elements(
            [
                Text(f"A classifier of {len(self.classes):,} classes: {_listed(self.classes)}", "lead"),
                Table(("trial", "weight", "validation", "recipe"), rows),
                Table(("backbone", "trained on", "licence of its weights"), networks),
                *([Text(facts, "note")] if facts else []),
            ]
        )


def _listed(classes: Iterable[str], limit: int = 12) -> str:
    names = list(classes)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def _kept(image: Any) -> Any:
    """An open file as its content, so that it can be read again for the thumbnail."""
    return image.read() if hasattr(image, "read") and not isinstance(image, str | bytes | os.PathLike) else image


def _thumbnail(image: Any) -> bytes:
    import io

    picture = decode(image, 2 * SIDE) if isinstance(image, str | bytes | os.PathLike) else to_rgb(image)
    picture = picture.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=70)
    return content.getvalue()
