"""Images and activations in an accelerator's memory: the same as those on disk. The CPU stands in for the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autotl.clock import Deadline
from autotl.data.augmentation import ORIGINAL, View
from autotl.errors import DataError
from autotl.features import extractor as extract
from autotl.features.extractor import FeatureExtractor
from autotl.features.resident import MEMORY_SHARE, ResidentCache, ResidentSamples
from autotl.features.sharing import StoreTimeout
from autotl.testing.scripted import VirtualClock


@pytest.fixture
def on_accelerator(monkeypatch: pytest.MonkeyPatch):
    """`on_accelerator(extractor, memory)`: the extractor of a worker on a device with so many bytes."""
    monkeypatch.setattr(extract, "is_accelerator", lambda device: True)

    def move(extractor: FeatureExtractor, memory: float = 1e9) -> FeatureExtractor:
        return replace(extractor, resident=ResidentCache(lambda: int(memory)))

    return move


@pytest.mark.slow
@pytest.mark.parametrize("view", [ORIGINAL, View("dihedral", 2), View("crop", 0)])
def test_an_accelerators_features_are_those_of_a_cpu(extractor, on_accelerator, tiny, view: View) -> None:
    expected = extractor.of(tiny("test_resnet")).levels("train", "stages+max", view)
    other = on_accelerator(replace(extractor, store=type(extractor.store)(extractor.store.root / "other")))
    assert np.allclose(other.of(tiny("test_resnet")).levels("train", "stages+max", view), expected, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 2])
@pytest.mark.parametrize("view", [ORIGINAL, View("flip", 0)])
def test_resident_samples_are_those_on_disk(extractor, on_accelerator, tiny, block: int, view: View) -> None:
    expected = extractor.of(tiny("test_resnet")).boundary("train", block, view)[:]
    samples = on_accelerator(extractor).of(tiny("test_resnet")).boundary("train", block, view)
    assert isinstance(samples, ResidentSamples)
    assert len(samples) == len(expected)
    assert np.allclose(samples[:].numpy(), expected, rtol=2e-3, atol=2e-3)
    chosen = np.array([7, 0, 35, 7])
    assert torch.equal(samples[chosen], samples[:][chosen])
    assert torch.equal(samples[torch.from_numpy(chosen)], samples[:][chosen])


def test_resident_samples_are_loaded_once(extractor, on_accelerator, tiny, monkeypatch) -> None:
    features = on_accelerator(extractor).of(tiny("test_resnet"))
    first = features.boundary("train", 2)
    monkeypatch.setattr(extract, "AcceleratorLoader", None)
    assert features.boundary("train", 2) is first
    assert features.boundary("train", 0) is features.boundary("train", 0)


def test_where_images_do_not_fit_the_disk_is_used(extractor, on_accelerator, tiny) -> None:
    features = on_accelerator(extractor, memory=1000).of(tiny("test_resnet"))
    for block in (0, 2):
        assert isinstance(features.boundary("train", block), extract.StoredSamples)


def test_where_only_the_images_fit_training_starts_from_them(extractor, on_accelerator, tiny) -> None:
    backbone = tiny("test_resnet")
    size = backbone.preprocessing.size
    num_images = len(extractor.split.train) + len(extractor.split.validation)
    moved = on_accelerator(extractor, memory=(num_images * size * size * 3 + 10) / MEMORY_SHARE)
    features = moved.of(backbone)
    moved.resident.allocate = lambda shape, *args: (
        None
        if len(shape) == 4 and shape[1:] != (size, size, 3)
        else (ResidentCache.allocate(moved.resident, shape, *args))
    )
    assert features.boundary("train", 2) is None
    assert isinstance(features.boundary("train", 0), ResidentSamples)


def test_the_least_recently_used_samples_make_room() -> None:
    cache = ResidentCache(lambda: 1000)
    for key in ("a", "b"):
        cache.keep(key, cache.allocate((300,), torch.uint8, "cpu"))
    cache.get("a")
    # 1,000 bytes are free besides the 600 of the cache: half of 1,600 may be used
    assert cache.allocate((900,), torch.uint8, "cpu") is None
    cache.keep("c", cache.allocate((300,), torch.uint8, "cpu"))
    assert cache.get("b") is None
    assert cache.get("a") is not None


def test_a_changed_file_is_an_error_and_a_deadline_ends_the_loading(extractor, on_accelerator, tiny) -> None:
    late = replace(on_accelerator(extractor), deadline=Deadline(-1.0, VirtualClock()))
    with pytest.raises(StoreTimeout, match="images not decoded"):
        late.of(tiny("test_resnet")).boundary("train", 0)
    paths = list(extractor.dataset.paths)
    paths[extractor.split.train[3]] = paths[extractor.split.train[4]]
    other = on_accelerator(replace(extractor, dataset=replace(extractor.dataset, paths=tuple(paths))))
    with pytest.raises(DataError, match="has changed since the search began"):
        other.of(tiny("test_resnet")).boundary("train", 0)
