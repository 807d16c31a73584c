"""The conformance checks on the built-in dataset sources."""

import shutil

import pytest

from autotl.data.sources import FolderSource, ManifestSource
from autotl.testing import dataset_checks


@dataset_checks
def test_the_folder_source_meets_its_contract(check, cells):
    check(FolderSource(), location=str(cells))


@pytest.fixture(scope="module")
def manifest(cells, tmp_path_factory):
    folder = shutil.copytree(cells, tmp_path_factory.mktemp("manifest") / "cells")
    lines = ["path,label,split,group"]
    for i, path in enumerate(sorted(folder.glob("*/*.png"))):
        subset = "test" if i % 4 == 0 else "train"
        lines.append(f"{path.relative_to(folder)},{path.parent.name},{subset},{subset}-{i // 4}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder / "labels.csv"


@dataset_checks
def test_the_manifest_source_meets_its_contract(check, manifest):
    check(ManifestSource(), location=str(manifest))
