"""When a trial learns from a sample of the images."""

from types import SimpleNamespace

import pytest

from autotl.coordinator.sampling import FIRST_SHARE, MIN_IMAGES, Sampling

RECIPE = {"strategy": "fast_extraction", "backbone": "a"}


class Trials:
    """A study in which all trials run."""

    def __init__(self):
        self.params, self.begun = [], []

    def waiting(self):
        return [SimpleNamespace(number=i) for i in range(len(self.params)) if i not in self.begun]

    def enqueue(self, params):
        self.params.append(params)

    def begin(self, number):
        self.begun.append(number)


@pytest.fixture
def of():
    """`of(num_images)`: of a search that extracts 100 images a second, as it is assumed or was measured."""

    def make(num_images, *, accelerator=False, measured=()):
        choices = SimpleNamespace(accelerator=accelerator, num_classes=2)
        scheduler = SimpleNamespace(
            choices=choices,
            num_images=num_images,
            cheap_queue=[RECIPE],
            unusable=set(),
            measured_speeds=lambda: dict.fromkeys(measured, 0.01),
            pass_seconds=lambda backbone: num_images / 100,
        )
        return Sampling(scheduler, Trials())

    return make


def test_a_pass_that_takes_long_begins_with_a_sample(of) -> None:
    sampling = of(3000)
    job = sampling.job(50.0, 1.0, has_trial=False)
    assert (job.number, job.sample) == (0, int(100 * FIRST_SHARE * 50))
    assert sampling.trials.params == [RECIPE]
    assert sampling.scheduler.cheap_queue == [RECIPE]  # it follows on all images
    assert sampling.job(51.0, 1.0, has_trial=True) is None  # there is time for all


def test_where_there_is_no_time_for_all_images_a_larger_sample_follows(of) -> None:
    sampling = of(30_000)
    first = sampling.job(50.0, 1.0, has_trial=False)
    second = sampling.job(45.0, 1.0, has_trial=True)
    assert second.sample == pytest.approx(100 * 0.6 * 45)
    assert second.sample > 2 * first.sample
    assert sampling.job(20.0, 1.0, has_trial=True) is None  # it would be no larger


def test_a_slow_machine_begins_with_fewer_images_until_its_speed_is_measured(of) -> None:
    assert of(3000).job(50.0, 2.0, has_trial=False).sample == 250
    assert of(3000, measured=["a"]).job(50.0, 2.0, has_trial=False).sample == 500
    assert of(3000).job(1.0, 1.0, has_trial=False).sample == MIN_IMAGES


def test_where_it_is_of_no_use_there_is_no_sample(of) -> None:
    assert of(100).job(60.0, 1.0, has_trial=False) is None  # there is time for all
    assert of(80).job(1.0, 1.0, has_trial=False) is None  # nearly all of them
    assert of(3000, accelerator=True).job(50.0, 1.0, has_trial=False) is None
    assert of(3000).job(50.0, 1.0, has_trial=True) is None  # of an earlier search
