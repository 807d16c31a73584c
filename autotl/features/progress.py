"""Progress of a feature extraction, as the coordinator and the display use it. Imports no torch."""

from dataclasses import dataclass

__all__ = ["ExtractionProgress"]


@dataclass(frozen=True)
class ExtractionProgress:
    """State of one extraction, or of the predictions of test images, after a batch; a worker sends it as a message."""

    backbone: str
    """"" for predictions of the whole model."""
    ran: str
    """What ran: "levels" (the network with all feature levels), "prefix-N" (the network up to block N) or "images"
    (decoding alone), so that the speed of decoding is never taken for the speed of the network."""
    view: str
    """The augmentation: "none" for the original image."""
    done: int
    total: int
    images_per_second: float
