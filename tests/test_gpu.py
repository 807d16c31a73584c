"""On a CUDA device: what the other tests let the CPU stand in for. `pytest -m gpu`."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision  # noqa: F401 - decodes JPEGs
from PIL import Image
from skimage import data

from autotl.backbones.base import Preprocessing
from autotl.data.augmentation import BUILT_IN, ORIGINAL, View
from autotl.data.device_images import can_decode, decode_on_gpu
from autotl.data.digests import digest_bytes
from autotl.data.preprocessing import load_view
from autotl.engines.accelerator import deterministic
from autotl.engines.torch import TorchEngine
from autotl.features.pixels import AcceleratorLoader
from autotl.features.resident import ResidentCache, ResidentSamples, free_memory
from autotl.recipe import Recipe
from autotl.strategies.fine_tuning import FineTuning
from autotl.strategies.precision import faster_precision

GPU = "cuda:0"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PREPROCESSING = Preprocessing(96, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def on_gpu(extractor):
    """The extractor of a GPU's worker, in fp32, on a store of its own."""
    store = type(extractor.store)(extractor.store.root.parent / "of the GPU")
    return replace(
        extractor, device=GPU, store=store, decodes=can_decode(GPU), resident=ResidentCache(lambda: free_memory(GPU))
    )


@pytest.fixture
def gpu_task(task, on_gpu):
    """`gpu_task(backbone, head)`: the patches as the problem of a trial on the GPU."""

    def make(backbone, head):
        problem = task(backbone, head)
        problem.features = on_gpu.of(backbone)
        return problem

    return make


def fit(strategy, problem, device, **params):
    recipe = Recipe(
        problem.backbone.name,
        strategy.name,
        problem.head.name,
        3,
        {**strategy.defaults(problem.head), **params},
        problem.head.defaults(),
    )
    return strategy.fit(recipe, problem, device, lambda fraction, score: None)


@pytest.fixture
def jpegs(tmp_path: Path) -> dict[str, Path]:
    """Photographs of several sizes, by digest; one grey, one rotated by its EXIF, one PNG."""
    photograph = Image.fromarray(data.astronaut())
    rotated = Image.Exif()
    rotated[0x0112] = 6
    files = {
        "plain.jpg": ("JPEG", photograph, {}),
        "small.jpg": ("JPEG", photograph.resize((150, 200)), {}),
        "grey.jpg": ("JPEG", photograph.convert("L"), {}),
        "rotated.jpg": ("JPEG", photograph, {"exif": rotated}),
        "progressive.jpg": ("JPEG", photograph.resize((300, 280)), {"progressive": True}),
        "picture.png": ("PNG", photograph.resize((120, 100)), {}),
    }
    path_of = {}
    for name, (format, image, options) in files.items():
        content = io.BytesIO()
        image.save(content, format, **options)
        (tmp_path / name).write_bytes(content.getvalue())
        path_of[digest_bytes(content.getvalue())] = tmp_path / name
    return path_of


def test_the_gpu_decodes_what_a_person_sees(jpegs) -> None:
    assert can_decode(GPU)
    for view in (ORIGINAL, View("dihedral", 1), View("crop", 0)):
        loader = AcceleratorLoader(jpegs, PREPROCESSING, view, BUILT_IN, 2, GPU, decodes=True)
        images = loader.load(list(jpegs)).cpu().numpy()
        loader.close()
        for image, (digest, path) in zip(images, jpegs.items(), strict=True):
            expected = load_view(path.read_bytes(), digest, PREPROCESSING, view)
            difference = np.abs(image.astype(int) - expected.astype(int))
            assert difference.mean() < 3, (path.name, view)


def test_a_broken_jpeg_is_no_crash_of_the_decoder(jpegs) -> None:
    content = next(iter(jpegs.values())).read_bytes()
    with pytest.raises(RuntimeError):
        decode_on_gpu([content[:300] + b"\xff\xd9"], GPU)
    (image,) = decode_on_gpu([content], GPU)
    assert tuple(image.shape) == (3, 512, 512)


@pytest.mark.parametrize("view", [ORIGINAL, View("flip", 0), View("crop", 0)])
def test_extract(extractor, on_gpu, tiny, view: View) -> None:
    expected = extractor.of(tiny("test_resnet")).levels("train", "stages+max", view)
    features = on_gpu.of(tiny("test_resnet")).levels("train", "stages+max", view)
    assert np.allclose(features, expected, rtol=0.02, atol=0.02)


def test_extract_in_the_native_precision(extractor, on_gpu, tiny) -> None:
    expected = extractor.of(tiny("test_vit")).levels("train", "last")
    on_gpu.engine = TorchEngine()
    features = on_gpu.of(tiny("test_vit")).levels("train", "last")
    cosines = (features * expected).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("block", [0, 2])
def test_images_and_activations_stay_on_the_gpu(extractor, on_gpu, tiny, block: int) -> None:
    expected = extractor.of(tiny("test_resnet")).boundary("train", block)[:]
    samples = on_gpu.of(tiny("test_resnet")).boundary("train", block)
    assert isinstance(samples, ResidentSamples)
    assert samples.tensor.is_cuda
    assert np.allclose(samples[:].cpu().numpy(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["fast_extraction", "extract_augment", "fine_tuning"])
def test_each_strategy_learns(registry, gpu_task, tiny, name: str) -> None:
    problem = gpu_task(tiny("test_resnet"), "linear")
    result = fit(registry.strategy(name), problem, GPU)
    accuracy = (result.probabilities.argmax(1) == problem.validation_labels).mean()
    assert accuracy >= 0.75


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_whole_network_learns_in_each_precision(gpu_task, tiny, precision: str) -> None:
    problem = gpu_task(tiny("test_resnet"), "linear")
    params = {"unfrozen_blocks": 99, "policy": "crop_colour", "views": 3, "mixup": 0.2, "epochs": 6}
    result = fit(FineTuning(), problem, GPU, precision=precision, **params)
    losses = [epoch["loss"] for epoch in result.history]
    assert losses[-1] < losses[0]
    assert result.recipe.strategy_params["draws_batches"] is True


def test_a_replay_is_exact(gpu_task, tiny) -> None:
    with deterministic():
        first, again = (
            fit(FineTuning(), gpu_task(tiny("test_resnet"), "linear"), GPU, unfrozen_blocks=2, precision="fp32")
            for _ in range(2)
        )
    assert np.array_equal(first.probabilities, again.probabilities)


def test_out_of_memory_means_smaller_micro_batches(gpu_task, tiny) -> None:
    problem = gpu_task(tiny("test_resnet"), "linear")
    lines = []
    problem.log = lines.append
    problem.features.boundary("train", 0)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + (40 << 20)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        result = fit(FineTuning(), problem, GPU, unfrozen_blocks=99, epochs=1, precision="fp32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(result.probabilities).all()
    assert all("continuing with" in line for line in lines)


def test_bf16_or_fp16_is_chosen_without_a_measurement(tiny) -> None:
    network = torch.nn.Linear(2, 2).to(GPU)
    x, y = torch.zeros(2, 2, device=GPU), torch.zeros(2, dtype=torch.long, device=GPU)
    assert faster_precision(network, x, y, GPU, "a network") == TorchEngine().precision(GPU) != "fp32"


def test_a_gpu_and_a_cpu_predict_the_same(registry, gpu_task, tiny, patches, tmp_path: Path) -> None:
    from autotl.model.image_model import ImageModel, load
    from autotl.model.member import Member

    dataset, split = patches
    backbone = tiny("test_resnet")
    result = fit(FineTuning(), gpu_task(backbone, "linear"), GPU, unfrozen_blocks=2)
    member = Member(result.recipe, result.fitted, backbone.digest, 3)
    model = ImageModel(
        dataset.classes, [member], {backbone.digest: backbone}, registry=registry, about={"versions": {}}
    )
    folder = model.save(tmp_path / "model")
    paths = [dataset.paths[i] for i in split.validation]
    on_cpu, on_gpu = (load(folder, device, registry=registry).predict_proba(paths) for device in ("cpu", GPU))
    assert np.abs(on_cpu - on_gpu).max() < 0.03
    assert np.abs(on_gpu - result.probabilities).max() < 0.05
