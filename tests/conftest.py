"""Real images for every test: solar cells from the elpv-dataset package, and a cache that the whole run shares."""

import csv
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

# trials beside tests share two cores: more threads than that only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")


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


@pytest.fixture
def install_plugin(tmp_path, monkeypatch):
    """Install a module as a plugin, the way pip would: worker processes find it too."""

    def install(name: str, code: str) -> None:
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
