"""The scripts that classify images with an export, without autotl."""

__all__ = ["READ", "script"]

READ = '''def read(path):
    """An image as autotl reads it: upright, on white, a large JPEG at reduced size, deep grey over its range."""
    image = Image.open(path)
    image.draft(None, ({hint}, {hint}))
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, float)
        image = Image.fromarray(((grey - grey.min()) / (np.ptp(grey) or 1) * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
'''

SCRIPT = '''"""Classify images: python example.py photo.jpg … (pip install {requires})"""

import sys
from pathlib import Path

import numpy as np
{imports}
from PIL import Image, ImageOps


{read}

here = Path(__file__).parent
labels = (here / "labels.txt").read_text(encoding="utf-8").splitlines()
{load}
for path in sys.argv[1:]:
{run}
    best = probabilities.argmax()
    print(path, labels[best], f"{{probabilities[best]:.4f}}")
'''


def script(*, requires: str, hint: int, imports: str, load: str, run: str) -> str:
    """The source of an example.

    Args:
        requires: what pip installs for it.
        hint: `ExportedModel.size_hint`.
        imports: the lines that import the runtime.
        load: lines that load the files in the folder `here`.
        run: lines that set `probabilities` [num_classes] for the image at `path`; `read(path)` is a Pillow image.
    """
    indented = "\n".join(f"    {line}" for line in run.splitlines())
    packages = " ".join(dict.fromkeys([*requires.split(), "pillow", "numpy"]))
    return SCRIPT.format(
        requires=packages, imports=imports, read=READ.format(hint=hint), load=load.strip(), run=indented
    )
