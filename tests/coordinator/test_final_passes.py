"""When a worker records what the model needs of the test images."""

from types import SimpleNamespace

import pytest

from autotl.coordinator.final_passes import COMPILE_SECONDS, LEAST_SECONDS, MARGIN, FinalPasses
from autotl.workers.messages import RecordTest

SPEEDS = {"a": 0.1, "b": 0.2}
CPU = SimpleNamespace(joined=False, slot=SimpleNamespace(is_accelerator=False))
GPU = SimpleNamespace(joined=False, slot=SimpleNamespace(is_accelerator=True))


@pytest.fixture
def kept():
    """The networks of the fitted models that are kept: backbone, whether it is fine-tuned, number of views."""
    return {}


@pytest.fixture
def of(kept):
    def make(*workers, num_test=100):
        scheduler = SimpleNamespace(measured_speeds=lambda: SPEEDS, default_seconds_per_image=1.0)
        pool = SimpleNamespace(workers=workers)
        return FinalPasses(num_test, scheduler, SimpleNamespace(networks=lambda: kept), pool)

    return make


def test_each_view_of_each_network_is_a_pass(of, kept) -> None:
    passes = of(CPU)
    assert passes.seconds() == 0
    kept |= {"a": ("a", False, 2), "b/7": ("b", True, 1), "c": ("c", False, 1)}
    assert passes.seconds() == pytest.approx(2 * 10 + 20 + COMPILE_SECONDS + 100)
    assert of(CPU, num_test=0).seconds() == 0


def test_a_worker_records_them_once_shortly_before_the_trials_end(of, kept) -> None:
    passes = of(CPU, CPU)
    assert passes.job(CPU, 1.0) is None  # nothing is kept
    kept["a"] = ("a", False, 1)
    due = LEAST_SECONDS + 2 * MARGIN * 10
    assert passes.job(CPU, due + 1) is None
    assert passes.job(CPU, due - 1) == RecordTest(SPEEDS, due - 1)
    assert passes.seconds() == 0
    assert passes.job(CPU, 1.0) is None


def test_a_network_that_is_new_since_is_recorded_too(of, kept) -> None:
    passes = of(CPU)
    kept["a"] = ("a", False, 1)
    assert passes.job(CPU, 1.0)
    kept |= {"a": ("a", False, 3), "b/7": ("b", True, 1)}
    assert passes.seconds() == pytest.approx(2 * 10 + 20 + COMPILE_SECONDS)
    assert passes.job(CPU, 1.0)


def test_the_worker_that_makes_the_model_records_them(of, kept) -> None:
    kept["a"] = ("a", False, 1)
    joined = SimpleNamespace(joined=True, slot=CPU.slot)
    passes = of(GPU, CPU, joined)
    assert passes.job(joined, 1.0) is None
    assert passes.job(CPU, 1.0) is None
    assert passes.job(GPU, 1.0)
