"""How long a backbone takes for an image: measured once, and read by the workers that cannot measure."""

import numpy as np
import pytest

from autotl.features import latency as module
from autotl.features.latency import BATCH, Latency, measure


def test_the_median_of_some_calls_counts_and_the_first_does_not():
    now, seconds, counts = [0.0], iter([9.0, 0.01, 0.02, 9.0]), []

    def compiled(images):
        counts.append(len(images))
        now[0] += next(seconds, 0.02)
        return np.zeros((len(images), 1))

    latency = measure(compiled, 4, lambda: now[0])
    assert latency.milliseconds == pytest.approx(20.0)
    assert set(counts) == {1, BATCH}


def test_a_kept_measurement_is_not_repeated(tmp_path, monkeypatch):
    file = tmp_path / "latency.json"
    module.write_sealed(file, {"milliseconds": 2.0, "batch_milliseconds": 1.0})
    assert module._read(file) == Latency(2.0, 1.0)
    file.write_text("{")
    assert module._read(file) is None
    assert module._read(None) is None
