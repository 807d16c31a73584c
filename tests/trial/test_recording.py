"""One worker records features ahead, and another, with another engine, fits heads on them."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from autotl.engines.recorded import FeatureSource
from autotl.engines.torch import TorchEngine
from autotl.features.progress import ExtractionProgress
from autotl.features.store import StoreUnavailable
from autotl.study.needs import Recording
from autotl.trial import recording as module
from autotl.trial.recording import record
from autotl.workers.messages import Log, Recorded, TrialEnded

from .conftest import enqueue, run_next

pytestmark = pytest.mark.slow


class Accelerator(TorchEngine):
    """PyTorch, whose features are recorded under another key than the CPU worker's own."""

    name = "accelerator"

    def precision(self, device):
        return "fp16"

    def compile(self, module, size, device, threads, precision, cache=None, key=""):
        return super().compile(module, size, device, threads, "fp32", cache, key)


@pytest.fixture
def accelerator(make_state, tmp_path):
    """The state of a worker that records with another engine."""
    state = make_state(tmp_path, cache=tmp_path / "cache")
    state.extractor.engine = Accelerator()
    return state


@pytest.fixture
def helper(make_state, tmp_path, accelerator):
    """The state of a worker beside it, of the same study."""
    return make_state(tmp_path, cache=tmp_path / "cache")


def extracted(messages):
    return [message for message in messages if isinstance(message, ExtractionProgress)]


def test_features_are_recorded_with_their_views_and_where_they_are_is_told(accelerator, messages, tmp_path):
    backbone = accelerator.context.choices.backbones[0]
    assert record(accelerator, Recording(backbone, "flip", 1))
    version = TorchEngine().version()
    assert messages[-1] == Recorded(FeatureSource(tmp_path / "cache", "accelerator", version, "fp16", "cpu"))
    assert {message.view for message in extracted(messages)} == {"none", "flip-0"}
    messages.clear()
    assert record(accelerator, Recording(backbone))
    assert extracted(messages) == []
    assert len(messages) == 1


def test_a_head_is_fitted_on_what_another_engine_has_recorded(accelerator, helper, messages):
    record(accelerator, Recording(accelerator.context.choices.backbones[0]))
    source = messages[-1].source
    messages.clear()
    for head in ("logistic_regression", "linear"):
        enqueue(helper, "fast_extraction", head)
        assert run_next(helper, source=source)
    assert extracted(messages) == []
    assert [trial.state for trial in helper.study.trials] == [TrialState.COMPLETE] * 2
    enqueue(helper, "fast_extraction", "knn")
    assert run_next(helper)  # with features of its own
    assert extracted(messages)


def test_a_trial_that_finds_no_features_is_pruned_and_says_so(accelerator, helper, messages, tmp_path):
    record(accelerator, Recording(accelerator.context.choices.backbones[0]))
    source = messages[-1].source
    gone = FeatureSource(tmp_path / "another", source.engine, source.version, source.precision, source.device_type)
    enqueue(helper, "fast_extraction", "logistic_regression")
    assert run_next(helper, source=gone)
    [trial] = helper.study.trials
    assert trial.state == TrialState.PRUNED
    assert trial.user_attrs["not_recorded"] is True
    assert trial.user_attrs["cause"] == "features of cpu are not recorded, or no longer"
    assert messages[-1] == TrialEnded(0)


def test_a_recording_that_fails_says_why(accelerator, messages, monkeypatch):
    def fail(state, recording):
        raise ValueError("no such layer")

    monkeypatch.setattr(module, "_record", fail)
    assert record(accelerator, Recording("b"))
    assert messages == [Recorded(None, "ValueError: no such layer")]


def test_a_recording_without_time_is_given_up_without_a_word(accelerator, messages):
    accelerator.deadline.move(-1)
    assert record(accelerator, Recording(accelerator.context.choices.backbones[0]))
    assert messages == [Recorded(None)]


def test_a_device_error_ends_the_process(accelerator, messages, monkeypatch):
    def fail(state, recording):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(module, "_record", fail)
    assert not record(accelerator, Recording("b"))
    assert messages[-1].is_device_error


def test_where_the_cache_cannot_be_written_the_studys_folder_is_named(accelerator, messages, monkeypatch):
    attempts = []
    original = module._record

    def unavailable_once(state, recording):
        attempts.append(recording)
        if len(attempts) == 1:
            raise StoreUnavailable("the cache is read-only.")
        return original(state, recording)

    monkeypatch.setattr(module, "_record", unavailable_once)
    assert record(accelerator, Recording(accelerator.context.choices.backbones[0]))
    assert isinstance(messages[0], Log)
    assert messages[-1].source.cache == accelerator.context.folder / "cache"


def test_an_accelerator_measures_a_latency_after_its_first_job_unless_it_is_limited(
    accelerator, helper, messages, monkeypatch
):
    from autotl.trial import costs

    backbone, order = accelerator.context.choices.backbones[0], []
    monkeypatch.setattr(costs, "is_accelerator", lambda device: True)
    real = costs.latency_of
    monkeypatch.setattr(costs, "latency_of", lambda features: order.append(len(messages)) or real(features))
    assert record(accelerator, Recording(backbone))
    told = next(i for i, message in enumerate(messages) if isinstance(message, Recorded))
    assert [count > told for count in order] == [True]
    assert costs.network_cost(accelerator, backbone).milliseconds > 0
    assert accelerator.untimed_backbones == set()

    config = helper.context.config.model_copy(update={"max_latency": 1e6})
    helper.context = replace(helper.context, config=config)
    assert costs.network_cost(helper, backbone).milliseconds > 0
    assert helper.untimed_backbones == set()
