"""Simulated searches: no trial is lost, none counted twice, none left RUNNING, and the deadline holds."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("simulation", Path(__file__).with_name("simulation.py"))
simulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_trials_on_16_workers_with_random_faults(seed, tmp_path):
    outcome = simulation.simulate(seed, tmp_path, num_trials=1000, num_workers=16)
    assert outcome.violations(1000) == []


@pytest.mark.parametrize("fault", ["crash", "hang", "device_error", "ignores_deadline"])
def test_many_faults_of_one_sort(fault, tmp_path):
    faults = simulation.Faults(**dict.fromkeys(("crash", "hang", "device_error", "ignores_deadline"), 0.0))
    setattr(faults, fault, 0.3)
    outcome = simulation.simulate(7, tmp_path, num_trials=300, num_workers=8, faults=faults)
    assert outcome.violations(300) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_ten_thousand_trials_on_64_workers_with_random_faults(seed, tmp_path):
    outcome = simulation.simulate(seed, tmp_path)
    assert outcome.violations(10_000) == []
