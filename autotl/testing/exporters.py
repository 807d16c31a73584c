"""The requirements of an exporter, checked on a tiny network with a head on its features."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from autotl.exports.base import ExportedMember, ExportedModel, ExportedNetwork, Exporter
from autotl.testing.check import Checks, expect
from autotl.testing.images import photographs
from autotl.testing.trial import sample_problem

__all__ = ["EXPORTER"]

EXPORTER = Checks("exporter", Exporter)


@EXPORTER.requires(Exporter)
def is_described(exporter: Exporter) -> None:
    """An exporter has a name of letters, digits, _ and -, a docstring, and a tolerance of at most 0.05."""
    expect(isinstance(exporter.name, str) and re.fullmatch(r"[\w-]+", exporter.name), f"name is {exporter.name!r}")
    expect((type(exporter).__doc__ or "").strip(), "it has no docstring, which the card shows")
    expect(0 < exporter.tolerance <= 0.05, f"tolerance is {exporter.tolerance!r}")


@EXPORTER.requires(Exporter.load)
def answers_as_the_model_does(exporter: Exporter) -> None:
    """What `load` returns gives the model's probabilities for images of several sizes, one at a time and in a batch."""
    import torch

    from autotl.exports.graph import model_graph

    graph, folder = model_graph(_model()), Path(_exported(exporter).name)
    runtime = exporter.load(folder)
    if runtime is None:
        return
    for images in _images():
        with torch.inference_mode():
            expected = graph(torch.from_numpy(images)).numpy()
        answers = runtime(images)
        shape = getattr(answers, "shape", None)
        expect(shape == expected.shape, f"for images {list(images.shape)} the shape is {shape}")
        difference = float(np.abs(answers - expected).max())
        expect(
            difference <= exporter.tolerance, f"for images {list(images.shape)} a probability is {difference:.2g} off"
        )


@EXPORTER.requires(Exporter.example)
def the_example_classifies(exporter: Exporter) -> None:
    """The example runs in a process of its own, without autotl, and prints a line for each image."""
    from PIL import Image

    model, folder = _model(), Path(_exported(exporter).name)
    source = exporter.example(model, folder)
    expect("import autotl" not in source and "from autotl" not in source, "it imports autotl")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in model.classes))
    (folder / "example.py").write_text(source)
    photo = folder / "photo.png"
    Image.fromarray(photographs()[0]).save(photo)
    done = subprocess.run(
        [sys.executable, str(folder / "example.py"), str(photo), str(photo)],
        capture_output=True,
        text=True,
        check=False,
    )
    last_line = done.stderr.strip().rpartition("\n")[2]
    expect(done.returncode == 0, f"it ends with {last_line}")
    lines = done.stdout.splitlines()
    expect(len(lines) == 2 and all(line.startswith(str(photo)) for line in lines), f"it prints {done.stdout[:200]!r}")


def _images() -> Iterator[np.ndarray]:
    """uint8 [N, height, width, 3]."""
    china, flower = photographs()
    yield np.ascontiguousarray(china[None, :200, :301])
    yield np.ascontiguousarray(np.stack([china, flower])[:, :160, :161])
    yield np.ascontiguousarray(flower[None, 100:103, 100:137])


@cache
def _model() -> ExportedModel:
    import torch

    from autotl.model.network import feature_network

    problem = sample_problem()
    module = problem.backbone.build()
    features, layout = feature_network(module, problem.backbone)
    spec = problem.head("dense")
    with torch.random.fork_rng(devices=[]):
        head = spec.build(spec.defaults(), layout.output, 2, seed=0).eval()
    member = ExportedMember(head, (slice(0, layout.output),), (None,), 0.7, 1.0, "fast_extraction · linear")
    network = ExportedNetwork(problem.backbone, module, features, is_tuned=False, members=(member,))
    return ExportedModel("sample", ("china", "flower"), (network,), 2 * problem.backbone.preprocessing.size)


@cache
def _exported(exporter: Exporter) -> tempfile.TemporaryDirectory:
    """A folder with the export of the sample model, removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="autotl-testing-")
    exporter.export(_model(), Path(folder.name))
    return folder
