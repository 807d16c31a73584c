"""The model folder's README.md: a model card in the Hub's format, readable by a person first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotl.atomic_io import format_bytes, read_json, write_atomically
from autotl.escaping import escape, escape_markdown
from autotl.model.manifest import ModelManifest, read_member_manifest, read_model_manifest, write_manifest

__all__ = ["add_results", "write_card"]

MAX_CLASSES = 30
"""Names of classes that the card lists."""


def add_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Add what a search found out about a saved model to the `about` of its `model.json`, and to its card.

    Args:
        results: names of `about`: `test` and `baseline` (scores by name), `intervals`, `date`, `data`, `images`,
            `split`, `seconds`. Values that JSON doesn't have are not allowed.
    """
    content = read_json(folder / "model.json")
    content.pop("digest", None)
    content["about"] = {**content["about"], **results}
    write_manifest(folder / "model.json", content)
    write_card(folder)


def write_card(folder: Path) -> None:
    """Write README.md from the JSON files of a model's folder."""
    manifest = read_model_manifest(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "README.md")
    write_atomically(folder / "README.md", _card(folder, manifest, size).encode(errors="backslashreplace"))


def _card(folder: Path, manifest: ModelManifest, size: int) -> str:
    about = manifest.about
    name = escape(about.get("study") or folder.absolute().name)
    sections = [
        f"# {escape_markdown(name)}",
        _introduction(manifest, size),
        "## How good it is",
        *_scores(about),
        "## How to use it",
        _usage(),
        "## What it is made of",
        _members(folder, manifest),
        _backbones(manifest),
        "## Limits and licences",
        *_limits(manifest),
    ]
    return f"---\n{_metadata(name, manifest)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(name: str, manifest: ModelManifest) -> str:
    """The card's YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    about = manifest.about
    data = escape(about.get("data") or "the user's images")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="imagefolder",
            dataset_name=data,
            dataset_split="test",
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(value, 4),
        )
        for metric, value in (about.get("test") or {}).items()
        if metric != "n" and isinstance(value, float)
    ]
    card = ModelCardData(
        license="other",  # the weights' licence alone isn't the model's: the training images have one, too
        license_name="see-limits-and-licences",
        library_name="autotl",
        pipeline_tag="image-classification",
        tags=["image-classification", "transfer-learning", "autotl"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml()).strip()


def _introduction(manifest: ModelManifest, size: int) -> str:
    classes = [escape_markdown(name) for name in manifest.classes[:MAX_CLASSES]]
    rest = len(manifest.classes) - len(classes)
    listed = ", ".join(classes) + (f" and {rest:,} more" if rest else "")
    members = "one member" if manifest.members == 1 else f"the average of {manifest.members} members"
    return (
        f"A classifier of images into {len(manifest.classes):,} classes: {listed}. It is {members}, found by a search "
        f"of autotl {escape_markdown(manifest.versions.get('autotl', ''))}; its files take {format_bytes(size)}."
    )


def _scores(about: Mapping[str, Any]) -> list[str]:
    test, baseline = about.get("test"), about.get("baseline") or {}
    if not test:
        return [
            "It wasn't tested: there were no test images, or no time for them. `autotl evaluate` scores it on yours."
        ]
    intervals = about.get("intervals") or {}
    rows = []
    for metric, value in test.items():
        if metric == "n" or value is None:
            continue
        interval = intervals.get(metric) or {}
        span = f"{interval['low']:.3f} to {interval['high']:.3f}" if "low" in interval else "–"
        given = f"{baseline[metric]:.3f}" if baseline.get(metric) is not None else "–"
        rows.append((metric.replace("_", " "), f"{value:.3f}", span, given))
    lines = []
    if isinstance(test.get("accuracy"), float):
        right = round(100 * test["accuracy"])
        lines.append(
            f"Of 100 new images like those it was tested on, about {right} are classified right. It was tested once, "
            f"on {test['n']:,.0f} images that trained and selected nothing."
        )
    table = _table(("score", "model", "95 % interval", "always the most frequent class"), rows)
    return [*lines, table, *_provenance(about)]


def _provenance(about: Mapping[str, Any]) -> list[str]:
    facts = []
    if about.get("data"):
        facts.append(f"Data: {escape_markdown(about['data'])}.")
    if images := about.get("images"):
        counts = ", ".join(f"{count:,} {escape_markdown(subset)}" for subset, count in images.items())
        facts.append(f"Images: {counts}.")
    for subset, digest in (about.get("split") or {}).items():
        facts.append(f"Digest of the {escape_markdown(subset)} images: `{escape_markdown(digest)}`.")
    if about.get("date"):
        facts.append(f"Made on {escape_markdown(about['date'])}, in {about.get('seconds') or 0:,.0f} s of search.")
    return ["  \n".join(facts)] if facts else []


def _usage() -> str:
    return (
        "With autotl installed:\n\n```sh\n"
        "autotl predict FOLDER photo.jpg            # FOLDER is the folder of this file\n"
        "autotl export FOLDER --to onnx --check photos/   # for programs without autotl\n"
        "```\n\n"
        '```python\nimport autotl\n\nmodel = autotl.load("FOLDER")\nmodel.predict(["photo.jpg"])\n```'
    )


def _members(folder: Path, manifest: ModelManifest) -> str:
    rows = []
    for number in range(manifest.members):
        member = read_member_manifest(folder / "members" / str(number))
        recipe = member.recipe
        validation = "–" if member.validation is None else f"{member.validation:.3f}"
        cells = (recipe.backbone, recipe.strategy, recipe.head, member.levels)
        rows.append((*map(escape_markdown, cells), f"{member.weight:.3f}", validation))
    return _table(("backbone", "strategy", "head", "features", "weight", "validation"), rows)


def _backbones(manifest: ModelManifest) -> str:
    rows = []
    for backbone in manifest.backbones:
        prepared = backbone.preprocessing
        how = "both sides" if prepared.squash else "the shorter side"
        mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (prepared.mean, prepared.std))
        resized = (
            f"{how} to {prepared.size / prepared.crop:.0f} px ({prepared.interpolation}), middle {prepared.size} px"
        )
        cells = (backbone.name, backbone.license, backbone.pretrained_on, f"{resized}; mean {mean}, std {std}")
        rows.append(tuple(map(escape_markdown, cells)))
    return _table(("backbone", "licence of the weights", "pretrained on", "preprocessing"), rows)


def _limits(manifest: ModelManifest) -> list[str]:
    lines = [
        "It names one of its classes for every image, also for one that shows none of them. Its scores hold for images "
        "that are made as those of the search were: with other cameras, places or times they can be worse. Try it on "
        "images of your own first (`autotl evaluate`).",
        "The weights of the backbones keep their licences, see above. The licence of the training images isn't known "
        "to autotl: ask whoever gave them before you pass the model on.",
    ]
    made = ", ".join(
        f"{escape_markdown(name)} {escape_markdown(version)}" for name, version in manifest.versions.items()
    )
    return [*lines, f"Made with {made}."]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
