"""Features of images: extracted once, found by the image's bytes and by everything that determines them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autotl.atomic_io import read_sealed
from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.levels import BUILT_IN
from autotl.clock import Deadline
from autotl.data.augmentation import View
from autotl.data.preprocessing import load_view
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError, DataError
from autotl.features import extractor as extract
from autotl.features import keys
from autotl.features.extractor import FeatureExtractor
from autotl.features.progress import ExtractionProgress
from autotl.features.store import FeatureStore


class Counting(TorchEngine):
    """PyTorch in fp32. Counts the images it gets."""

    def __init__(self) -> None:
        super().__init__(bf16=False)
        self.images = 0

    def compile(self, *args, **kwargs) -> Callable:
        run = super().compile(*args, **kwargs)

        def counted(images: np.ndarray) -> np.ndarray:
            self.images += len(images)
            return run(images)

        return counted


@pytest.fixture
def counting(extractor: FeatureExtractor) -> FeatureExtractor:
    extractor.engine = Counting()
    return extractor


def another_process(extractor: FeatureExtractor, **changes) -> FeatureExtractor:
    """The extractor of another process on the same stores."""
    stores = {name: FeatureStore(getattr(extractor, name).root) for name in ("store", "boundary_store")}
    return replace(extractor, **{"engine": Counting(), **stores, **changes})


# recording


def test_features_are_computed_once_and_read_again(counting: FeatureExtractor, tiny) -> None:
    features = counting.of(tiny("test_resnet"))
    first = features.levels("train", "last")
    assert counting.engine.images == 36
    wider = features.levels("train", "stages+max")
    assert counting.engine.images == 36
    assert (wider[:, features.layout.slices(BUILT_IN["last"])[0]] == first).all()


def test_another_process_reads_recorded_features(counting: FeatureExtractor, tiny) -> None:
    first = counting.of(tiny("test_resnet")).levels("train", "stages")
    other = another_process(counting)
    assert (other.of(tiny("test_resnet")).levels("train", "stages") == first).all()
    assert other.engine.images == 0


def test_a_renamed_image_is_not_extracted_again(counting: FeatureExtractor, tiny, tmp_path: Path) -> None:
    first = counting.of(tiny("test_resnet")).levels("train", "last")
    moved = tuple(Path(shutil.copy(p, tmp_path / f"{i}.png")) for i, p in enumerate(counting.dataset.paths))
    other = another_process(counting, dataset=replace(counting.dataset, paths=moved))
    assert (other.of(tiny("test_resnet")).levels("train", "last") == first).all()
    assert other.engine.images == 0


def test_ten_new_images_cost_ten_extractions(counting: FeatureExtractor, tiny) -> None:
    split = counting.split
    counting.split = replace(split, train=split.train[10:])
    counting.of(tiny("test_resnet")).levels("train", "last")
    other = another_process(counting, split=split)
    other.of(tiny("test_resnet")).levels("train", "last")
    assert other.engine.images == 10


def test_features_come_in_the_order_of_the_subset(extractor: FeatureExtractor, tiny) -> None:
    backbone = tiny("test_resnet")
    rows = extractor.of(backbone).levels("validation", "last")
    dataset, module = extractor.dataset, extractor.of(backbone).graph_split.module
    for row, index in zip(rows, extractor.split.validation, strict=True):
        image = load_view(dataset.paths[index], dataset.digests[index], backbone.preprocessing)
        with torch.inference_mode():
            expected = module(_normalised(image, backbone.preprocessing))[0].numpy()
        np.testing.assert_allclose(row, expected, rtol=2e-3, atol=1e-3)  # recorded in float16


def _normalised(image: np.ndarray, preprocessing: Preprocessing) -> torch.Tensor:
    x = (image / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(x).float().permute(2, 0, 1)[None]


def test_other_weights_give_other_features(counting: FeatureExtractor, tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from autotl.backbones.timm import autotl_find_backbone

    backbone = tiny("test_resnet")
    first = counting.of(backbone).levels("validation", "last")
    tensors = {name: tensor * 1.1 if tensor.ndim == 4 else tensor for name, tensor in load_file(backbone.file).items()}
    save_file(tensors, tmp_path / "other.safetensors")
    other = counting.of(autotl_find_backbone(f"test_resnet@{tmp_path}/other.safetensors")).levels("validation", "last")
    assert counting.engine.images == 24
    assert not np.allclose(other, first)


def test_an_image_that_became_unreadable_is_named(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = list(extractor.dataset.paths)
    paths[extractor.split.train[0]] = broken
    extractor.dataset = replace(extractor.dataset, paths=tuple(paths))
    with pytest.raises(DataError, match=r"broken\.png has changed since the search began"):
        extractor.of(tiny("test_resnet")).levels("train", "last")


def test_progress_names_what_ran_so_that_speeds_are_kept_apart(extractor: FeatureExtractor, tiny) -> None:
    events: list[ExtractionProgress] = []
    extractor.on_progress = events.append
    backbone = tiny("test_resnet")
    features = extractor.of(backbone)
    features.levels("train", "last", View("flip", 2))
    features.boundary("train", 3)
    features.boundary("train", 0)
    last = [event for event in events if event.done == event.total]
    assert [(e.backbone, e.ran, e.view, e.total) for e in last] == [
        (backbone.name, "levels", "flip-2", 36),
        (backbone.name, "prefix-3", "none", 36),
        (backbone.name, "images", "none", 36),
    ]
    assert all(event.images_per_second > 0 for event in events)


# views


def test_each_view_is_recorded_by_itself(counting: FeatureExtractor, tiny) -> None:
    features = counting.of(tiny("test_resnet"))
    first, second = (features.levels("train", "last", View("crop", number)) for number in range(2))
    assert counting.engine.images == 72
    assert not np.allclose(first, second)
    assert (features.levels("train", "last", View("crop", 0)) == first).all()
    assert counting.engine.images == 72


# boundaries


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_boundary_samples_are_the_input_of_the_block(name: str, extractor: FeatureExtractor, tiny) -> None:
    backbone = tiny(name)
    features = extractor.of(backbone)
    rows = features.boundary("validation", 2)
    index = extractor.split.validation[3]
    image = load_view(extractor.dataset.paths[index], "", backbone.preprocessing)
    with torch.inference_mode():
        expected = features.graph_split.prefix(2)(_normalised(image, backbone.preprocessing))[0].numpy()
    assert len(rows) == 12
    assert rows[3:4].dtype == np.float16
    np.testing.assert_allclose(rows[3:4][0].astype(np.float32), expected, rtol=2e-3, atol=1e-3)


def test_the_input_of_the_first_block_is_the_images(extractor: FeatureExtractor, tiny) -> None:
    backbone = tiny("test_resnet")
    rows = extractor.of(backbone).boundary("train", 0, View("flip", 0))
    index = extractor.split.train[5]
    image = load_view(
        extractor.dataset.paths[index], extractor.dataset.digests[index], backbone.preprocessing, View("flip", 0)
    )
    assert np.array_equal(rows[np.array([5])][0], image)


def test_stored_samples_are_read_by_slice_and_by_array(extractor: FeatureExtractor, tiny) -> None:
    rows = extractor.of(tiny("test_resnet")).boundary("train", 3)
    everything = rows[:]
    assert len(rows) == len(everything) == 36
    chosen = np.array([7, 0, 35, 7])
    assert np.array_equal(rows[chosen], everything[chosen])
    assert np.array_equal(rows[30:], everything[30:])


def test_a_boundary_far_larger_than_the_image_is_not_recorded(
    extractor: FeatureExtractor, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = extractor.of(tiny("test_resnet"))
    size = features.backbone.preprocessing.size
    ratio = np.prod(features.boundary("validation", 1)[:1].shape) * 2 / (size * size * 3)
    monkeypatch.setattr(extract, "BOUNDARY_BYTES", ratio * 0.9)
    assert features.boundary("validation", 1) is None
    assert features.boundary("validation", 4) is not None


class Tuples(Backbone):
    """Passes a tuple between its two blocks, as some vision transformers do."""

    name, is_cached, digest = "tuples", True, "0" * 32
    preprocessing = Preprocessing(32, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def build(self, *, pretrained: bool = True) -> torch.nn.Module:
        class First(torch.nn.Conv2d):
            def forward(self, x):
                return super().forward(x), x

        class Second(torch.nn.Conv2d):
            def forward(self, pair):
                return super().forward(pair[0]).mean((2, 3))

        torch.manual_seed(0)
        return torch.nn.Sequential(First(3, 4, 3), Second(4, 8, 3)).eval()

    def blocks(self, module: torch.nn.Module) -> list[Block]:
        return [Block("first", ("0",)), Block("second", ("1",))]


def test_a_boundary_that_is_not_a_tensor_is_not_recorded(extractor: FeatureExtractor) -> None:
    features = extractor.of(Tuples())
    assert features.boundary("validation", 1) is None
    assert features.levels("validation", "last").shape == (12, 8)


# engines


class Stray(TorchEngine):
    """Computes other features."""

    name = "stray"

    def compile(self, *args, **kwargs) -> Callable:
        run = super().compile(*args, **kwargs)
        return lambda images: run(images)[:, ::-1].copy()


@pytest.mark.parametrize("kept", [False, True])
def test_an_engine_that_differs_from_pytorch_is_replaced_with_one_line_in_the_log(
    kept: bool, extractor: FeatureExtractor, tiny, tmp_path: Path
) -> None:
    backbone = tiny("test_resnet")
    expected = another_process(extractor).of(backbone).levels("validation", "last")
    lines: list[str] = []
    extractor.engine, extractor.log = Stray(bf16=False), lines.append
    extractor.conversions = tmp_path / "engines" if kept else None
    features = extractor.of(backbone)
    assert np.array_equal(features.levels("validation", "last"), expected)
    features.levels("train", "last")
    assert len(lines) == 1
    assert "stray" in lines[0]
    assert "torch is used instead" in lines[0]


def test_another_process_uses_the_recorded_cosine(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    lines: list[str] = []
    extractor.engine, extractor.log, extractor.conversions = Stray(bf16=False), lines.append, tmp_path / "engines"
    first = extractor.of(tiny("test_resnet")).levels("validation", "last")
    other = another_process(extractor)
    other.engine = Stray(bf16=False)
    other.engine.compile = None  # must not be called
    assert np.array_equal(other.of(tiny("test_resnet")).levels("validation", "last"), first)
    assert len(lines) == 2


def test_compiling_for_another_device_leaves_the_network_where_it_is(tiny) -> None:
    module = tiny("test_resnet").build()
    TorchEngine(bf16=False).compile(module, 160, "meta", 1, "fp32")
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_the_layout_is_kept_for_other_processes(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.conversions = tmp_path / "engines"
    layout = extractor.of(tiny("test_resnet")).layout
    other = another_process(extractor).of(tiny("test_resnet"))
    assert other.layout == layout
    assert "graph_split" not in vars(other)  # no network was built for it


def test_a_damaged_layout_file_is_replaced(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.conversions = tmp_path / "engines"
    layout = extractor.of(tiny("test_resnet")).layout
    next(extractor.conversions.glob("layout-*")).write_text("{")
    assert another_process(extractor).of(tiny("test_resnet")).layout == layout


def test_nothing_is_compiled_shortly_before_the_deadline(extractor: FeatureExtractor, tiny) -> None:
    extractor.deadline = Deadline(1.0)
    with pytest.raises(AutotlError, match="the time was up"):
        extractor.of(tiny("test_resnet")).levels("train", "last")


@pytest.mark.parametrize("library", ["timm", "torch"])
def test_features_of_another_library_version_are_extracted_again(
    library: str, counting: FeatureExtractor, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.of(tiny("test_resnet")).levels("train", "last")
    versions = keys.library_version
    monkeypatch.setattr(keys, "library_version", lambda name: "99" if name == library else versions(name))
    other = another_process(counting)
    other.of(tiny("test_resnet")).levels("train", "last")
    assert other.engine.images == 36


def test_features_of_another_engine_version_are_extracted_again(counting: FeatureExtractor, tiny) -> None:
    counting.of(tiny("test_resnet")).levels("train", "last")
    other = another_process(counting)
    other.engine.version = lambda: "torch 99"
    other.of(tiny("test_resnet")).levels("train", "last")
    assert other.engine.images == 36


class Anywhere(Counting):
    """Pretends to run on any device, in fp32."""

    takes_tensors = False

    def precision(self, device: str) -> str:
        return "fp32"

    def compile(self, module, size, device, *args, **kwargs) -> Callable:
        return super().compile(module, size, "cpu", *args, **kwargs)


def test_features_of_another_device_type_are_extracted_again(extractor: FeatureExtractor, tiny) -> None:
    num_extracted = {}
    for device in ("cpu", "cuda:0", "cuda:1"):
        other = another_process(extractor, engine=Anywhere(), device=device)
        other.of(tiny("test_resnet")).levels("train", "last")
        num_extracted[device] = other.engine.images
    assert num_extracted == {"cpu": 36, "cuda:0": 36, "cuda:1": 0}


def test_decoded_images_are_shared_by_all_engines_and_devices(extractor: FeatureExtractor, tiny) -> None:
    folders = set()
    for device in ("cpu", "cuda:0"):
        other = another_process(extractor, engine=Anywhere(), device=device)
        folders.add(other.of(tiny("test_resnet")).boundary("train", 0).table.folder)
    assert len(folders) == 1


@pytest.mark.parametrize("change", ["engine version", "device type", "library version"])
def test_a_cosine_is_not_used_for_another_engine_version_device_type_or_library(
    change: str, extractor: FeatureExtractor, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Anywhere):
        name = "other"

    def cosine_files(device: str, version: str) -> int:
        engine = Other()
        engine.version = lambda: version
        other = another_process(extractor, engine=engine, device=device, conversions=tmp_path / "engines")
        other.of(tiny("test_resnet")).levels("validation", "last")
        return len(list((tmp_path / "engines").glob("cosine-*")))

    assert cosine_files("cpu", "other 1") == 1
    assert cosine_files("cpu", "other 1") == 1
    if change == "library version":
        monkeypatch.setattr(keys, "library_version", lambda name: "99")
    device = "cuda:0" if change == "device type" else "cpu"
    assert cosine_files(device, "other 2" if change == "engine version" else "other 1") == 2


def test_a_damaged_cosine_file_is_replaced(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.engine, extractor.conversions = Stray(bf16=False), tmp_path / "engines"
    first = extractor.of(tiny("test_resnet")).levels("validation", "last")
    (file,) = extractor.conversions.glob("cosine-*")
    file.write_text("")
    other = another_process(extractor, engine=Stray(bf16=False))
    assert np.array_equal(other.of(tiny("test_resnet")).levels("validation", "last"), first)
    assert read_sealed(file) < 0.99


def test_a_cosine_that_was_changed_is_measured_again(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.engine, extractor.conversions = Stray(bf16=False), tmp_path / "engines"
    extractor.of(tiny("test_resnet")).levels("validation", "last")
    (file,) = extractor.conversions.glob("cosine-*")
    file.write_text(file.read_text().replace("0.", "1.", 1))
    other = another_process(extractor, engine=Stray(bf16=False))
    other.of(tiny("test_resnet")).levels("validation", "last")
    assert read_sealed(file) < 0.99


def test_a_layout_that_was_changed_is_measured_again(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.conversions = tmp_path / "engines"
    layout = extractor.of(tiny("test_resnet")).layout
    file = next(extractor.conversions.glob("layout-*"))
    file.write_text(file.read_text().replace(f'"output": {layout.output}', f'"output": {layout.output + 1}'))
    assert another_process(extractor).of(tiny("test_resnet")).layout == layout


def test_a_read_asks_for_no_version_twice(counting: FeatureExtractor, tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    features = counting.of(tiny("test_resnet"))
    features.levels("train", "last")
    monkeypatch.setattr("importlib.metadata.version", None)
    features.levels("train", "last")


def test_a_copy_of_an_extractor_begins_without_networks(extractor: FeatureExtractor, tiny) -> None:
    features = extractor.of(tiny("test_resnet"))
    assert extractor.of(tiny("test_resnet")) is features
    assert replace(extractor).of(tiny("test_resnet")) is not features


def test_nothing_is_recorded_for_an_image_that_has_changed(extractor: FeatureExtractor, tiny, tmp_path) -> None:
    paths = list(extractor.dataset.paths)
    other = tmp_path / "changed.png"
    shutil.copyfile(paths[1], other)
    paths[0] = other
    changed = replace(extractor, dataset=replace(extractor.dataset, paths=tuple(paths)))
    with pytest.raises(DataError, match=r"changed\.png has changed since the search began"):
        changed.of(tiny("test_resnet")).levels("train", "last")
