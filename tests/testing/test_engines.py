"""Each check of an engine finds its violation."""

import pytest

from autotl.engines.torch import TorchEngine


class Zero(TorchEngine):
    def compile(self, *args, **more):
        run = super().compile(*args, **more)
        return lambda images: run(images) * 0


class Reusing(TorchEngine):
    def compile(self, *args, **more):
        run, kept = super().compile(*args, **more), {}

        def again(images):
            rows = run(images)
            kept.setdefault(len(rows), rows)[:] = rows
            return kept[len(rows)]

        return again


class Unversioned(TorchEngine):
    def version(self):
        return ""


class Hoarding(TorchEngine):
    """Ignores the key of its cache."""

    kept = None

    def compile(self, *args, cache=None, key="", **more):
        if cache is None:
            return super().compile(*args, **more)
        self.kept = self.kept or super().compile(*args, **more)
        return self.kept


@pytest.mark.parametrize(
    ("engine", "check", "got"),
    [
        (Zero, "features_match_pytorch", "the mean cosine of features is 0.0"),
        (Unversioned, "version_is_stated", "version is ''"),
        (Reusing, "takes_batches_of_any_length", "a later call changed the features of an earlier one"),
        (Hoarding, "cache_is_keyed", "other weights under another key have the same features"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_engine_that_violates_its_contract(engine, check, got, violation):
    assert got in violation("engine", check, engine(bf16=False))
