"""Real images for every test: solar cells from the elpv-dataset package, and a cache that the whole run shares."""

import csv
import gc
import os
import shutil
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# trials beside tests share two cores: more threads than that only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish():
    """A trial collects garbage at its end, as in a worker, where the objects of the libraries are left out too."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Features and engines are kept for the run's length, and never beside the user's own."""
    folder = tmp_path_factory.getbasetemp().parent / "autotl-cache"  # one for all of pytest-xdist's processes
    before = os.environ.get("AUTOTL_CACHE")
    os.environ["AUTOTL_CACHE"] = str(folder)
    yield folder
    os.environ.pop("AUTOTL_CACHE")
    if before:
        os.environ["AUTOTL_CACHE"] = before


@pytest.fixture(scope="module", autouse=True)
def without_boosting():
    """Searches of the core's tests without the plugin of gradient boosting, which takes half of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTL_PLUGINS", "no:gbdt")
        yield


@pytest.fixture(scope="session")
def cells(tmp_path_factory):
    """Class folders with 60 functional and 60 defective solar cells."""
    spec = find_spec("elpv_dataset")
    source = Path(spec.origin).parent / "data"
    folder = tmp_path_factory.mktemp("images") / "cells"
    left = {"1.0": 60, "0.0": 60}
    with (source / "labels.csv").open() as file:
        for name, probability, _ in csv.reader(file, delimiter=" ", skipinitialspace=True):
            if left.get(probability, 0):
                left[probability] -= 1
                target = folder / ("defective" if probability == "1.0" else "functional") / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, target)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny("test_resnet")`: a timm backbone that trains within a test, its weights in a file from a fixed seed."""
    folder = tmp_path_factory.mktemp("weights")

    def find(name):
        import timm
        import torch
        from safetensors.torch import save_file
        from skimage import data

        from autotl.backbones.timm import autotl_find_backbone

        file = folder / f"{name}.safetensors"
        if not file.exists():
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                network = timm.create_model(name).train()
                for norm in (m for m in network.modules() if hasattr(m, "running_mean")):
                    norm.momentum = None  # statistics that fit, as a pretrained network's do
                photograph = torch.from_numpy(data.astronaut()[:480, :480]).float().permute(2, 0, 1) / 128 - 1
                network(photograph.reshape(3, 3, 160, 3, 160).permute(1, 3, 0, 2, 4).reshape(9, 3, 160, 160))
                save_file(network.state_dict(), file)
        return autotl_find_backbone(f"{name}@{file}")

    return find


@pytest.fixture(scope="session")
def patches(tmp_path_factory):
    """60 patches of three photographs, which are their classes, and a split of 36, 12 and 12."""
    from PIL import Image
    from skimage import data

    from autotl.data.dataset import ImageDataset
    from autotl.data.digests import digest_file
    from autotl.data.splits import Split

    folder = tmp_path_factory.mktemp("patches")
    paths, labels, classes = [], [], ("astronaut", "chelsea", "coffee")
    for label, name in enumerate(classes):
        photograph = getattr(data, name)()
        rng = np.random.default_rng(label)
        for i in range(20):
            top, left = (rng.integers(side - 96) for side in photograph.shape[:2])
            path = folder / f"{name}-{i:02}.png"
            Image.fromarray(photograph[top : top + 96, left : left + 96]).save(path)
            paths.append(path)
            labels.append(label)
    digests = tuple(map(digest_file, paths))
    dataset = ImageDataset(
        "patches", classes, tuple(paths), np.array(labels), digests, ("",) * len(paths), ("",) * len(paths)
    )
    place = np.arange(60) % 20
    parts = (np.flatnonzero(chosen) for chosen in (place < 12, (place >= 12) & (place < 16), place >= 16))
    return dataset, Split(*parts, seed=0)


@pytest.fixture
def extractor(patches, tmp_path):
    """What a worker extracts with, on an empty store, with PyTorch in fp32."""
    from autotl.engines.torch import TorchEngine
    from autotl.features.extractor import FeatureExtractor
    from autotl.features.store import FeatureStore

    stores = (FeatureStore(tmp_path / name) for name in ("features", "boundary"))
    return FeatureExtractor(*patches, *stores, engine=TorchEngine(bf16=False), device="cpu", threads=1)


@pytest.fixture(scope="session")
def registry():
    """The built-ins and the plugins that are installed."""
    from autotl.registry import load_registry

    return load_registry()


@pytest.fixture
def task(patches, extractor, registry, tmp_path_factory):
    """`task(backbone, head)`: the patches as a trial's problem. Their features are recorded once for all tests."""
    from autotl.features.store import FeatureStore
    from autotl.strategies.base import Task

    dataset, split = patches
    extractor.store, extractor.boundary_store = (
        FeatureStore(tmp_path_factory.getbasetemp() / "recorded" / name) for name in ("features", "boundary")
    )

    def make(backbone, head, **more):
        labels = (dataset.labels[part] for part in (split.train, split.validation))
        metric = registry.metric("accuracy")
        return Task(backbone, registry.head(head), 3, *labels, metric, extractor.of(backbone), **more)

    return make


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """Install a module as a plugin, the way pip would: worker processes find it too."""

    def install(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)  # another test's plugin may have had the same name
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        (site / f"{name}.py").write_text(code)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[autotl]\n{name} = {name}\n")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))

    return install


@pytest.fixture(scope="session")
def open_chromium():
    """`with open_chromium() as browser`: a headless browser of 1,440 by 1,000 pixels, driven by selenium. Skips where
    there is none."""
    binary, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1440,1000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})

    @contextmanager
    def opened():
        browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
        yield browser
        browser.quit()

    return opened


@pytest.fixture(scope="session")
def chromium(open_chromium):
    """The browser that tests share."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def until():
    """`until(holds, seconds)`: wait for something that other processes bring about."""

    def wait(holds, seconds):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not true within {seconds} s"
            time.sleep(0.05)

    return wait
