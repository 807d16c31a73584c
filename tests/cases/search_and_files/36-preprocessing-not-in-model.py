"""A model's folder holds its networks' weights, but not their preprocessing (size, crop, mean, std): that is asked of timm (or the
plugin) when the model is loaded. Another timm with another pretrained_cfg for that name gives other answers without a word.
Here timm's mean is changed in the process, as an upgrade would."""

from common import *
from models import seal, small_model
import numpy as np

small_model(HERE / "m")
photos(HERE / "p", {"a": 2, "b": 2})
pictures = sorted((HERE / "p").glob("*/*"))
import autotl

before = autotl.load(HERE / "m").predict_proba(pictures)
code = """
import sys, dataclasses
sys.path.insert(0, sys.argv[1])
from common import *
from models import seal, small_model
import numpy as np, timm.models, autotl
sound = timm.models.get_pretrained_cfg
def other(name, **more):
    found = sound(name, **more)
    return dataclasses.replace(found, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) if found else found
timm.models.get_pretrained_cfg = other
try:
    print(json.dumps(autotl.load(sys.argv[2]).predict_proba(sys.argv[3:]).tolist()))
except autotl.AutotlError if hasattr(autotl, "AutotlError") else Exception as error:
    print(json.dumps(str(error)))
"""
done = subprocess.run(
    [
        str(VENV / "bin" / "python"),
        "-W",
        "ignore",
        "-c",
        code,
        str(Path(__file__).resolve().parent),
        str(HERE / "m"),
        *map(str, pictures),
    ],
    capture_output=True,
    text=True,
)
after = json.loads(done.stdout.splitlines()[-1])
off = 0.0 if isinstance(after, str) else float(np.abs(np.array(after) - before).max())
verdict(
    off < 1e-3,
    f"probabilities differ by up to {off:.3f}, and nothing is said"
    if off
    else f"{after if isinstance(after, str) else 'the same'}",
)
