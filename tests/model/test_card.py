"""The model card: valid for the Hub, and it says how good the model is."""

import json

from huggingface_hub import ModelCard

from autotl.model.card import add_results
from autotl.model.image_model import load

RESULTS = {
    "test": {"accuracy": 0.8764, "macro_f1": 0.81, "auroc": None, "n": 640},
    "baseline": {"accuracy": 0.31},
    "intervals": {"accuracy": {"low": 0.851, "high": 0.899}},
    "date": "2025-06-01",
    "data": "pets [photos]",
    "images": {"train": 800, "validation": 200, "test": 640},
    "split": {"test": "0123abcd"},
    "seconds": 612.3,
}


def test_a_saved_model_has_a_card_that_says_it_was_not_tested(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "autotl"
    assert card.data.license == "other"
    assert card.data.eval_results is None
    assert "It wasn't tested" in card.text
    assert "astronaut, chelsea, coffee" in card.text


def test_results_are_in_the_card_and_in_the_folder(folder, torch_only):
    add_results(folder, RESULTS)
    card = ModelCard.load(folder / "README.md")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("accuracy", 0.8764),
        ("macro_f1", 0.81),
    ]
    assert "about 88 are classified right" in card.text
    assert "| accuracy | 0.876 | 0.851 to 0.899 | 0.310 |" in card.text
    assert "pets \\[photos\\]" in card.text
    assert "Digest of the test images: `0123abcd`" in card.text
    model = load(folder, registry=torch_only)  # model.json is sound
    assert model.about["test"]["n"] == 640
    assert json.loads((folder / "model.json").read_text())["about"]["date"] == "2025-06-01"


def test_a_model_that_is_saved_again_keeps_its_results(folder, torch_only, tmp_path):
    add_results(folder, RESULTS)
    copy = load(folder, registry=torch_only).save(tmp_path / "copy")
    assert "about 88 are classified right" in (copy / "README.md").read_text()
