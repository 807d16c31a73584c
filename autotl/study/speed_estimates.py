"""How fast a backbone's features are extracted: from what was measured in this search, else from its multiply-adds."""

from collections.abc import Container, Mapping, Sequence

from autotl.backbones.base import Backbone

__all__ = ["DEFAULT_SPEED", "assumed_pass_seconds", "assumed_speed", "estimated_speed", "level_speeds", "multiply_adds"]

ASSUMED_RATE = {"cpu": 25.0, "cuda": 20_000.0, "xpu": 10_000.0, "mps": 1000.0}
"""Billions of multiply-adds a second before anything was measured, of one CPU thread or of one accelerator. Measured: a
CPU thread without bf16 (AVX2) 12 to 46, with AMX 90 to 600; an NVIDIA H200 in bf16 8,700 (EfficientNet-Lite0), 63,000
(ResNet-50) and 158,000 (ViT-B)."""
DECODED_PER_THREAD = 60.0
"""Images that one thread decodes in a second, before anything was measured: no backbone is faster than that."""
DEFAULT_SPEED = 20.0
"""Images per second and thread that are assumed before anything was measured, for the time that the end takes."""
DEFAULT_SIZE = 224
PATCH = 16


def multiply_adds(backbone: Backbone) -> float:
    """Billions of multiply-adds for one image: stated, or estimated as those of a vision transformer, which uses each
    parameter once for each patch of 16 x 16 pixels. Convolutional networks have half to once as many.

    Raises:
        AutotlError: neither the multiply-adds nor the number of parameters is stated, and the network can't be built.
    """
    if backbone.gmacs is not None:
        return backbone.gmacs
    return backbone.count_params() * ((backbone.size or DEFAULT_SIZE) / PATCH) ** 2 / 1e9


def assumed_speed(backbone: Backbone, device_type: str, threads: int) -> float:
    """Images per second and thread before anything was measured.

    Args:
        threads: of all slots of this device type, which are taken to share one accelerator.
    """
    rate = ASSUMED_RATE.get(device_type, ASSUMED_RATE["cpu"])
    per_thread = rate if device_type == "cpu" else rate / threads
    return min(DECODED_PER_THREAD, per_thread / multiply_adds(backbone))


def estimated_speed(
    backbone: Backbone, measured: Sequence[tuple[Backbone, float]], device_type: str, threads: int
) -> float:
    """Images per second and thread of a backbone that wasn't measured, from others `measured` on the same device type.

    A measured backbone shows how many multiply-adds a second the device does at least. On a GPU, small backbones wait
    for the images to be decoded, and show less than it could: there the assumed rate counts where it is higher. No
    backbone is taken to be faster than the fastest that was measured, unless it has fewer multiply-adds.
    """
    cost = multiply_adds(backbone)
    fastest, top_speed = max(measured, key=lambda entry: entry[1])
    rate = max(speed * multiply_adds(known) for known, speed in measured)
    if device_type != "cpu":
        rate = max(rate, ASSUMED_RATE.get(device_type, 0.0) / threads)
    return min(rate / cost, top_speed * max(1.0, multiply_adds(fastest) / cost))


def level_speeds(
    measured: Mapping[tuple[str, str, str], float], device_types: Container[str]
) -> dict[str, dict[str, float]]:
    """Measured images per second and thread of whole networks, by device type and backbone.

    Args:
        measured: by (backbone, what ran, device type).
        device_types: those that count.
    """
    speeds: dict[str, dict[str, float]] = {}
    for (backbone, ran, device_type), speed in measured.items():
        if ran == "levels" and speed > 0 and device_type in device_types:
            speeds.setdefault(device_type, {})[backbone] = speed
    return speeds


def assumed_pass_seconds(backbone: Backbone, num_images: int, threads: Mapping[str, int]) -> float:
    """Seconds of a pass over `num_images` images with all slots, before anything was measured.

    Args:
        threads: of all slots, by device type.
    """
    return num_images / sum(count * assumed_speed(backbone, name, count) for name, count in threads.items())
