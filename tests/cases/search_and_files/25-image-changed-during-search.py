"""Images change on the disk between the check and the extraction (a sync, an export that still runs): the features of the new
bytes are recorded under the digest of the old ones. The cache is wrong from then on, for every later search on the
original images, without a word. Right is an error (or a miss), or rows that belong to their bytes."""
from common import *
import numpy as np, timm, torch
from safetensors.torch import save_file

torch.set_num_threads(1)
torch.manual_seed(0)
save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), HERE / "w.safetensors")
from autotl.backbones.timm import TimmBackbone
from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.engines.torch import TorchEngine
from autotl.features.extractor import FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.registry import load_registry

photos(HERE / "p", {"red": 12, "blue": 12})
shutil.copytree(HERE / "p", HERE / "original")
sources = load_registry().datasets

def features(folder, store, between=lambda: None):
    dataset = load_dataset(str(folder), sources)
    split = make_split(dataset, 0, "none")
    between()
    extractor = FeatureExtractor(dataset, split, FeatureStore(store), FeatureStore(HERE / "scratch"), TorchEngine(bf16=False), "cpu", 1)
    rows = extractor.of(TimmBackbone(f"test_resnet@{HERE / 'w.safetensors'}")).levels("train", "last")
    return dict(zip((dataset.digests[i] for i in split.train), rows))

def swap():
    for red, blue in zip(sorted((HERE / "p" / "red").iterdir()), sorted((HERE / "p" / "blue").iterdir())):
        a, b = red.read_bytes(), blue.read_bytes()
        red.write_bytes(b)
        blue.write_bytes(a)

truth = features(HERE / "original", HERE / "clean")
try:
    features(HERE / "p", HERE / "shared", swap)
except Exception as error:
    verdict(True, f"it says so: {type(error).__name__}: {error}"[:200])
later = features(HERE / "original", HERE / "shared")  # another search, on images that never changed
wrong = sum(not np.allclose(later[d], truth[d], atol=1e-2) for d in truth)
verdict(wrong == 0, f"{wrong} of {len(truth)} rows that a later search reads from the cache are another image's")
