"""What a check's failure message contains, and how wrong arguments are refused."""

import traceback
from pathlib import Path

import pytest

from autotl.data.sources import FolderSource
from autotl.heads.dense import Linear
from autotl.metrics import Metric
from autotl.testing import CHECKS, ContractViolation


def check_named(component, name):
    (check,) = (check for check in CHECKS[component] if check.name == name)
    return check


def test_a_failure_message_has_the_requirement_what_it_got_and_a_reference():
    with pytest.raises(ContractViolation) as failure:
        check_named("metric", "is_a_finite_number")(Metric("constant", lambda labels, probabilities: None))
    first, expected, got, see = str(failure.value).splitlines()
    assert first == "metric 'constant' violates is_a_finite_number"
    assert expected.startswith("  expected: `compute` returns one finite number")
    assert got == "  got:      with 2 classes the score is None"
    file, line = see.removeprefix("  see:      Metric, ").split(":")
    source = (Path(__file__).parents[2] / file).read_text().splitlines()
    assert "class Metric" in "".join(source[int(line) - 1 : int(line) + 1])


def test_an_exception_of_the_component_is_what_it_got_and_its_traceback_comes_after_the_message():
    class Raising(Linear):
        def build(self, params, num_features, num_classes, seed):
            raise KeyError("width")

    with pytest.raises(ContractViolation, match=r"got:      KeyError: 'width'") as failure:
        check_named("head", "builds_what_its_type_states")(Raising())
    assert failure.value.__cause__ is None
    printed = "".join(traceback.format_exception(failure.value))
    assert printed.index("violates builds_what_its_type_states") < printed.index("KeyError: 'width'\n  see:")
    assert printed.index("  see: ") < printed.rindex("Traceback") < printed.rindex("KeyError: 'width'")


@pytest.mark.parametrize(
    "check", [c for checks in CHECKS.values() for c in checks], ids=lambda c: f"{c.component}-{c.name}"
)
def test_every_check_has_a_requirement_and_a_reference_to_its_contract(check):
    assert check.requirement.endswith(".")
    file = check.reference.split(", ")[-1].partition(":")[0]
    assert (Path(__file__).parents[2] / file).is_file()
    assert "testing" not in file


def test_the_checks_of_a_component_type_have_different_names():
    for checks in CHECKS.values():
        names = [check.name for check in checks]
        assert len(set(names)) == len(names)


def test_a_class_instead_of_an_instance_is_refused():
    with pytest.raises(TypeError, match=r"check\(\) takes an instance: check\(Linear\(\)\)"):
        next(iter(CHECKS["head"]))(Linear)


def test_a_component_of_another_type_is_refused():
    with pytest.raises(TypeError, match="a backbone check takes a Backbone, got"):
        next(iter(CHECKS["backbone"]))(Linear())


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="a dataset check has no option 'device': its options are location"):
        next(iter(CHECKS["dataset"]))(FolderSource(), device="cpu")
