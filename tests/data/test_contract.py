"""The kit on the built-in sources of images."""

import pytest

from autotl.data.sources import FolderSource, ManifestSource
from autotl.testing import dataset_checks


@dataset_checks
def test_a_folder_keeps_the_contract(check, cells):
    check(FolderSource(), location=str(cells))


@pytest.fixture(scope="module")
def manifest(cells, tmp_path_factory):
    lines = ["path,label,split,group"]
    for i, path in enumerate(sorted(cells.glob("*/*.png"))):
        part = "test" if i % 4 == 0 else "train"
        lines.append(f"{path.relative_to(cells)},{path.parent.name},{part},{part}-{i // 4}")
    (cells / "labels.csv").write_text("\n".join(lines))
    yield cells / "labels.csv"
    (cells / "labels.csv").unlink()


@dataset_checks
def test_a_manifest_keeps_the_contract(check, manifest):
    check(ManifestSource(), location=str(manifest))
