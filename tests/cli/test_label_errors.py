"""`autotl doctor --labels`: what is printed and written."""

import json
from unittest.mock import create_autospec

import pytest

ERRORS = [
    {
        "path": f"cells/{i}.png",
        "label": "=cat",
        "suggested": "dog",
        "label_probability": 0.01 * i,
        "suggested_probability": 0.9,
        "subset": "train",
    }
    for i in range(30)
]


@pytest.fixture
def found(monkeypatch):
    """The mock of `find_label_errors`, and of the look-up of studies."""
    from autotl import config
    from autotl.coordinator import label_errors

    mock = create_autospec(label_errors.find_label_errors, return_value=ERRORS)
    monkeypatch.setattr(label_errors, "find_label_errors", mock)
    monkeypatch.setattr(config, "find_study", lambda name: None)
    return mock


def test_the_likeliest_are_printed_and_all_are_written(run, found, cells, tmp_path):
    result = run("doctor", cells, "--labels", "pets", "--csv", "errors.csv", "--cache", tmp_path / "cache")
    assert result.exit_code == 0
    assert "30 labels are likely wrong" in result.stdout
    assert "cells/0.png  =cat 0.000, rather dog 0.900" in result.stdout
    assert "cells/20.png" not in result.stdout
    lines = (tmp_path / "errors.csv").read_text().splitlines()
    assert lines[:2] == [
        "path,label,suggested,label_probability,suggested_probability,subset",
        "cells/0.png,'=cat,dog,0.000000,0.900000,train",
    ]
    assert len(lines) == 31
    assert found.call_args.kwargs["data"] == str(cells)


def test_json_has_them(run, found, cells, tmp_path):
    result = run("doctor", cells, "--labels", "pets", "--json", "--cache", tmp_path / "cache")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["label_errors"] == ERRORS


def test_a_file_without_a_study_is_refused(run, cells):
    result = run("doctor", cells, "--csv", "errors.csv")
    assert result.exit_code == 1
    assert "--labels NAME" in result.stderr


def test_a_study_that_does_not_exist_is_an_error_before_the_images_are_read(run, cells):
    result = run("doctor", cells, "--labels", "nothing")
    assert result.exit_code == 1
    assert "There is no study 'nothing'" in result.stderr
