"""`autotl align`: how near labelled images are to what each backbone was pretrained on, without a search."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autotl.config import study_config

if TYPE_CHECKING:
    from autotl.alignment.card import Alignment

__all__ = ["align"]


def align(
    data: str | os.PathLike[str],
    *,
    backbones: str | Sequence[str] | None = None,
    images: int | None = None,
    test: str | None = None,
    seed: int | None = None,
    devices: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    offline: bool = False,
    download: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> "Alignment":
    """Measure backbones on samples of the training images of a search on `data`. What they compute stays in the cache,
    so a search doesn't compute it again.

    Args:
        data: labelled images: a folder, a CSV manifest, or the name of a data set.
        backbones: names; by default those that a search would take.
        images: of the largest sample; by default 2,048 or all.
        test: a location of test images, or "none", as in a search: test images are never looked at.
        seed: of the split and the sample (0).
        devices: where the networks run, "auto", "cpu" or "cuda:0".
        cache: folder of recorded features.
        offline: download no weights.
        download: "never", "ask" or "always", as in a search.
        log: shows a line to the user.

    Raises:
        AutotlError: unusable images, or no backbone that could be measured.
    """
    from autotl.alignment.align import align_backbones
    from autotl.backbones.weights import no_downloads
    from autotl.coordinator.choose_backbones import DownloadPolicy, choose_backbones
    from autotl.data.loading import load_dataset
    from autotl.data.splits import connected_units, make_split
    from autotl.devices import parse_devices
    from autotl.errors import AutotlError
    from autotl.features.extractor import FeatureExtractor
    from autotl.features.store import FeatureStore
    from autotl.folders import claim_cache
    from autotl.model.device import resolve_device
    from autotl.registry import load_registry

    if images is not None and images < 2:
        raise AutotlError(f"images = {images}: a sample has at least 2 images. Leave it out for the default.")
    config = study_config(
        os.fspath(data),
        backbones=[backbones] if isinstance(backbones, str) else backbones,
        test=test,
        seed=seed,
        devices=devices,
        cache=cache,
        offline=offline or None,
        download=download,
    )
    registry = load_registry()
    claim_cache(config.cache)
    slots = parse_devices(config.devices)
    threads = sum(slot.threads for slot in slots)
    dataset = load_dataset(
        config.data,
        registry.datasets,
        test=None if config.test == "none" else config.test,
        threads=threads,
        cache=config.cache / "digests",
    )
    split = make_split(dataset, config.seed, "none" if config.test == "none" else "auto")
    device = resolve_device(config.devices)
    engine = registry.engine(config.engine, device)
    extractor = FeatureExtractor(
        dataset=dataset,
        split=split,
        store=FeatureStore(config.cache / "features", config.cache_size),
        boundary_store=FeatureStore(config.cache / "boundary", config.cache_size),
        engine=engine,
        device=device,
        threads=threads,
        conversions=config.cache / "engines",
        log=log,
        on_progress=lambda p: log(f"{p.backbone}: {p.done:,} of {p.total:,} images"),
        augmentations=registry.augmentations,
        feature_levels=registry.levels,
    )
    with no_downloads(when=config.forbids_downloads):
        policy = DownloadPolicy(config)
        chosen = choose_backbones(
            config, registry, log, policy=policy, slots=slots, num_images=len(split.train) + len(split.validation)
        )
        return align_backbones(
            extractor,
            chosen,
            split.train,
            connected_units(dataset),
            scores=registry.scores,
            limit=images,
            seed=config.seed,
            log=log,
        )
