"""How much memory an extraction takes at its peak, in a process of its own.

`python tests/bench/memory.py N FOLDER` is that process: it writes N images (the same few solar cells again and again,
each time with another comment and so another digest), records their features, and prints its peak in MiB.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

BACKBONE = "test_efficientnet"
"""timm's smallest EfficientNet, 160 px: its features are worth nothing, and an image takes what decoding takes."""
FEW, MANY = 2_000, 50_000
MOST = 300
"""MiB that the many may take more than the few."""
CELLS, SIDE = 100, 160
"""Solar cells that are written again and again, and their size in pixels: 50,000 files take 200 MB."""


def peak_of(n: int, folder: Path) -> float:
    command = [sys.executable, __file__, str(n), str(folder)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main(n: int, folder: Path) -> None:
    import timm
    import torch
    from rows import Ground, whole
    from safetensors.torch import save_file

    from autotl.data.dataset import ImageDataset
    from autotl.data.digests import digest_file

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_file(timm.create_model(BACKBONE).state_dict(), weights)
    ground = Ground(folder, f"{BACKBONE}@{weights}")
    paths = write_images([image.path for image in ground.registry.datasets["elpv"].images("elpv")], n, folder)
    digests = tuple(map(digest_file, paths))
    dataset = ImageDataset("cells", ("a", "b"), paths, np.arange(n) % 2, digests, ("",) * n, ("",) * n)
    features = ground.extractor(dataset, whole(dataset), folder / "store").of(ground.backbone)
    assert len(features.levels("train", "last")) == n
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def write_images(cells: list[Path], n: int, folder: Path) -> tuple[Path, ...]:
    """Write `n` images to `folder`, no two with the same bytes."""
    from PIL import Image

    pictures = [Image.open(cell).convert("L").resize((SIDE, SIDE)) for cell in cells[:CELLS]]
    paths = tuple(folder / f"{number}.jpg" for number in range(n))
    for number, path in enumerate(paths):
        pictures[number % CELLS].save(path, comment=str(number))
    return paths


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
else:
    from rows import Ground, Row, work

    @work
    def memory(ground: Ground) -> list[Row]:
        """The peak of a process that records many images, less that of one that records few."""
        few, many = (min(n, ground.images or n) for n in (FEW, MANY))
        with ground.scratch() as folder:
            more = peak_of(many, folder / "many") - peak_of(few, folder / "few")
        work = f"peak memory, extracting {many:,} images beyond {few:,} ({BACKBONE})"
        return [Row(work, None, more, "MiB", None, f"≤ {MOST} MiB", more <= MOST)]
