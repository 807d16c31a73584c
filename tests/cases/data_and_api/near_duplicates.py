"""Images that come with copies: what is found, what autotl's own split tears, what the search says.

    python near_duplicates.py HYMENOPTERA_TRAIN_FOLDER

Exit 0 where every pair is found and none is torn, at every share of copies. Written against 072afef; names may have changed.
"""
import sys
import tempfile
from pathlib import Path

from PIL import Image


def build(source: Path, root: Path, share: float) -> int:
    """100 images of each class at up to 256 px; for the first `share` of them also a copy at 3/4 of the size, JPEG quality 60."""
    pairs = 0
    for name in ("ants", "bees"):
        (root / name).mkdir(parents=True)
        files = sorted((source / name).glob("*.jpg"))[:100]
        for i, file in enumerate(files):
            image = Image.open(file).convert("RGB")
            image.thumbnail((256, 256))
            image.save(root / name / f"{i:03}.png")
            if i < share * len(files):
                image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(root / name / f"{i:03}-copy.jpg", quality=60)
                pairs += 1
    return pairs


def main() -> int:
    from autotl.data.loading import load_dataset
    from autotl.data.splits import make_split
    from autotl.registry import load_registry

    wrong = 0
    for share in (0.1, 0.25, 0.45, 0.55, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            pairs = build(Path(sys.argv[1]), Path(folder), share)
            data = load_dataset(folder, load_registry().datasets)
            split = make_split(data, 0)
            subset = {int(i): name for name in ("train", "validation", "test") for i in getattr(split, name)}
            by_image: dict[str, list[int]] = {}
            for i, path in enumerate(data.paths):
                by_image.setdefault(f"{path.parent.name}/{path.stem[:3]}", []).append(i)
            torn = sum(len({subset[i] for i in rows}) > 1 for rows in by_image.values())
            flattered = sum(any(subset[j] != "test" for j in by_image[f"{data.paths[i].parent.name}/{data.paths[i].stem[:3]}"]) for i in split.test)
            found = {finding.code: finding.count for finding in data.findings if "near_duplicates" in finding.code}
            print(f"{share:4.0%} with a copy: {pairs} pairs, found {found}, torn {torn}, test images whose copy is trained on {flattered} of {len(split.test)}")
            wrong += torn > 0 or sum(found.values()) < pairs
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
