"""The images seen by the model: a map of their features, and how trials agree on them."""

import base64
from collections.abc import Sequence

import numpy as np

from autotl.page.base import Card, Element, Figure, Gallery, Picture, Text
from autotl.page.charts import Point, Series, curves, scatter
from autotl.report.record import SearchRecord

__all__ = ["cartography_section", "feature_map_section"]

MAX_POINTS = 500
MAX_HOVER = 300
"""Points whose image is in the page."""
HOVER_SIDE = 48
PERPLEXITY = 30.0
TSNE_SECONDS = 4.0
"""What t-SNE of MAX_POINTS takes on a slow, busy core; with less time left the map is a projection on two axes."""
MIN_TRIALS = 3
NUM_HARD = 8
MAX_LEGEND = 12


def feature_map_section(search: SearchRecord) -> Sequence[Element]:
    """A map of the images."""
    known, features = search.known
    if len(known) < 10 or search.dataset is None:
        return []
    tested = search.features_of_test
    images, rows = known, features
    if search.tested is not None and len(tested):
        images = np.concatenate([known, search.tested.images[: len(tested)]])
        rows = np.concatenate([features, tested])
    wrong = _wrong_images(search)
    chosen = _sample(images, wrong)
    places, how = _project(rows[chosen], search.deadline.remaining())
    images = images[chosen]
    labels = search.dataset.labels[images]
    points = []
    for number, (image, label, (x, y)) in enumerate(zip(images, labels, places, strict=True)):
        name, guess = search.classes[label], wrong.get(int(image))
        picture = (
            search.thumbnails.get(int(image), HOVER_SIDE, square=True, reserve=1.0) if number < MAX_HOVER else None
        )
        title = f"{search.name_of(int(image))}: {name}" + (f", predicted as {guess}" if guess else "")
        uri = f"data:image/webp;base64,{base64.b64encode(picture).decode()}" if picture else ""
        points.append(Point(float(x), float(y), int(label), title, uri, mistake=guess is not None))
    points.sort(key=lambda point: point.mistake)
    shown = [(int(c), search.classes[c]) for c in np.unique(labels)]
    legend = dict(shown) if len(shown) <= MAX_LEGEND else {}
    colours = "" if legend else f" There are {len(shown)} classes: a colour stands for several."
    backbone = search.feature_backbone[0]
    figure = Figure(
        scatter(points, legend, aspect=0.8),
        f"A map of {len(points)} images of {len(shown)} classes by the features of {backbone}; "
        f"{sum(p.mistake for p in points)} are marked as mistakes of the model.",
        f"{len(points):,} images by {how} of the features of {backbone}, recorded before anything was trained. "
        "Near is similar; a red ring is a mistake on an image that was not trained on. Rest the pointer on a point to "
        f"see its image.{colours}",
        wide=True,
    )
    return [figure]


def _wrong_images(search: SearchRecord) -> dict[int, str]:
    """The predicted class of each image that is predicted wrongly, by the image's index."""
    wrong = {}
    for held_out in (search.validated, search.tested):
        if held_out is not None:
            labels = search.labels(held_out)
            for position in np.flatnonzero(held_out.predicted != labels):
                wrong[int(held_out.images[position])] = search.classes[held_out.predicted[position]]
    return wrong


def _sample(images: np.ndarray, wrong: dict[int, str]) -> np.ndarray:
    """Positions of at most MAX_POINTS images, in random order; up to a third of them mistakes."""
    order = np.random.default_rng(0).permutation(len(images))
    if len(images) <= MAX_POINTS:
        return order
    is_wrong = np.isin(images[order], list(wrong))
    first = order[is_wrong][: MAX_POINTS // 3]
    rest = order[~is_wrong][: MAX_POINTS - len(first)]
    return np.random.default_rng(1).permutation(np.concatenate([first, rest]))


def _project(features: np.ndarray, seconds: float) -> tuple[np.ndarray, str]:
    """Places in two dimensions [n, 2], and the name of the method."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # on busy cores OpenMP's threads wait for each other ten times longer than they compute
        reduced = PCA(min(30, *features.shape), random_state=0).fit_transform(features)
        if seconds < TSNE_SECONDS or len(features) < 20:
            return reduced[:, :2], "the first two principal components"
        perplexity = min(PERPLEXITY, (len(features) - 1) / 4)
        tsne = TSNE(perplexity=perplexity, init="pca", max_iter=400, random_state=0, n_jobs=1)
        return np.asarray(tsne.fit_transform(reduced)), "t-SNE"


def cartography_section(search: SearchRecord) -> Sequence[Element]:
    """Easy, ambiguous and hard images."""
    trials = list(search.trial_probabilities.values())
    if len(trials) < MIN_TRIALS or search.split is None or search.dataset is None:
        return []
    images = search.split.validation
    labels = search.dataset.labels[images]
    given = np.stack([p[np.arange(len(labels)), labels] for p in trials])
    mean, spread = given.mean(0), given.std(0)
    right = np.stack([p.argmax(1) == labels for p in trials]).mean(0)
    groups = {
        "most trials right": right >= 2 / 3,
        "trials disagree": (right > 1 / 3) & (right < 2 / 3),
        "most trials wrong": right <= 1 / 3,
    }
    sample = np.zeros(len(labels), bool)
    sample[np.random.default_rng(0).permutation(len(labels))[:1200]] = True
    series = [Series(name, spread[g & sample], mean[g & sample], dots=True) for name, g in groups.items()]
    svg = curves(series, ("spread over trials", "mean probability of the label"), y=(-0.03, 1.03))
    counts = ", ".join(f"{name}: {int(group.sum()):,}" for name, group in groups.items())
    hard = np.argsort(mean)[:NUM_HARD]
    cards = []
    for position in hard:
        image = int(images[position])
        content = search.thumbnails.get(image, 112)
        pictures = (Picture(content, f"The image {search.name_of(image)}", large=True),) if content else ()
        line = f"mean probability {mean[position]:.1%}, {right[position]:.0%} of the trials right"
        cards.append(Card(search.classes[labels[position]], pictures, (line, search.name_of(image))))
    return [
        Text(
            f"Each validation image by what {len(trials)} trials make of it: top left are easy images; on the right "
            "trials disagree, and more images like these teach most; bottom left are images that nearly all trials "
            "get wrong, among them wrong labels. (Swayamdipta et al., EMNLP 2020, there over epochs.)"
        ),
        Figure(svg, f"Mean and spread of the label's probability over {len(trials)} trials. {counts}.", counts),
        Text("The images that trials get wrong most:"),
        Gallery(tuple(cards)),
    ]
