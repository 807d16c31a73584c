"""Images to recorded features: each computed once, found by the image's bytes, the same whoever draws or reads it."""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.data.augmentation import ORIGINAL, POLICIES, View, draw
from autotl.data.preprocessing import load_view
from autotl.engines.torch import TorchEngine
from autotl.errors import AutotlError, DataError
from autotl.features import extractor as extract
from autotl.features.extractor import FeatureExtractor, batches
from autotl.features.store import FeatureStore


class Counting(TorchEngine):
    """PyTorch in fp32, which counts the images it sees."""

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


def again(extractor: FeatureExtractor, **changes) -> FeatureExtractor:
    """Another process's extractor on the same stores."""
    stores = {name: FeatureStore(getattr(extractor, name).root) for name in ("store", "boundary_store")}
    return replace(extractor, engine=Counting(), _known={}, **stores, **changes)


# batches


def test_batches_come_in_order_with_what_was_made_of_them() -> None:
    def doubled(items: list[int]) -> list[int]:
        time.sleep(0.002 * (items[0] % 3))  # the later may be done first
        return [2 * item for item in items]

    got = list(batches(range(23), doubled, threads=4, batch=5))
    assert [items for items, _ in got] == [[*range(i, min(i + 5, 23))] for i in range(0, 23, 5)]
    assert all(made == [2 * item for item in items] for items, made in got)


def test_as_many_batches_are_worked_on_at_once_as_there_are_threads() -> None:
    meet = threading.Barrier(3)
    assert len(list(batches(range(12), lambda items: meet.wait(10), threads=3, batch=2))) == 6


def test_batches_run_two_a_thread_ahead_and_no_further() -> None:
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    reading = batches(items(), len, threads=2, batch=4)
    for done in range(1, 4):
        next(reading)
        time.sleep(0.02)
        assert len(taken) <= 4 * (done + 4)
    reading.close()


def test_what_work_raises_comes_out_where_its_batch_would_have() -> None:
    def work(items: list[int]) -> list[int]:
        if 9 in items:
            raise DataError("the ninth is broken")
        return items

    reading = batches(range(100), work, threads=2, batch=4)
    assert [next(reading)[0], next(reading)[0]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DataError, match="ninth"):
        next(reading)


def test_a_reader_that_leaves_early_leaves_no_threads() -> None:
    reading = batches(range(1000), len, threads=3, batch=4)
    next(reading)
    reading.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batch")]


def test_nothing_to_work_on_gives_no_batch() -> None:
    assert list(batches([], len, threads=2)) == []


# recorded once


def test_features_are_computed_once_and_read_again(counting: FeatureExtractor, tiny) -> None:
    features = counting.of(tiny("test_resnet"))
    first = features.levels("train", "last")
    assert counting.engine.images == 36
    wider = features.levels("train", "stages+max")
    assert counting.engine.images == 36
    assert (wider[:, features.layout.features("last")] == first).all()


def test_another_process_reads_what_was_recorded(counting: FeatureExtractor, tiny) -> None:
    first = counting.of(tiny("test_resnet")).levels("train", "stages")
    other = again(counting)
    assert (other.of(tiny("test_resnet")).levels("train", "stages") == first).all()
    assert other.engine.images == 0


def test_a_renamed_image_hits(counting: FeatureExtractor, tiny, tmp_path: Path) -> None:
    first = counting.of(tiny("test_resnet")).levels("train", "last")
    moved = tuple(Path(shutil.copy(p, tmp_path / f"{i}.png")) for i, p in enumerate(counting.dataset.paths))
    other = again(counting, dataset=replace(counting.dataset, paths=moved))
    assert (other.of(tiny("test_resnet")).levels("train", "last") == first).all()
    assert other.engine.images == 0


def test_ten_new_images_cost_ten_extractions(counting: FeatureExtractor, tiny) -> None:
    split = counting.split
    counting.split = replace(split, train=split.train[10:])
    counting.of(tiny("test_resnet")).levels("train", "last")
    other = again(counting, split=split)
    other.of(tiny("test_resnet")).levels("train", "last")
    assert other.engine.images == 10


def test_rows_come_in_the_order_of_the_part(extractor: FeatureExtractor, tiny) -> None:
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


def test_other_weights_are_other_features(counting: FeatureExtractor, tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from autotl.backbones.timm import autotl_find_backbone

    backbone = tiny("test_resnet")
    first = counting.of(backbone).levels("validation", "last")
    tensors = {name: tensor * 1.1 if tensor.ndim == 4 else tensor for name, tensor in load_file(backbone.file).items()}
    save_file(tensors, tmp_path / "other.safetensors")
    other = counting.of(autotl_find_backbone(f"test_resnet@{tmp_path}/other.safetensors")).levels("validation", "last")
    assert counting.engine.images == 24
    assert not np.allclose(other, first)


def test_an_image_that_has_become_unreadable_is_named(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = list(extractor.dataset.paths)
    paths[extractor.split.train[0]] = broken
    extractor.dataset = replace(extractor.dataset, paths=tuple(paths))
    with pytest.raises(DataError, match=r"broken\.png could be read when the search began"):
        extractor.of(tiny("test_resnet")).levels("train", "last")


def test_extraction_tells_how_far_it_is(extractor: FeatureExtractor, tiny) -> None:
    told = []
    extractor.on_images = lambda what, done, total, rate: told.append((what, done, total))
    backbone = tiny("test_resnet")
    extractor.of(backbone).levels("train", "last", View("flip", 2))
    assert told[-1] == (f"{backbone.name} flip-2", 36, 36)


# views


@pytest.mark.parametrize("policy", POLICIES)
def test_a_view_is_the_same_from_any_thread_and_whatever_was_drawn_before(policy: str, patches) -> None:
    images = [Image.open(path).convert("RGB") for path in patches[0].paths[:8]]
    digests, view = patches[0].digests[:8], View(policy, 1)
    expected = [np.array(draw(*pair, view)) for pair in zip(images, digests, strict=True)]
    torch.rand(7)
    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(lambda pair: np.array(draw(*pair, view)), [*zip(images, digests, strict=True)] * 3)
        assert all(np.array_equal(a, b) for a, b in zip(drawn, expected * 3, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_views_differ_by_their_number_and_by_image(policy: str, patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    numbers = {draw(image, patches[0].digests[0], View(policy, n)).tobytes() for n in range(12)}
    digests = {draw(image, digest, View(policy, 0)).tobytes() for digest in patches[0].digests[:12]}
    everything = {"flip": 1, "dihedral": 7}.get(policy)
    assert len(numbers) == everything if everything else len(numbers) > 1
    assert len(digests) > 1 or policy == "flip"


def test_drawing_leaves_the_random_numbers_of_others_alone(patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw(image, patches[0].digests[0], View("trivial", 3))
    assert torch.equal(torch.rand(3), expected)


def test_turning_a_long_image_cuts_nothing_off() -> None:
    image = Image.fromarray(np.arange(1, 61, dtype=np.uint8).reshape(4, 5, 3))
    everything = sorted(np.array(image).reshape(-1, 3).tolist())
    sizes = set()
    for number in range(20):
        turned = draw(image, "0" * 32, View("dihedral", number))
        assert sorted(np.array(turned).reshape(-1, 3).tolist()) == everything
        sizes.add(turned.size)
    assert sizes == {(5, 4), (4, 5)}


def test_the_plain_view_is_the_image(patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    assert draw(image, patches[0].digests[0], ORIGINAL) is image


def test_views_are_recorded_one_by_one(counting: FeatureExtractor, tiny) -> None:
    features = counting.of(tiny("test_resnet"))
    first, second = (features.levels("train", "last", View("crop", number)) for number in range(2))
    assert counting.engine.images == 72
    assert not np.allclose(first, second)
    assert (features.levels("train", "last", View("crop", 0)) == first).all()
    assert counting.engine.images == 72


# boundaries


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_boundary_rows_are_what_enters_the_block(name: str, extractor: FeatureExtractor, tiny) -> None:
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


def test_before_the_first_block_are_the_images(extractor: FeatureExtractor, tiny) -> None:
    backbone = tiny("test_resnet")
    rows = extractor.of(backbone).boundary("train", 0, View("flip", 0))
    index = extractor.split.train[5]
    image = load_view(
        extractor.dataset.paths[index], extractor.dataset.digests[index], backbone.preprocessing, View("flip", 0)
    )
    assert np.array_equal(rows[np.array([5])][0], image)


def test_recorded_rows_are_read_by_slice_and_by_array(extractor: FeatureExtractor, tiny) -> None:
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


def test_what_is_no_tensor_is_not_recorded(extractor: FeatureExtractor) -> None:
    features = extractor.of(Tuples())
    assert features.boundary("validation", 1) is None
    assert features.levels("validation", "last").shape == (12, 8)


# engines


class Stray(TorchEngine):
    """Computes something else."""

    name = "stray"

    def compile(self, *args, **kwargs) -> Callable:
        run = super().compile(*args, **kwargs)
        return lambda images: run(images)[:, ::-1].copy()


@pytest.mark.parametrize("kept", [False, True])
def test_an_engine_that_strays_is_refused_with_a_line_and_torch_used(
    kept: bool, extractor: FeatureExtractor, tiny, tmp_path: Path
) -> None:
    backbone = tiny("test_resnet")
    expected = again(extractor).of(backbone).levels("validation", "last")
    lines: list[str] = []
    extractor.engine, extractor.log = Stray(bf16=False), lines.append
    extractor.conversions = tmp_path / "engines" if kept else None
    features = extractor.of(backbone)
    assert np.array_equal(features.levels("validation", "last"), expected)
    features.levels("train", "last")
    assert len(lines) == 1
    assert "stray" in lines[0]
    assert "torch is used instead" in lines[0]


def test_another_process_takes_the_verdict_over(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    lines: list[str] = []
    extractor.engine, extractor.log, extractor.conversions = Stray(bf16=False), lines.append, tmp_path / "engines"
    first = extractor.of(tiny("test_resnet")).levels("validation", "last")
    other = again(extractor)
    other.engine = Stray(bf16=False)
    other.engine.compile = None  # not even tried
    assert np.array_equal(other.of(tiny("test_resnet")).levels("validation", "last"), first)
    assert len(lines) == 2


def test_compiling_for_another_device_leaves_the_network_where_it_is(tiny) -> None:
    module = tiny("test_resnet").build()
    TorchEngine(bf16=False).compile(module, 160, "meta", 1, "fp32")
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_the_layout_is_kept_beside_the_engines(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.conversions = tmp_path / "engines"
    layout = extractor.of(tiny("test_resnet")).layout
    other = again(extractor).of(tiny("test_resnet"))
    assert other.layout == layout
    assert "graph_split" not in vars(other)  # no network was built for it


def test_a_damaged_layout_is_found_again(extractor: FeatureExtractor, tiny, tmp_path: Path) -> None:
    extractor.conversions = tmp_path / "engines"
    layout = extractor.of(tiny("test_resnet")).layout
    next(extractor.conversions.glob("layout-*")).write_text("{")
    assert again(extractor).of(tiny("test_resnet")).layout == layout


def test_out_of_time_no_engine_is_made(extractor: FeatureExtractor, tiny) -> None:
    extractor.seconds_left = lambda: 1.0
    with pytest.raises(AutotlError, match="the time was up"):
        extractor.of(tiny("test_resnet")).levels("train", "last")
