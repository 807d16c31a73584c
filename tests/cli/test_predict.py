"""`autotl predict` and `evaluate`: what is printed and the exit codes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
from typer.testing import Result


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of a model that `load` replaces by a mock of ImageModel, beside photos/."""
    from autotl.model import image_model

    def stream(
        paths: Iterable[Path], on_skip: Callable[..., None], **options: Any
    ) -> Iterator[tuple[Path, np.ndarray]]:
        for path in paths:
            if "broken" in path.name:
                on_skip(path, "it ends too early")
            else:
                yield path, np.array([0.25, 0.75])

    loaded = create_autospec(image_model.ImageModel, instance=True)
    loaded.classes = ("cat", "dog")
    loaded.stream.side_effect = stream
    monkeypatch.setattr(image_model, "load", create_autospec(image_model.load, return_value=loaded))
    (tmp_path / "photos").mkdir()
    for name in ("1.png", "2.png", "broken.png"):
        (tmp_path / "photos" / name).touch()
    folder = tmp_path / "studies" / "pets" / "model"
    folder.mkdir(parents=True)
    (folder / "model.json").touch()
    return folder


def test_predict_prints_a_line_an_image(run: Callable[..., Result], model: Path) -> None:
    result = run("predict", "pets", "photos", "--top", "1")
    assert result.stdout.splitlines() == ["photos/1.png  dog 0.750", "photos/2.png  dog 0.750"]


def test_predict_names_skipped_files_of_a_folder_and_succeeds(run: Callable[..., Result], model: Path) -> None:
    result = run("predict", model, "photos")
    assert result.exit_code == 0
    assert "skipped photos/broken.png: it ends too early" in result.stderr


def test_predict_fails_if_a_typed_file_is_skipped(run: Callable[..., Result], model: Path) -> None:
    assert run("predict", model, "photos/1.png", "photos/broken.png").exit_code == 1


def test_predict_writes_a_csv(run: Callable[..., Result], model: Path, tmp_path: Path) -> None:
    run("predict", model, "photos", "--csv", "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "path,label,probability,label2,probability2",
        "photos/1.png,dog,0.750000,cat,0.250000",
        "photos/2.png,dog,0.750000,cat,0.250000",
    ]


def test_evaluate_prints_scores_classes_and_confusions(
    run: Callable[..., Result], model: Path, api: ModuleType
) -> None:
    api.evaluate.return_value = {
        "subset": "all",
        "scores": {"accuracy": 0.875, "n": 8},
        "classes": ["cat", "dog"],
        "per_class": [
            {"class": "cat", "precision": 1.0, "recall": 0.75, "f1": 0.857, "n": 4},
            {"class": "dog", "precision": 0.8, "recall": 1.0, "f1": 0.889, "n": 4},
        ],
        "confusion": [[3, 1], [0, 4]],
        "skipped": [{"path": "a.png", "reason": "it is empty"}],
        "notes": ["There are no images of 'emu'."],
    }
    result = run("evaluate", "pets", "photos", "--subset", "all")
    assert result.stderr.splitlines() == ["skipped a.png: it is empty", "There are no images of 'emu'."]
    lines = [line.split() for line in result.stdout.splitlines()]
    assert api.evaluate.call_args.kwargs["subset"] == "all"
    assert ["accuracy", "0.8750"] in lines
    assert ["cat", "1.000", "0.750", "0.857", "4"] in lines
    assert ["(1)", "cat", "3", "1"] in lines


def test_many_classes_show_the_most_frequent_confusions(
    run: Callable[..., Result], model: Path, api: ModuleType
) -> None:
    classes = [f"class{i}" for i in range(60)]
    matrix = np.diag(np.full(60, 9))
    matrix[7, 12] = 5
    rows = [{"class": name, "recall": 1.0, "n": 9} for name in classes]
    api.evaluate.return_value = {
        "subset": "all",
        "scores": {"accuracy": 0.9, "n": 545},
        "classes": classes,
        "per_class": rows,
        "confusion": matrix.tolist(),
        "skipped": [],
        "notes": [],
    }
    result = run("evaluate", "pets", "photos")
    assert ["5", "class7", "class12"] in [line.split() for line in result.stdout.splitlines()]
