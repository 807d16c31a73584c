"""The same images as a folder, in Parquet files, in tar archives, and at addresses of S3: the same search."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fire import Outcome, by_fire

from autotl.features.index import RECORD
from autotl.study.storage import open_storage
from autotl.study.study import load_study

PHOTOS = Path(os.environ.get("AUTOTL_SOAK_PHOTOS", Path(__file__).resolve().parents[2].parent / "shared/data/clothing"))
"""Class folders in folders that are named like subsets."""
SEARCH = (
    *("--devices", "cpu", "--trials", "4", "--seed", "0", "--joined", "1", "--json"),
    *("--backbone", "efficientnet_lite0", "--strategy", "fast_extraction"),
)


def _images() -> dict[str, list[tuple[Path, str]]]:
    """Files and classes, by subset."""
    found: dict[str, list[tuple[Path, str]]] = {}
    for file in sorted(PHOTOS.glob("*/*/*")):
        found.setdefault(file.parts[-3], []).append((file, file.parts[-2]))
    return found


def _write_parquet(folder: Path) -> None:
    folder.mkdir()
    for subset, images in _images().items():
        rows = [{"bytes": file.read_bytes(), "path": file.name} for file, _ in images]
        table = pa.table({"image": rows, "label": [label for _, label in images]})
        pq.write_table(table, folder / f"{subset}-00000-of-00001.parquet", row_group_size=100)


def _write_tar(folder: Path) -> None:
    folder.mkdir()
    for subset, images in _images().items():
        with tarfile.open(folder / f"{subset}-000000.tar", "w") as archive:
            for number, (file, label) in enumerate(images):
                archive.add(file, f"{number:06}{file.suffix}")
                info = tarfile.TarInfo(f"{number:06}.cls")
                info.size = len(label.encode())
                archive.addfile(info, io.BytesIO(label.encode()))


def _search(folder: Path, name: str, location: str, environment: dict[str, str]) -> Path:
    """The folder that holds a search's study and cache."""
    home = folder / name
    home.mkdir()
    command = [sys.executable, "-m", "autotl", "search", location, "--output", str(home), "--name", "study", *SEARCH]
    variables = {**os.environ, **environment, "AUTOTL_CACHE": str(home / "cache")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return home


def _split(home: Path) -> dict[str, list[str]]:
    return json.loads((home / "study" / "split.json").read_text())["digests"]


def _scores(home: Path) -> dict[str, object]:
    """Of all trials, and of the model on the test images, in full."""
    result = json.loads((home / "study" / "result.json").read_text())
    trials = load_study(home / "study", storage=open_storage(home / "study")).trials
    return {"trials": [(t.number, t.state.name, t.params, t.value) for t in trials], "test": result["test"]}


def _features(home: Path) -> dict[tuple[str, str], bytes]:
    """Each recorded row by its table and its image."""
    rows = {}
    for table in sorted((home / "cache" / "features").glob("*/index.bin")):
        spec = json.loads((table.parent / "spec.json").read_text())
        size = int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize
        content = (table.parent / "rows.bin").read_bytes()
        for record in np.fromfile(table, RECORD):
            begin = int(record["row"]) * size
            rows[table.parent.name, record["digest"].tobytes().hex()] = content[begin : begin + size]
    return rows


@by_fire
def clothing_in_every_container(folder: Path) -> Outcome:
    """Each with a cache of its own, so that each decodes its images and records its features itself."""
    if not PHOTOS.is_dir():
        return Outcome(f"{PHOTOS} isn't here", "photographs in folders that are named like subsets", False)
    import s3fs
    from moto.server import ThreadedMotoServer

    _write_parquet(folder / "parquet-files")
    _write_tar(folder / "tar-files")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    s3 = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}
    os.environ |= s3
    try:
        system = s3fs.S3FileSystem()
        system.mkdir("photos")
        system.put(str(folder / "parquet-files") + "/", "photos/clothing/", recursive=True)
        homes = {
            "folder": _search(folder, "folder", str(PHOTOS), {}),
            "Parquet": _search(folder, "parquet", str(folder / "parquet-files"), {}),
            "tar": _search(folder, "tar", str(folder / "tar-files"), {}),
            "Parquet on S3": _search(folder, "s3", "s3://photos/clothing", s3),
        }
    finally:
        server.stop()
        for name in s3:
            del os.environ[name]
    expected = [of(homes["folder"]) for of in (_split, _features, _scores)]
    differing = [
        f"{name}: another {what}"
        for name, home in homes.items()
        for what, of, same in zip(("split", "features", "scores"), (_split, _features, _scores), expected, strict=True)
        if of(home) != same
    ]
    sizes = ", ".join(f"{name} {len(digests)}" for name, digests in expected[0].items())
    values = ", ".join(f"{trial[3]:.4f}" for trial in expected[2]["trials"])
    figure = (
        f"{sizes} images, {len(expected[1])} rows of features, trials {values}; {'; '.join(differing) or 'all equal'}"
    )
    shutil.rmtree(folder)
    folder.mkdir()
    return Outcome(figure, "same split, bit-equal features and equal scores in each", not differing)
