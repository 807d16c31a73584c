"""What a server answers, as it is described in its OpenAPI page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autotl.model.file_prediction import best_classes

if TYPE_CHECKING:
    from autotl.model.doubt import Doubts

__all__ = ["Answer", "Answers", "ClassProbability", "ModelInfo", "Refusal", "answer_of"]


class ClassProbability(BaseModel):
    """A class with its probability."""

    label: str
    probability: float = Field(ge=0, le=1)


class Answer(BaseModel):
    """What the model answers to one image."""

    name: str | None = Field(default=None, description="Of the image's file, or its URL.")
    label: str = Field(description="The most probable class.")
    probability: float
    answer: str | None = Field(
        default=None,
        description="`label`, or 'unsure' or 'unknown'; only of a server with --abstain-at or --unknown-at.",
    )
    likeness: float | None = Field(
        default=None,
        description="Share of the training images that are as far from the other training images, or farther.",
    )
    classes: list[str] | None = Field(
        default=None, description="The prediction set, most probable first; only of a server with --coverage."
    )
    top: list[ClassProbability] = Field(description="The most probable classes, most probable first.")


class Answers(BaseModel):
    """The answers to the images of a request, in their order."""

    predictions: list[Answer]


class Refusal(BaseModel):
    """Why a request isn't answered."""

    detail: str
    image: int | None = Field(default=None, description="Number of the image in the request that is refused.")


class ModelInfo(BaseModel):
    """What the server serves, and what it takes."""

    model_config = ConfigDict(protected_namespaces=())

    model: str
    classes: list[str]
    version: str = Field(description="Of autotl.")
    abstain_at: float | None
    unknown_at: float | None
    coverage: float | None
    max_bytes: int = Field(description="Of a request's body.")
    max_pixels: int = Field(description="Of an image.")
    max_images: int = Field(description="In a request.")
    allow_urls: bool


def answer_of(row: np.ndarray, classes: Sequence[str], top: int, name: str, doubts: "Doubts | None") -> Answer:
    """From a row of `autotl.model.answering` to what the client gets.

    Args:
        top: number of classes to name.
    """
    best = best_classes(row[: len(classes)], classes, top)
    answer = Answer(
        name=name or None,
        label=best[0][0],
        probability=best[0][1],
        top=[ClassProbability(label=label, probability=probability) for label, probability in best],
    )
    if doubts is not None:
        decision = doubts.decide(row)
        if {"abstain_at", "unknown_at"} & {name for name, wish in doubts.wishes.items() if wish is not None}:
            answer.answer = decision.answer
        answer.likeness = decision.likeness
        answer.classes = list(decision.classes) if doubts.wishes["coverage"] is not None else None
    return answer
