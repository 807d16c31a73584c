"""How much memory an extraction takes at its peak, in a process of its own.

`python tests/bench/memory.py N FOLDER` is that process: it records features of N images (the solar cells again and
again, each time under another digest) and prints its peak in MiB.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np

BACKBONE = "test_efficientnet"
"""timm's smallest EfficientNet, 160 px: its features are worth nothing, and an image takes what decoding takes."""
FEW, MANY = 2_000, 50_000
MOST = 300
"""MiB that the many may take more than the few."""


def peak_of(n: int, folder: Path) -> float:
    command = [sys.executable, __file__, str(n), str(folder)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main(n: int, folder: Path) -> None:
    import timm
    import torch
    from rows import Ground, whole
    from safetensors.torch import save_file

    from autotl.data.dataset import ImageDataset

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_file(timm.create_model(BACKBONE).state_dict(), weights)
    ground = Ground(folder, f"{BACKBONE}@{weights}")
    real = ground.registry.datasets["elpv"].images("elpv")
    paths = tuple(real[i % len(real)].path for i in range(n))
    digests = tuple(hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest() for i in range(n))
    dataset = ImageDataset("cells", ("a", "b"), paths, np.arange(n) % 2, digests, ("",) * n, ("",) * n)
    features = ground.extractor(dataset, whole(dataset), folder / "store").of(ground.backbone)
    assert len(features.levels("train", "last")) == n
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


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
