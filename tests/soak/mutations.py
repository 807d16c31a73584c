"""Two thousand mutations of real images: none crashes or hangs, each is decoded or rejected with a reason."""

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
from autotl.data.sandbox import SandboxedDecoder

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
    """Format and bytes of two photographs and a solar cell in each of FORMATS, and of the odd images if present."""
    from skimage import data

    spec = find_spec("elpv_dataset")
    cell = Path(spec.origin).parent / "data" / "images" / "cell0001.png"
    pictures = [Image.fromarray(data.chelsea()).resize((180, 120)), Image.open(cell).resize((96, 96))]
    pictures.append(pictures[0].convert("CMYK"))
    files = []
    for picture in pictures:
        for image_format, variants in FORMATS.items():
            for options in variants:
                file = io.BytesIO()
                try:
                    picture.save(
                        file, image_format, **{key: value for key, value in options.items() if value is not None}
                    )
                except (OSError, ValueError, KeyError):  # not for this mode, or not in this build of Pillow
                    continue
                files.append((image_format, file.getvalue()))
    if ODD.is_dir():
        files += [(path.suffix, path.read_bytes()) for path in sorted(ODD.iterdir()) if path.suffix != ".csv"]
    return files


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Flip, overwrite, truncate, cut out or insert bytes (of another file), in the header more often than elsewhere."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(min(len(changed), 256) if rng.random() < 0.5 else len(changed)))
        length = int(rng.integers(1, 64))
        operation = int(rng.integers(6))
        if operation == 0:
            changed[place] ^= 1 << int(rng.integers(8))
        elif operation == 1:
            changed[place : place + length] = rng.bytes(length)
        elif operation == 2:
            changed[place : place + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")[int(rng.integers(3))]
        elif operation == 3:
            del changed[max(1, place) :]
        elif operation == 4:
            del changed[place : place + length]
        else:
            start = int(rng.integers(len(other)))
            changed[place:place] = other[start : start + length * 8]
        if not changed:
            break
    return bytes(changed)


def run(folder: Path) -> dict:
    """Count the mutations by outcome."""
    rng, sources = np.random.default_rng(0), originals()
    preprocessing = Preprocessing(64, 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
    counts = {"decoded": 0, "rejected": 0, "crashed a decoder": 0, "hung a decoder": 0}
    slowest, file = 0.0, folder / "mutation"
    with SandboxedDecoder() as decoder:
        for _ in range(N):
            content, other = sources[rng.integers(len(sources))][1], sources[rng.integers(len(sources))][1]
            file.write_bytes(mutated(content, other, rng))
            began = time.monotonic()
            try:
                decoder.verify(file)
                assert load_view(file, "", preprocessing).shape == (64, 64, 3)
                counts["decoded"] += 1
            except UndecodableImage as error:
                counts["rejected"] += bool(str(error))
                counts["crashed a decoder"] += "crashes its decoder" in str(error)
                counts["hung a decoder"] += "hangs its decoder" in str(error)
            slowest = max(slowest, time.monotonic() - began)
    return {**counts, "slowest": slowest, "originals": len(sources)}


@by_fire
def mutations_of_real_images(folder: Path) -> Outcome:
    """Run in a child process, so that a crash is reported."""
    process = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=1800)
    if process.returncode:
        return Outcome(f"exit {process.returncode}: {process.stderr.strip()[-300:]}", "no crash", False)
    counts = json.loads(process.stdout)
    return Outcome(
        f"{N:,} mutations of {counts['originals']} images: {counts['decoded']:,} decoded, {counts['rejected']:,} "
        f"rejected, of those {counts['crashed a decoder']} crashed a decoder and {counts['hung a decoder']} hung one; "
        f"the slowest took {counts['slowest']:.1f} s",
        f"no crash, none over {SLOWEST:.0f} s, each decoded or rejected",
        counts["decoded"] + counts["rejected"] == N and counts["slowest"] < SLOWEST,
    )


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]))))
