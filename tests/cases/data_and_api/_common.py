"""What the reproductions share. Run each with a Python that has autotl:
    python NN-name.py        (a Python that has autotl; PYTHONPATH=CLONE tries changed code)
Exit 0: autotl behaves right. 1: it does not. 2: the script itself could not be set up."""
import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
QUICK = dict(trials=1, devices="cpu", backbones=["efficientnet_lite0"], strategies=["fast_extraction"], heads=["logistic_regression"])
QUICK_ARGS = "--trials 1 --devices cpu --backbone efficientnet_lite0 --strategy fast_extraction --head logistic_regression".split()
COLOURS = [(200, 40, 40), (40, 170, 60), (50, 70, 210), (210, 190, 40), (170, 50, 190), (40, 190, 190), (230, 230, 230), (30, 30, 30)]


def work():
    """A folder of its own, which goes at the end; the current folder."""
    folder = Path(tempfile.mkdtemp(prefix="case-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.chdir(folder)
    return folder


def picture(colour, number, size=48):
    """uint8 [size, size, 3]: a colour with noise and a lighter square whose place depends on `number`."""
    rng = np.random.default_rng([*colour, number])
    pixels = np.clip(np.array(colour) + rng.normal(0, 25, (size, size, 3)), 0, 255).astype(np.uint8)
    x, y = rng.integers(0, size - 12, 2)
    pixels[y : y + 12, x : x + 12] = np.clip(pixels[y : y + 12, x : x + 12].astype(int) + 40, 0, 255)
    return pixels


def photos(root, names, n=10, first=0, ext="png"):
    """root/NAME/0.png … for each name; the same position in `names` has the same colour. Returns paths and labels."""
    paths, labels = [], []
    for i, name in enumerate(names):
        folder = Path(root) / name
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(first, first + n):
            path = folder / f"{k}.{ext}"
            Image.fromarray(picture(COLOURS[i % len(COLOURS)], 1000 * (i // len(COLOURS)) + k)).save(path)
            paths.append(str(path))
            labels.append(name)
    return paths, labels


def cli(*args, timeout=900, env=None, cwd=None):
    """autotl on the command line: its return code, and stdout with stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "autotl", *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, timeout=timeout, env={**os.environ, **(env or {})}, cwd=cwd,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def model():
    """A small model of the classes blue, green, red; made once for each autotl and kept in the temporary folder."""
    import autotl

    stamp = hashlib.sha1(f"{autotl.__file__}{os.getuid()}".encode()).hexdigest()[:10]
    folder = Path(tempfile.gettempdir()) / f"case-model-{stamp}"
    if not (folder / "model" / "model.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix="case-"))
        atexit.register(shutil.rmtree, draft, ignore_errors=True)
        photos(draft / "colours", ["red", "green", "blue"])
        code, out = cli("search", draft / "colours", *QUICK_ARGS, "--name", "m", "--output", draft)
        if code:
            print(out)
            sys.exit(2)
        folder.mkdir()
        shutil.copytree(_model_of(draft), folder / "model")
    return folder / "model"


def _model_of(draft):
    return next(p.parent for p in draft.glob("*/model/model.json"))


def right(words=""):
    print("RIGHT", words)
    sys.exit(0)


def wrong(words):
    print("WRONG", words)
    sys.exit(1)


def last(text, n=4):
    return "\n".join(text.strip().splitlines()[-n:])


def stub_search():
    """Puts a stub in the place of the search that ImageClassifier.fit starts: it takes the labelled images, and gives back the
    small model, with as many of its classes as there are labels. Returns a list that grows with each search: the labels it saw."""
    import autotl
    import autotl.classifier as classifier
    from autotl.api import SearchResult

    base, searched = model(), []

    def search(images, **config):
        classes = tuple(sorted({image.label for image in images}))
        searched.append(list(classes))
        loaded = autotl.load(base)
        loaded.classes = classes
        loaded.predict_proba = lambda images: np.tile(np.eye(len(classes))[0], (len(images), 1))
        result = SearchResult(Path("stub"), {"images": {"skipped": 0}})
        result.__dict__["model"] = loaded
        return result

    classifier.search = search
    return searched
