"""What to type where a search has no test images."""

import shlex
from pathlib import Path

from autotl.config.study_config import StudyConfig

__all__ = ["how_to_test"]


def how_to_test(config: StudyConfig) -> str:
    """How to get a score on images that neither trained nor chose the model, as a text for the user."""
    remedy = f"Test it on others: autotl evaluate {shlex.quote(str(config.folder / 'model'))} FOLDER."
    if config.test == "none":
        return f"{remedy} A search under another --name without --test none keeps 20 % of the images apart."
    remedy += " Or search under another --name with --test FOLDER"
    train = Path(config.data) / "train"
    if train.is_dir():
        remedy += (
            f", or in the training folder alone, of which 20 % are kept apart: autotl search {shlex.quote(str(train))}"
        )
    return remedy if train.is_dir() else f"{remedy}."
