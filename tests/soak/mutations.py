"""Two thousand mutations of real images: none crashes or hangs us, each is decoded or named."""

import io
import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from fire import Outcome, by_fire
from PIL import Image

from autotl.backbones.base import Preprocessing
from autotl.data.decoding import UndecodableImage
from autotl.data.preprocessing import load_view
from autotl.data.sandbox import Readers

N = 2000
SLOWEST = 5.0
ODD = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "odd-images"
FORMATS: dict[str, list[dict]] = {
    "JPEG": [{"quality": 80}, {"progressive": True}],
    "PNG": [{}, {"interlace": 1}],
    "TIFF": [{"compression": c} for c in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")],
    "WEBP": [{}, {"lossless": True}],
    "GIF": [{}],
    "BMP": [{}],
    "AVIF": [{}],
    "JPEG2000": [{}],
    "TGA": [{"compression": "tga_rle"}],
    "PPM": [{}],
    "ICO": [{}],
    "PCX": [{}],
    "SGI": [{}],
}


def originals() -> list[tuple[str, bytes]]:
    """Real photographs and cells in every format that is written here, and Pillow's odd ones where they are."""
    from skimage import data

    spec = find_spec("elpv_dataset")
    cell = Path(spec.origin).parent / "data" / "images" / "cell0001.png"
    pictures = [Image.fromarray(data.chelsea()).resize((180, 120)), Image.open(cell).resize((96, 96))]
    pictures.append(pictures[0].convert("CMYK"))
    found = []
    for picture in pictures:
        for kind, settings in FORMATS.items():
            for more in settings:
                file = io.BytesIO()
                try:
                    picture.save(file, kind, **{key: value for key, value in more.items() if value is not None})
                except (OSError, ValueError, KeyError):  # this mode can't be written so, or this Pillow can't
                    continue
                found.append((kind, file.getvalue()))
    if ODD.is_dir():
        found += [(path.suffix, path.read_bytes()) for path in sorted(ODD.iterdir()) if path.suffix != ".csv"]
    return found


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, overwritten, cut off, cut out, or another file's spliced in; headers more often than the rest."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(min(len(changed), 256) if rng.random() < 0.5 else len(changed)))
        length = int(rng.integers(1, 64))
        what = int(rng.integers(6))
        if what == 0:
            changed[place] ^= 1 << int(rng.integers(8))
        elif what == 1:
            changed[place : place + length] = rng.bytes(length)
        elif what == 2:
            changed[place : place + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")[int(rng.integers(3))]
        elif what == 3:
            del changed[max(1, place) :]
        elif what == 4:
            del changed[place : place + length]
        else:
            start = int(rng.integers(len(other)))
            changed[place:place] = other[start : start + length * 8]
        if not changed:
            break
    return bytes(changed)


def run(folder: Path) -> dict:
    """What became of each mutation."""
    rng, sources = np.random.default_rng(0), originals()
    seen = Preprocessing(64, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
    counts = {"decoded": 0, "named": 0, "crashed a reader": 0, "hung a reader": 0}
    slowest, file = 0.0, folder / "mutation"
    with Readers() as readers:
        for _ in range(N):
            content, other = sources[rng.integers(len(sources))][1], sources[rng.integers(len(sources))][1]
            file.write_bytes(mutated(content, other, rng))
            began = time.monotonic()
            try:
                readers.verify(file)
                assert load_view(file, "", seen).shape == (64, 64, 3)
                counts["decoded"] += 1
            except UndecodableImage as error:
                counts["named"] += bool(str(error))
                counts["crashed a reader"] += "crashes its reader" in str(error)
                counts["hung a reader"] += "hung" in str(error)
            slowest = max(slowest, time.monotonic() - began)
    return {**counts, "slowest": slowest, "originals": len(sources)}


@by_fire
def mutations_of_real_images(folder: Path) -> Outcome:
    """In a process of its own, so that a crash is seen."""
    process = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=1800)
    if process.returncode:
        return Outcome(f"exit {process.returncode}: {process.stderr.strip()[-300:]}", "no crash", False)
    found = json.loads(process.stdout)
    return Outcome(
        f"{N:,} mutations of {found['originals']} images: {found['decoded']:,} decoded, {found['named']:,} named, of "
        f"those {found['crashed a reader']} crashed a reader and {found['hung a reader']} hung one; the slowest "
        f"took {found['slowest']:.1f} s",
        f"no crash, none over {SLOWEST:.0f} s, each decoded or named",
        found["decoded"] + found["named"] == N and found["slowest"] < SLOWEST,
    )


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
