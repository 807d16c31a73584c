"""What alignment means, in at most six sentences for a person, each with the number behind it."""

from collections.abc import Sequence
from typing import Literal

from autotl.alignment.card import Card, Verdict

__all__ = ["FAR_RATIO", "blocks_to_retrain", "sentences", "symmetry_of", "unfreeze_of", "verdict_of"]

FAR_RATIO = 4.3
"""Channel statistics this many times as far as those of ordinary photographs make images far. Chosen with lite0 on
scikit-image's own images: its photographs, also shrunk to 32 pixels or grey, have at most 4.0 (rocket); a page, a text,
the moon, cells, a retina, galaxies and a phantom at least 4.7. Two are on the wrong side: a stained section 2.1, a
blurred clock 8.3."""
NEAR_RATIO = 2.0
"""Below this the last blocks see what they see in ordinary photographs, also small or blurred ones (0.9 to 1.3)."""
MAX_RETRAINED = 3
"""Blocks that are advised at most: with few images more of them overfit."""
MIN_RETRAINED = 1000
"""Images from which on retraining is advised at all."""
MIN_GAIN = 0.01
"""Accuracy that a doubling of the images has to promise before more images are advised."""


def verdict_of(card: Card) -> Verdict:
    """Whether our images are near those that the network was pretrained on: by its batch norms' statistics, or, where
    these are unknown, by whether an inner level beats the output by more than a standard error."""
    if card.norm_ratio is not None:
        return "far" if card.norm_ratio >= FAR_RATIO else "near"
    return "far" if card.gap > card.gap_error else "near"


def blocks_to_retrain(card: Card, num_images: int) -> int:
    """How many of the last blocks to retrain: those after the best level, where it beats the output by more than a
    standard error; one where only the statistics are far; none where frozen features are as near as they get, or where
    the images are too few to train blocks on.

    Args:
        num_images: all that could be sampled.
    """
    if num_images < MIN_RETRAINED:
        return 0
    if card.gap > card.gap_error and card.gap > 0:
        return min(MAX_RETRAINED, max(1, card.num_blocks - card.peak))
    return 1 if verdict_of(card) == "far" else 0


def unfreeze_of(card: Card) -> Literal["last", "first"]:
    """Which blocks to retrain: the first ones where their statistics are far and those of the last ones are not, which
    means that the images show the usual things in unusual colours, noise or sharpness (surgical fine-tuning, Lee et
    al., ICLR 2023)."""
    ends = card.norm_ratios_of_ends
    return "first" if ends and ends[0] >= FAR_RATIO and ends[1] < NEAR_RATIO and verdict_of(card) == "far" else "last"


def symmetry_of(card: Card) -> Literal["", "none", "flips", "turns"]:
    """The largest group of symmetries that keep the neighbours' label; "" where that wasn't measured."""
    holds = {invariance.name: invariance.holds for invariance in card.invariances or ()}
    if holds.get("turn") and holds.get("flip", True):
        return "turns"
    if "flip" not in holds:
        return ""
    return "flips" if holds["flip"] else "none"


def sentences(card: Card, others: Sequence[Card], num_images: int) -> tuple[str, ...]:
    """At most six: what the network was trained on, how near our images are, what to expect of frozen features, what to
    retrain, what would help most, and the runner-up.

    Args:
        card: the best predicted backbone's.
        others: the other cards, the best predicted one first.
        num_images: all that could be sampled.
    """
    return tuple(
        filter(
            None,
            (
                _origin(card),
                _nearness(card),
                f"With frozen features expect an accuracy of about {card.probe:.1%} ± {card.probe_error:.1%} (ridge "
                f"regression, each of {card.num_images:,} images predicted without itself).",
                _retraining(card, num_images),
                _help(card, num_images),
                _runner_up(card, others),
            ),
        )
    )


def _origin(card: Card) -> str:
    source = card.pretrained_on if card.pretrained_on != "unknown" else "images that its weights don't name"
    text = f"{card.backbone} was trained on {source}"
    if not card.seen:
        return f"{text}; its own classifier isn't here, so what it sees in {len(card.counts)} classes is unknown."
    surest = max(card.seen, key=lambda seen: seen.share * seen.confidence)
    return (
        f"{text}: in {surest.label} it sees {surest.answer} ({surest.share:.0%} of the images, with a mean probability "
        f"of {surest.confidence:.0%})."
    )


def _nearness(card: Card) -> str:
    gap = f"{100 * card.gap:+.1f} ± {100 * card.gap_error:.1f} points"
    inner = f"the best inner level is {gap} against the output by nearest neighbours"
    verdict = verdict_of(card)
    if (card.gap > card.gap_error) != (verdict == "far"):
        inner += ", which alone would say otherwise"
    if card.norm_ratio is None:
        return f"Your images look {verdict}: {inner} (the statistics of its batch norms are unknown)."
    return (
        f"Your images are {verdict}: their channel statistics lie {card.norm_ratio:.1f} times as far from the stored "
        f"ones as those of ordinary photographs (far from {FAR_RATIO:g} on), and {inner}."
    )


def _retraining(card: Card, num_images: int) -> str:
    blocks, augmentation = blocks_to_retrain(card, num_images), _augmentation(card)
    if not blocks and blocks_to_retrain(card, MIN_RETRAINED):
        few = f"{num_images:,} images are few, and a classifier on the features of all levels does as well"
        return f"Retraining promises little: {few} (retrain from {MIN_RETRAINED:,} images on){augmentation}."
    if not blocks:
        few = f"the output is the best of {len(card.levels)} levels within its error"
        return f"Retraining promises little: {few}{augmentation}."
    if unfreeze_of(card) == "first":
        first, last = card.norm_ratios_of_ends or (0.0, 0.0)
        return (
            f"Retrain the first {_count(blocks)} of {card.num_blocks}: the statistics of the first third are "
            f"{first:.1f} times as far as those of photographs, of the last third {last:.1f} times{augmentation}."
        )
    if card.gap > card.gap_error:
        best = max(level.accuracy for level in card.levels)
        return (
            f"Retrain the last {_count(blocks)} of {card.num_blocks}: accuracy by depth peaks after block {card.peak}, "
            f"at {best:.1%}, and the output has {card.levels[-1].accuracy:.1%}{augmentation}."
        )
    return (
        f"Retrain at least the last {_count(blocks)} of {card.num_blocks}: inner levels are no better (gap "
        f"{100 * card.gap:+.1f} points), and the statistics are far{augmentation}."
    )


def _count(blocks: int) -> str:
    return "block" if blocks == 1 else f"{blocks} blocks"


def _augmentation(card: Card) -> str:
    """Which symmetries augmentation may use, as the end of a sentence."""
    if not (symmetry := symmetry_of(card)):
        return ""
    told = {
        "turns": "flips and quarter turns keep the neighbours' label",
        "flips": "flips keep the neighbours' label, quarter turns don't",
        "none": "flips move the neighbours' label, so augment without them",
    }[symmetry]
    shares = ", ".join(f"{i.plain:.0%} right, {i.changed:.0%} after a {i.name}" for i in card.invariances or ())
    return f"; {told} ({shares})"


def _help(card: Card, num_images: int) -> str:
    """Images of which class would help most, or what else would."""
    weakest = min(card.recalls, key=lambda label: (card.recalls[label], label))
    gain = doubling_gain(card)
    if gain >= MIN_GAIN:
        return (
            f"Twice as many images promise about {100 * gain:+.1f} points (from {card.probe_half:.1%} with half of the "
            f"sample to {card.probe:.1%}); begin with {weakest}, of which {card.recalls[weakest]:.0%} are right."
        )
    if verdict_of(card) == "far":
        return (
            f"More images promise less than {100 * MIN_GAIN:.0f} point ({card.probe_half:.1%} with half of the sample, "
            f"{card.probe:.1%} with all): try a backbone from your images' own domain, or higher resolution."
        )
    return (
        f"More images promise less than {100 * MIN_GAIN:.0f} point ({card.probe_half:.1%} with half of the sample, "
        f"{card.probe:.1%} with all): look at the labels of {weakest}, of which {card.recalls[weakest]:.0%} are right."
    )


def doubling_gain(card: Card) -> float:
    """The accuracy that twice as many images promise: errors that fell by a factor from half of the sample to all of it
    fall by that factor again (a power law, Hestness et al., Deep learning scaling is predictable, 2017)."""
    half, whole = 1 - card.probe_half, 1 - card.probe
    if half <= 0 or whole <= 0:
        return 0.0
    return max(0.0, whole - whole * min(1.0, whole / half))


def _runner_up(card: Card, others: Sequence[Card]) -> str:
    if not others:
        return ""
    second = others[0]
    expected = f"{second.predicted:.1%} ± {second.predicted_error:.1%}"
    return (
        f"Second of {1 + len(others)} backbones is {second.backbone}, of which {expected} is expected after "
        f"{second.num_images:,} images."
    )
